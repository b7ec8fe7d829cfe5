"""Losses of tokens: any loss of rows on the logits (B, S, V) of a language model.

Symbols: B sequences, S positions, V tokens in the vocabulary. A row is a position whose label is not `ignore_index`.
The logits at position i of a causal model say what token i + 1 is: with `shift` they are compared with that label.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from numbers import Real

import torch
from torch import Tensor

from pldistill.losses._inputs import (
    check_flag,
    check_floats,
    check_ignore_index,
    check_integers,
    check_tensor,
    computing_dtype,
)
from pldistill.losses.logit import dist
from pldistill.losses.logit_relation import skd
from pldistill.losses.top_k import TeacherTopK, pld_from_top_k

# What `tokens` says to the loss itself.
_OWN = ("reduction", "class_dim", "sample_weight")
_COUPLED = (dist, skd)  # whose loss of a batch is no sum over its rows


def tokens(
    loss: Callable[..., Tensor],
    student_logits: Tensor,
    teacher_logits: Tensor | TeacherTopK,
    labels: Tensor,
    *,
    shift: bool = True,
    num_items: float | Tensor | None = None,
    ignore_index: int = -100,
    common_vocabulary: bool = False,
    **options: object,
) -> Tensor:
    """A loss of rows, summed over the valid positions and divided by their number: Σ_(b, i) L(s_bi, t_bi, y_bi) / n.

    The valid positions are packed first, so that the loss never sees the others. Where there is none, the loss is 0,
    with a graph and a gradient of 0. With `num_items` the losses of several micro-batches add up to that of all of
    them: n is then the number of valid positions of all, not of each.

    `dist` and `skd` correlate the rows of a batch. They are computed over all valid positions of a call, and refused
    with `num_items`: no division makes the correlations of four micro-batches add up to those of one.

    Args:
        loss: of this package, of (student_logits, teacher_logits, labels): `pld`, `kd`, `generalized_jsd`, ...
        student_logits: s, (B, S, V), floating point.
        teacher_logits: t, the same shape. A constant: it gets no gradient. For `pld_from_top_k` a `TeacherTopK` of ids
            (B, S, K), whose label_log_probabilities (B, S), if any, at position i are of the label that the logits at
            i are compared with: with `shift`, of token i + 1.
        labels: y, (B, S), integers in 0..V-1 or `ignore_index`: the tokens themselves, not shifted by the caller. Also
            a loss that does not read labels needs them, for they say which positions are valid.
        shift: compare logits[:, :-1] with labels[:, 1:], as for causal models; False compares position by position.
        num_items: n > 0, a number or a tensor of one number, such as the `num_items_in_batch` of a Trainer that
            accumulates gradients; None: the valid positions of this call.
        ignore_index: the label of positions to leave out.
        common_vocabulary: cut both models' logits to the first min(V_s, V_t) tokens, where one vocabulary is the other
            and padding behind it. Without it, two sizes are refused.
        options: the loss's own, `temperature=2.0` for example.

    Returns:
        A scalar, float32, or float64 where the logits are.

    Raises:
        ValueError: shapes, dtypes or options do not fit; the vocabularies differ in size and `common_vocabulary` is
            False; `num_items` with a loss that couples rows.
        IndexError: a label outside the (common) vocabulary that is not `ignore_index`.

    Source: the denominators are those of Hugging Face's causal losses; the losses are their own papers'.
    """
    check_token_options(loss, shift, num_items, ignore_index, options)
    check_flag("common_vocabulary", common_vocabulary)
    check_states("student_logits", student_logits, "(B, S, V)")
    check_store_and_loss("teacher_logits", teacher_logits, loss)
    if not isinstance(teacher_logits, TeacherTopK):
        check_states("teacher_logits", teacher_logits, "(B, S, V)")
        sizes = teacher_logits.shape[-1], "student_logits", student_logits.shape[-1]
        size = common_size("teacher_logits", *sizes, common_vocabulary)
        student_logits, teacher_logits = student_logits[..., :size], teacher_logits[..., :size]
    labels, valid = valid_positions(labels, student_logits, shift, ignore_index)
    packed = student_logits[valid]
    teacher = packed_teacher("teacher_logits", teacher_logits, valid)
    total = sum_of_rows(loss, packed, teacher, labels, ignore_index, options)
    return total if loss_couples_rows(loss) else total / denominator(num_items, len(packed), total)


def check_token_options(
    loss: object, shift: object, num_items: object, ignore_index: object, options: dict[str, object]
) -> None:
    """Refuse what does not depend on the logits."""
    if not callable(loss):
        raise ValueError(f"loss must be a function of pldistill.losses, got {loss!r}")
    parameters = inspect.signature(loss).parameters
    if "reduction" not in parameters or "labels" not in parameters:
        raise ValueError(
            "loss must be a function of (student_logits, teacher_logits, labels) with a reduction, got "
            f"{loss_name(loss)}"
        )
    check_flag("shift", shift)
    check_ignore_index(ignore_index)
    for name in _OWN:
        if name in options:
            raise ValueError(f"{name} is not an option of tokens, which packs the positions and sums; got {name}=...")
    if num_items is not None and loss_couples_rows(loss):
        raise ValueError(
            f"num_items must be None for {loss_name(loss)}, which correlates the rows of a batch: its losses of "
            f"micro-batches do not add up to that of all; got {num_items!r}"
        )
    check_num_items(num_items)


def check_num_items(num_items: object) -> None:
    """Refuse what is no number of items; None is the number of the call."""
    if num_items is None:
        return
    if isinstance(num_items, Tensor):
        fits = num_items.numel() == 1 and (num_items.device.type != "cpu" or num_items.item() > 0)
    else:
        fits = isinstance(num_items, Real) and not isinstance(num_items, bool) and 0 < float(num_items) < float("inf")
    if not fits:
        raise ValueError(f"num_items must be a finite number above 0, got {num_items!r}")


def loss_name(loss: object) -> str:
    loss = _bare(loss)
    return getattr(loss, "__name__", type(loss).__name__)


def _bare(loss: object) -> object:
    """The function under what `functools.partial` laid over it."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def loss_couples_rows(loss: object) -> bool:
    """Whether the loss of a row depends on the other rows."""
    return _bare(loss) in _COUPLED


def check_states(name: str, states: object, shape: str) -> None:
    check_floats(name, states)
    assert isinstance(states, Tensor)
    if states.dim() != 3 or states.shape[-1] == 0:
        raise ValueError(f"{name} must have shape {shape} with no empty last dim, got {tuple(states.shape)}")


def check_store_and_loss(name: str, teacher: object, loss: Callable[..., Tensor]) -> None:
    """A store of the teacher's first classes is for the one loss that reads it."""
    while isinstance(loss, partial):
        loss = loss.func
    if isinstance(teacher, TeacherTopK) != (loss is pld_from_top_k):
        asked = getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(
            f"{name} must be a TeacherTopK for pld_from_top_k and for no other loss, got {type(teacher).__name__} for "
            f"{asked}"
        )


def valid_positions(labels: Tensor, student: Tensor, shift: bool, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(M,) labels of the valid positions, and which of the student's (B, S) they are compared with."""
    check_integers("labels", labels, "token ids")
    if labels.shape != student.shape[:2]:
        raise ValueError(f"labels must have shape {tuple(student.shape[:2])} (B, S), got {tuple(labels.shape)}")
    if labels.device != student.device:
        raise ValueError(f"labels are on {labels.device} but the student on {student.device}")
    valid = labels != ignore_index
    if not shift:
        return labels[valid], valid
    ahead = torch.zeros_like(valid)
    ahead[:, :-1] = valid[:, 1:]
    return labels[:, 1:][valid[:, 1:]], ahead


def packed_teacher(name: str, teacher: Tensor | TeacherTopK, valid: Tensor) -> Tensor | TeacherTopK:
    """What the teacher says at the valid positions."""
    if isinstance(teacher, TeacherTopK):
        return TeacherTopK(
            *(
                None if part is None else _packed(f"{name}.{field}", part, valid, dim)
                for field, part, dim in zip(TeacherTopK._fields, teacher, (3, 3, 2), strict=True)
            )  # pyright: ignore[reportArgumentType]
        )
    return _packed(name, teacher, valid, 3)


def _packed(name: str, tensor: Tensor, valid: Tensor, dim: int) -> Tensor:
    check_tensor(name, tensor)
    if tensor.dim() != dim or tensor.shape[:2] != valid.shape:
        raise ValueError(f"{name} must have the student's (B, S) {tuple(valid.shape)} first, got {tuple(tensor.shape)}")
    if tensor.device != valid.device:
        raise ValueError(f"{name} is on {tensor.device} but the student on {valid.device}")
    return tensor[valid]


def sum_of_rows(
    loss: Callable[..., Tensor],
    student: Tensor,
    teacher: object,
    labels: Tensor,
    ignore_index: int,
    options: dict[str, object],
) -> Tensor:
    """The loss of packed rows, summed; of none, 0 with a graph. One that couples rows keeps its own reduction."""
    if len(student) == 0:
        return student.to(computing_dtype(student)).sum()
    reduction = "mean" if loss_couples_rows(loss) else "sum"
    return loss(student, teacher, labels, reduction=reduction, ignore_index=ignore_index, **options)


def denominator(num_items: float | Tensor | None, count: int, total: Tensor) -> float | Tensor:
    if num_items is None:
        return max(count, 1)
    return num_items.to(total).reshape(()) if isinstance(num_items, Tensor) else num_items


def common_size(name: str, theirs: int, own_name: str, ours: int, common_vocabulary: bool) -> int:
    """How many tokens both vocabularies have, which differ by request alone."""
    if theirs != ours and not common_vocabulary:
        raise ValueError(
            f"{name} has {theirs} tokens but {own_name} {ours}: common_vocabulary=True cuts both to the first "
            f"{min(ours, theirs)}, which is right where one vocabulary is the other with padding behind it"
        )
    return min(ours, theirs)
