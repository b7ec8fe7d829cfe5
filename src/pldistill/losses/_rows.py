"""A batch of any shape as rows of classes, and the way back: every loss is written for (M, C) alone.

A *row* is one sample, or one position of one sample where the logits have shape (N, C, d1, ...).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_rows(tensor: Tensor) -> Tensor:
    """(N, C, d1, ...) -> (N * d1 * ..., C)."""
    return tensor if tensor.dim() == 2 else tensor.movedim(1, -1).flatten(0, -2)


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 where any tensor is: half precision is never computed in."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def kept_rows(labels: Tensor, ignore_index: int) -> Tensor:
    """(M,) bool, False where the label is `ignore_index`. Elsewhere None in its place means that every row counts."""
    return (labels != ignore_index).flatten()


def blank(tensor: Tensor, kept: Tensor | None) -> Tensor:
    """Zero the rows that do not count, so that nothing in them, a NaN included, reaches loss or gradient."""
    return tensor if kept is None else tensor.masked_fill(~kept.view(-1, *[1] * (tensor.dim() - 1)), 0)


def reduce_rows(losses: Tensor, kept: Tensor | None, reduction: str, logits: Tensor) -> Tensor:
    """Reduce (M,) losses as torch's cross_entropy does: the mean is over the rows that count, NaN if there are none."""
    losses = blank(losses, kept)
    if reduction == "none":
        return losses.view(logits.shape[:1] + logits.shape[2:])
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if kept is None else _mean_over(losses.sum(), kept)


def _mean_over(total: Tensor, kept: Tensor) -> Tensor:
    """`total` / count, where no row at all gives NaN with a zero gradient: backward never meets a division by zero."""
    count = kept.sum()
    return (total / count.clamp(min=1)).masked_fill(count == 0, math.nan)


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """(M, C) -> the shape of `like`, (N, C, d1, ...)."""
    return rows.view(like.shape[:1] + like.shape[2:] + rows.shape[1:]).movedim(-1, 1)
