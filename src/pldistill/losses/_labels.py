"""Soft labels, class weights and sample weights, for any loss that is a sum over rows.

With L_c(n) the loss of row n whose label is c, y the labels, w a weight for each class, v one for each row:

    hard labels   Σ_n v_n w_{y_n} L_{y_n}(n)        "mean" divides by Σ_n v_n w_{y_n}
    soft labels   Σ_n v_n Σ_c w_c y_nc L_c(n)       "mean" divides by Σ_n v_n

which is what torch's `cross_entropy` computes with `weight` and with probabilities for a target, and it is a teacher's
PLD that is one-hot on the label. Rows of `ignore_index` have no part in either sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from pldistill.losses._inputs import (
    check_floats,
    check_not_negative,
    check_reduction,
    computing_dtype,
    is_plain_eager,
)

Loss = TypeVar("Loss", bound=Callable[..., Tensor])
_DEFAULTS = (("class_dim", 1), ("ignore_index", -100))


def of_rows(*, reads_labels: bool) -> Callable[[Loss], Loss]:
    """Let a loss of (student_logits, teacher_logits, labels) take `class_weight`, `sample_weight` and soft labels.

    The loss declares the two keywords and never sees them. One that `reads_labels` is asked once for each place of a
    soft label, the largest first, until no row has any left; another counts the rows of a soft label, and no more.
    """

    def decorate(loss: Loss) -> Loss:
        @functools.wraps(loss)
        def call(
            student_logits: Tensor,
            teacher_logits: Tensor,
            labels: Tensor | None = None,
            *,
            class_weight: Tensor | None = None,
            sample_weight: Tensor | None = None,
            **options: object,
        ) -> Tensor:
            soft = isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() > 1
            if not soft and class_weight is None and sample_weight is None:
                return loss(student_logits, teacher_logits, labels, **options)
            reduction, ask = options.pop("reduction", "mean"), functools.partial(loss, reduction="none", **options)
            check_reduction(reduction)
            class_dim, ignored = (cast(int, options.get(name, value)) for name, value in _DEFAULTS)
            if soft:
                assert labels is not None
                _check_soft(labels, student_logits)
                ask_row = functools.partial(ask, student_logits, teacher_logits)
                rows = _of_soft(ask_row, labels, class_weight, class_dim, ignored) if reads_labels else ask_row(None)
                parts = torch.ones_like(rows)
            else:
                rows = ask(student_logits, teacher_logits, labels)  # checks the labels
                parts = _parts(rows, labels, class_weight, student_logits.shape[class_dim], ignored)
            if sample_weight is not None:
                _check_weight("sample_weight", sample_weight, tuple(rows.shape), rows)
                parts = parts * sample_weight.detach().to(rows.dtype)
                rows = _times(rows, sample_weight.detach().to(rows.dtype)) if soft else rows
            return _reduce(rows if soft else _times(rows, parts), parts, str(reduction))

        return cast(Loss, call)

    return decorate


def _of_soft(
    ask: Callable[[Tensor], Tensor], labels: Tensor, class_weight: Tensor | None, class_dim: int, ignored: int
) -> Tensor:
    """Σ_c w_c y_c L_c for each row."""
    labels = labels.detach().movedim(class_dim, -1).to(computing_dtype(labels))
    if class_weight is not None:
        _check_weight("class_weight", class_weight, (labels.shape[-1],), labels)
        labels = labels * class_weight.detach().to(labels.dtype)
    places = max(1, int((labels > 0).sum(-1).max())) if labels.numel() else 1
    values, classes = labels.topk(places, dim=-1)
    total: Tensor | None = None
    for place in range(places):
        part = values[..., place]
        rows = ask(classes[..., place].masked_fill(part == 0, ignored))
        rows = _times(rows, part.to(rows.dtype))
        total = rows if total is None else total + rows
    assert total is not None
    return total


def _parts(rows: Tensor, labels: Tensor | None, class_weight: Tensor | None, classes: int, ignored: int) -> Tensor:
    """(N, d1, ...): what each row counts among all."""
    if labels is None:
        if class_weight is not None:
            raise ValueError("labels: expected class indices beside class_weight, got None")
        return torch.ones_like(rows)
    kept = labels != ignored
    if class_weight is None:
        return kept.to(rows.dtype)
    _check_weight("class_weight", class_weight, (classes,), rows)
    own = class_weight.detach().to(rows.dtype)[labels.masked_fill(~kept, 0).long()]
    return own.masked_fill(~kept, 0)


def _times(rows: Tensor, weights: Tensor) -> Tensor:
    """A row of weight 0 costs nothing, whatever its loss is."""
    return rows.masked_fill(weights == 0, 0) * weights


def _reduce(rows: Tensor, parts: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    whole = parts.sum()
    return (rows.sum() / whole.masked_fill(whole == 0, 1)).masked_fill(whole == 0, math.nan)


def _check_soft(labels: Tensor, logits: Tensor) -> None:
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be class indices of an integer dtype, or probabilities of the logits' shape "
            f"{tuple(logits.shape)}, got {tuple(labels.shape)} of {labels.dtype}"
        )
    if labels.device != logits.device:
        raise ValueError(f"labels are on {labels.device} but the logits on {logits.device}")
    if not is_plain_eager(labels):
        raise ValueError(
            "labels must be class indices under torch.compile and torch.func, got probabilities; mix the losses of the "
            "classes instead: share * loss(a) + (1 - share) * loss(b)"
        )
    check_not_negative("labels", labels)


def _check_weight(name: str, weight: object, shape: tuple[int, ...], like: Tensor) -> None:
    check_floats(name, weight)
    assert isinstance(weight, Tensor)
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(weight.shape)}")
    if weight.device != like.device:
        raise ValueError(f"{name} is on {weight.device} but the logits on {like.device}")
    check_not_negative(name, weight)
