"""Exact PLD on the CPU, in torch and NumPy alone.

A teacher's ranking comes of `cpu_sort`. Rows are taken a chunk at a time, so that what is worked on stays near the
core, and each chunk's gradient is written where it is to lie. A call of torch or NumPy costs as much as thousands of
logits: they are few.

The sums run over ascending teacher logits, the label last: X_k is a running sum there, and G_k one from the other end
(symbols as in `losses.ranking`). In float32 they are exact to its rounding as long as no X_k of a place with weight is
many orders below the largest; torch adds them up in float64. Rows of which that is not so, and rows that hold a NaN
or an infinity that counts, are given to the plain way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pldistill.kernels.cpu_sort import MOST_CLASSES, Bits, Flags, Floats, rank
from pldistill.kernels.cpu_threads import share, threads_for_rows
from pldistill.kernels.cpu_workspace import Workspace, workspace_for
from pldistill.kernels.types import BY_TEACHER, Plain, Weighting, gradient_dtype

__all__ = ["MOST_CLASSES", "pld"]

_CHUNK = 2**17  # logits: of fewer, the calls of torch and NumPy for each chunk keep threads waiting for one another
_PARALLEL = 2**15  # logits: of fewer, torch itself does no work on several threads
_TINY = float(np.finfo(np.float32).tiny)
_LOST = 2.0**24 * _TINY  # a worth below float32's range is no digit of a sum above this


@dataclass(frozen=True)
class Rows:
    """The rows of a call, or of a chunk of it: what is read (R, C), (R,), and where to write."""

    student: Tensor
    teacher: Tensor
    labels: Bits
    losses: Floats
    gradient: Tensor
    hard: Flags

    def part(self, rows: slice) -> Rows:
        return Rows(
            self.student[rows],
            self.teacher[rows],
            self.labels[rows],
            self.losses[rows],
            self.gradient[rows],
            self.hard[rows],
        )


def pld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    reduction: str,
    plain: Plain,
    weighting: Weighting = BY_TEACHER,
) -> tuple[Tensor, Tensor]:
    """A kernel, see `kernels`."""
    rows, classes = student.shape
    y = labels.numpy()
    left_out = y == ignore_index
    count = rows - np.count_nonzero(left_out)
    if count < rows:
        y = np.where(left_out, 0, y)
    over = max(count, 1) if reduction == "mean" else 1
    losses = torch.empty(rows, dtype=torch.float32)
    gradient = torch.empty(rows, classes, dtype=gradient_dtype(student.dtype, reduction))
    hard = np.zeros(rows, dtype=bool)
    whole = Rows(student, teacher, y, losses.numpy(), gradient, hard)

    def compute(part: slice) -> None:
        _compute(whole.part(part), temperature, over, weighting)

    with np.errstate(all="ignore"):
        if rows * classes >= _PARALLEL:
            threads = threads_for_rows()
            share(compute, _chunks(rows, classes, threads), threads)
        elif rows:
            _compute(whole, temperature, over, weighting)
    total = np.add.reduce(losses.numpy(), dtype=np.float64)
    if count < rows or np.count_nonzero(hard) or not math.isfinite(total):
        hard = (hard | ~np.isfinite(losses.numpy())) & ~left_out
        at = torch.from_numpy(np.flatnonzero(hard))
        exact, slopes = plain(student[at], teacher[at], torch.from_numpy(y)[at], temperature)
        losses[at] = (exact / over).to(losses.dtype)
        gradient[at] = (slopes / over).to(gradient.dtype)
        out = torch.from_numpy(np.flatnonzero(left_out))
        losses[out] = 0
        gradient[out] = 0
        total = np.add.reduce(losses.numpy(), dtype=np.float64)
    if reduction == "none":
        return losses, gradient
    loss = torch.empty((), dtype=torch.float32)
    loss.numpy()[()] = total if count or reduction == "sum" else math.nan
    return loss, gradient


def _chunks(rows: int, classes: int, threads: int) -> list[slice]:
    """The rows of each chunk: as few chunks as may be, as many for each thread, and as even."""
    count = threads * math.ceil(rows / max(1, _CHUNK // classes) / threads)
    step = math.ceil(rows / min(rows, count))
    return [slice(at, at + step) for at in range(0, rows, step)]


def _compute(rows: Rows, temperature: float, over: int, weighting: Weighting) -> None:
    """Write a chunk's losses and gradient, both divided by `over`; mark the rows of which they are worth nothing.

    A loss that is not finite marks its row too.
    """
    workspace = workspace_for(*rows.student.shape)
    rank(workspace, rows.teacher, rows.labels, rows.hard)
    _take(workspace, rows.student)
    _weigh(workspace, temperature, over, weighting)
    masked = _sum_what_is_left(workspace, rows.hard)
    _find_slopes(workspace)
    _find_losses(workspace, rows.losses, masked)
    workspace.flat_p[workspace.flat_bits] = workspace.flat_t  # from ranks back to classes
    rows.gradient.copy_(workspace.p)


def _sum_what_is_left(workspace: Workspace, hard: Flags) -> bool:
    """Leave X in `left`, no less than the least float32; return whether any is too small, and mark the rows of which
    a weighted rank's is."""
    left = workspace.numpy_left
    torch.cumsum(workspace.worth, 1, out=workspace.left)
    smallest = _LOST * workspace.classes
    if np.minimum.reduce(left[:, 0]) >= smallest:  # X rises along a row; a NaN is not above
        return False
    hard |= ~(np.where(workspace.numpy_p < 0, left, 1).min(1) >= smallest)
    np.maximum(left, _TINY, out=left)
    return True


def _find_slopes(workspace: Workspace) -> None:
    """Leave the gradient, over `over` and rank by rank, in `t`: with `before` the sums of α / X over the ranks before,

        e^{s_i} G_i - α_i = e^{s_i} Σ_{k<i} α_k / X_k - α_i / X_i (X_i - e^{s_i})

    of which X_i - e^{s_i} is the X of the rank behind, `one_left`, and has all its digits.
    """
    worth, one_left, before = workspace.numpy_worth, workspace.numpy_one_left, workspace.numpy_before
    share = np.divide(workspace.numpy_p, workspace.numpy_left, out=workspace.numpy_t)  # -α / X
    np.copyto(workspace.numpy_upto, share[:, ::-1])
    workspace.upto.cumsum_(1)
    one_left[:, 0] = before[:, 0] = 0  # another row's last is there
    np.multiply(before, worth[:, ::-1], out=before)
    np.multiply(share, one_left, out=share)
    np.subtract(share, before[:, ::-1], out=share)


def _find_losses(workspace: Workspace, losses: Floats, masked: bool) -> None:
    """Write Σ α log(1 + (X - e^s) / e^s), which is -Σ α log p."""
    worth, alpha = workspace.numpy_worth, workspace.numpy_p
    np.divide(workspace.numpy_one_left, worth, out=worth)
    costs = np.multiply(workspace.worth.log1p_().numpy(), alpha, out=worth)
    if masked:
        costs[alpha == 0] = 0
    np.negative(workspace.worth.sum(1).numpy(), out=losses)


def _take(workspace: Workspace, student: Tensor) -> None:
    """Bring the student's worths into the ranking's order, in `worth`: they are as good over the row's largest."""
    s = (student if student.dtype == torch.float32 else workspace.worth.copy_(student)).numpy()
    np.subtract(s, np.maximum.reduce(s, axis=1, keepdims=True), out=workspace.numpy_p)
    workspace.p.exp_()
    np.take(workspace.flat_p, workspace.bits, out=workspace.numpy_worth, mode="wrap")  # "raise" would copy


def _weigh(workspace: Workspace, temperature: float, over: int, weighting: Weighting) -> None:
    """Leave -α / over in `p`, the label's last."""
    t, p = workspace.numpy_t, workspace.numpy_p
    if weighting.others is not None:
        _weigh_apart(workspace, temperature, over, weighting.label, weighting.others)
        return
    np.subtract(t, np.maximum.reduce(t[:, -2:], axis=1, keepdims=True), out=t)
    if temperature != 1:
        np.divide(t, np.float32(temperature), out=t)
    worths = torch.exp(workspace.t, out=workspace.p)
    np.divide(p, worths.sum(1, keepdim=True).numpy() * np.float32(-over), out=p)
    if weighting.label > 0:
        own = -over * p[:, -1]
        low = own < weighting.label
        p[:, :-1] *= np.where(low, (1 - np.float32(weighting.label)) / (1 - own), np.float32(1))[:, None]
        p[low, -1] = -weighting.label / over


def _weigh_apart(workspace: Workspace, temperature: float, over: int, label: float, others: float) -> None:
    """Leave -α / over in `p`, of a label and of the ranks behind it that are weighted apart."""
    t, p = workspace.numpy_t, workspace.numpy_p
    if workspace.classes > 1:  # one class has nobody behind it
        np.subtract(t, t[:, -2:-1].copy(), out=t)
        np.divide(t, np.float32(temperature), out=t)
        torch.exp(workspace.t, out=workspace.p)
        p[:, -1] = 0
        total = workspace.p.sum(1, keepdim=True).numpy()
        np.multiply(p, np.float32(-others / over) / total, out=p)
    p[:, -1] = -label / over
