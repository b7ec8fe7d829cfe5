"""Plackett-Luce distillation on the first K ranks of the teacher's ranking: for large label sets, without a sort.

The ranking is that of `pld`: the label first, then the best others, K in all: the head, H. Each rank is weighted by the
teacher's softmax over all classes, and all classes stay in every denominator. Symbols as in `ranking`. With

    L_K = -Σ_{k<=K} α_k log p_k,   ε = Σ_{k>K} α_k

the teacher's mass outside the head, what is left out of the loss L of all ranks is bounded, row by row:

    0 <= L - L_K <= ε (log(C - K) + max_{l not in H} s_l - min_{l not in H} s_l)
    Σ_i |∂L/∂s_i - ∂L_K/∂s_i| <= 2 ε, and the difference is nought on the head

The classes behind the head, in no order, are one choice more: T = Σ_{l not in H} exp(s_l) ends every sum of the head's
ranks, and their gradients are the shares exp(s_l) / T of what T gets.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pldistill.losses._inputs import (
    blank,
    check_floats,
    check_fraction,
    check_ignore_index,
    check_integers,
    check_labels,
    check_logits,
    check_reduction,
    check_temperature,
    computing_dtype,
    is_eager_cpu,
    kept_rows,
    reduce_rows,
    to_rows,
)
from pldistill.losses._labels import of_rows
from pldistill.losses._plackett_luce import Form, below_top, in_chunks, in_order, is_narrow, losses_of


class TeacherTopK(NamedTuple):
    """What `pld_from_top_k` needs of a teacher: its first K classes, (N, K) or (N, K, d1, ...), K along `class_dim`.

    Attributes:
        ids: the K most probable classes, the best first, integers; none twice in a row.
        log_probabilities: log q of each, q the teacher's softmax over all C classes at its temperature; floating point.
        label_log_probabilities: log q_y of each row's label, (N, d1, ...). None where it was not stored: a label that
            is not among the ids then has the weight 0, for its probability is not known.
    """

    ids: Tensor
    log_probabilities: Tensor
    label_log_probabilities: Tensor | None = None


class TopKBound(NamedTuple):
    """How far `pld` on all ranks may be from that on the first K, for each row; 0 for rows that are left out.

    Attributes:
        mass: ε, the teacher's probability outside the head, (N, d1, ...).
        loss: 0 <= L - L_K <= this; +inf where the student rules out a class outside the head.
        gradient: the L1 norm of the difference of the gradients is at most this, 2 ε.
    """

    mass: Tensor
    loss: Tensor
    gradient: Tensor


def teacher_top_k(
    teacher_logits: Tensor,
    top_k: int,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    class_dim: int = 1,
) -> TeacherTopK:
    """The teacher's K most probable classes and their log softmax(t / τ) over all classes. Of equal logits, any.

    Args:
        teacher_logits: t, (N, C) or (N, C, d1, ...), floating point.
        top_k: K, 1 <= K <= C.
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`: the store then holds log q_y too, and
            `pld_from_top_k` gives the number of `pld` with the same `top_k`. None where they are not known yet.
        temperature: τ > 0; the store holds no other.
        ignore_index, class_dim: as `pld`.

    Raises:
        ValueError, IndexError: as `pld`.
    """
    check_logits("teacher_logits", teacher_logits, class_dim)
    check_top_k(top_k, teacher_logits.shape[class_dim])
    check_temperature(temperature)
    check_ignore_index(ignore_index)
    rows = to_rows(teacher_logits.detach(), class_dim)
    positions = teacher_logits.movedim(class_dim, -1).shape[:-1]
    own = None
    if labels is not None:
        check_labels(labels, teacher_logits, ignore_index, class_dim)
        own = blank(labels.flatten(), kept_rows(labels, ignore_index))
    values, ids = rows.topk(top_k, dim=1)
    top, log_total = _log_total(rows, temperature)
    log_q = _log_q(values, top, log_total, temperature)
    ids, log_q = (each.view(*positions, top_k).movedim(-1, class_dim) for each in (ids, log_q))
    if own is None:
        return TeacherTopK(ids, log_q)
    log_own = _log_q(rows.gather(1, own[:, None].long()), top, log_total, temperature)
    return TeacherTopK(ids, log_q, log_own.view(positions))


def pld_from_top_k(
    student_logits: Tensor,
    teacher: TeacherTopK,
    labels: Tensor,
    *,
    label_weight: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`pld` with `top_k=K` from a store of the teacher's first K classes: Σ_{k<=K} q_{π*_k} (-log p_k).

    The head is the label and the best K - 1 others that are stored. The numbers are those of `pld(..., top_k=K)` where
    the store has the labels' log-probabilities, or the labels are among the ids.

    Args:
        student_logits: s, (N, C) or (N, C, d1, ...), floating point, of all classes.
        teacher: the store, a constant; its temperature was chosen when it was made.
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        label_weight, reduction, ignore_index, class_dim, class_weight, sample_weight: as `pld`, and errors too.

    Raises:
        ValueError: also for a store that does not fit.
        IndexError: also for an id outside 0..C-1 (eager CPU).

    Source: PLD paper, Sec. 4.2, its sum cut after K ranks: pldistill's own.
    """
    return _pld_from_top_k(
        student_logits,
        teacher,
        labels,
        label_weight=label_weight,
        reduction=reduction,
        ignore_index=ignore_index,
        class_dim=class_dim,
        class_weight=class_weight,
        sample_weight=sample_weight,
    )


@of_rows(reads_labels=True)
def _pld_from_top_k(
    student_logits: Tensor,
    store: TeacherTopK,
    labels: Tensor,
    *,
    label_weight: float,
    reduction: str,
    ignore_index: int,
    class_dim: int,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    check_fraction("label_weight", label_weight)
    check_reduction(reduction)
    constants = _checked(student_logits, store, labels, ignore_index, class_dim)
    options = {"label_weight": label_weight, "ignore_index": ignore_index}
    form = Form(partial(_compute_stored, **options), partial(_places_stored, **options))
    losses = losses_of(to_rows(student_logits, class_dim), form, *constants)
    return reduce_rows(losses, kept_rows(labels, ignore_index), reduction, student_logits, class_dim)


def pld_top_k_bound(
    student_logits: Tensor,
    teacher: TeacherTopK,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    class_dim: int = 1,
) -> TopKBound:
    """Bound what `pld_from_top_k` leaves out of `pld` on all ranks, without a sort.

    A label that is in the store in no way counts as outside, with all the mass that is not stored: the bound of the
    gradient then holds as it is, that of the loss does not, and is +inf.

    Args:
        student_logits, teacher, labels, ignore_index, class_dim: as `pld_from_top_k`, without a floor for the label.

    Returns:
        float64, for each row.

    Raises:
        ValueError, IndexError: as `pld_from_top_k`.

    Source: pldistill's own.
    """
    constants = _checked(student_logits, teacher, labels, ignore_index, class_dim)
    with torch.no_grad():
        rows, kept = to_rows(student_logits, class_dim), kept_rows(labels, ignore_index)
        ids, weights = _head_of_store(*constants, label_weight=0.0, ignore_index=ignore_index)
        mass = (1 - weights.double().sum(1)).clamp(min=0)
        tail = rows.shape[1] - ids.shape[1]
        if tail:
            most, least = (
                rows.scatter(1, ids, end).double().aminmax(dim=1)[index]
                for index, end in ((1, -math.inf), (0, math.inf))
            )
            spread = math.log(tail) + (most - least).masked_fill(least == -math.inf, math.inf)
        else:
            spread, mass = torch.zeros_like(mass), torch.zeros_like(mass)
        unknown = (weights[:, 0] == 0) & (mass > 0) if len(constants) == 3 else torch.zeros_like(kept)
        loss = (mass * spread).masked_fill(mass == 0, 0).masked_fill(unknown, math.inf)
        return TopKBound(*(blank(each, kept).view(labels.shape) for each in (mass, loss, 2 * mass)))


def check_top_k(top_k: object, classes: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= classes:
        raise ValueError(f"top_k must be an integer in 1..{classes}, the number of classes, got {top_k!r}")


def check_top_k_option(top_k: object) -> None:
    """Refuse what cannot be a number of ranks of any logits."""
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be None or an integer of at least 1, got {top_k!r}")


def form_of(temperature: float, label_weight: float, top_k: int, ignore_index: int) -> Form:
    """The loss of rows (student, teacher, labels), all logits at hand."""
    options = {"temperature": temperature, "label_weight": label_weight, "top_k": top_k, "ignore_index": ignore_index}
    return Form(partial(_compute, **options), partial(_places, **options))


def _compute(student: Tensor, teacher: Tensor, labels: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    def of(part: slice) -> tuple[Tensor, Tensor]:
        ids, weights = _head(teacher[part], labels[part], **options)  # pyright: ignore[reportArgumentType]
        return _losses_and_gradient(student[part], ids, weights, computing_dtype(student, teacher))

    losses, gradient = in_chunks(of, student)
    return losses, gradient


def _places(student: Tensor, teacher: Tensor, labels: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    return _all_places(student, *_head(teacher, labels, **options))  # pyright: ignore[reportArgumentType]


def _compute_stored(
    student: Tensor, *constants: Tensor, label_weight: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    ids, weights = _head_of_store(*constants, label_weight=label_weight, ignore_index=ignore_index)

    def of(part: slice) -> tuple[Tensor, Tensor]:
        return _losses_and_gradient(student[part], ids[part], weights[part], computing_dtype(student, weights))

    losses, gradient = in_chunks(of, student)
    return losses, gradient


def _places_stored(
    student: Tensor, *constants: Tensor, label_weight: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    return _all_places(student, *_head_of_store(*constants, label_weight=label_weight, ignore_index=ignore_index))


def _all_places(student: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A ranking of all classes with the same loss: those outside the head behind it, in any order, of weight 0."""
    outside = torch.ones_like(student, dtype=torch.int8).scatter(1, ids, 0)
    ranking = torch.cat(
        [ids, outside.argsort(dim=1, descending=True, stable=True)[:, : student.shape[1] - ids.shape[1]]], 1
    )
    return ranking, torch.nn.functional.pad(weights, (0, student.shape[1] - ids.shape[1]))


def _head(
    teacher: Tensor, labels: Tensor, *, temperature: float, label_weight: float, top_k: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(M, K) classes, the label first, and their weights; rows that are left out weigh nothing."""
    kept = kept_rows(labels, ignore_index)
    teacher, own = blank(teacher, kept), blank(labels, kept)[:, None].long()
    values, ids = teacher.topk(top_k, dim=1)
    top, log_total = _log_total(teacher, temperature)
    log_q = _log_q(torch.cat([teacher.gather(1, own), values], 1), top, log_total, temperature)
    return _label_first(ids, own, log_q, label_weight, kept)


def _head_of_store(
    labels: Tensor,
    ids: Tensor,
    log_q: Tensor,
    log_own: Tensor | None = None,
    *,
    label_weight: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    kept = kept_rows(labels, ignore_index)
    own, ids = blank(labels, kept)[:, None].long(), ids.long()
    log_q = log_q.to(computing_dtype(log_q))
    if log_own is None:
        log_own = log_q.masked_fill(ids != own, -math.inf).amax(1)
    return _label_first(ids, own, torch.cat([log_own[:, None].to(log_q), log_q], 1), label_weight, kept)


def _label_first(ids: Tensor, own: Tensor, log_q: Tensor, label_weight: float, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The label before the others, K in all: it goes from its place, or the last of the K goes."""
    gone = ids == own
    gone[:, -1] |= ~gone.any(1)
    order = torch.nn.functional.pad(gone, (1, 0)).byte().argsort(dim=1, stable=True)[:, :-1]
    ids = torch.cat([own, ids], 1).gather(1, order)
    weights = log_q.gather(1, order).exp()
    if label_weight:
        first, low = weights[:, :1], weights[:, :1] < label_weight
        behind = weights[:, 1:] * torch.where(low, (1 - label_weight) / (1 - first), 1)
        weights = torch.cat([first.clamp(min=label_weight), behind], 1)
    return ids, blank(weights, kept)


def _log_total(teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The largest logit of each row and log Σ_i exp((t_i - it) / τ), both (M, 1); summed in float64."""
    dtype = computing_dtype(teacher)
    top = (
        teacher.amax(1, keepdim=True).to(dtype) if teacher.shape[1] else teacher.new_zeros(len(teacher), 1, dtype=dtype)
    )
    worths = teacher.to(dtype) - top.masked_fill(top == -math.inf, 0)
    worths = worths.div_(temperature).exp_() if temperature != 1 else worths.exp_()
    return top, worths.sum(1, keepdim=True, dtype=torch.float64).log().to(dtype)


def _log_q(logits: Tensor, top: Tensor, log_total: Tensor, temperature: float) -> Tensor:
    return (logits.to(top.dtype) - top) / temperature - log_total


def _losses_and_gradient(student: Tensor, ids: Tensor, weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One chunk: the head's ranks and the whole tail as one more, of weight 0, in float64; then the tail's shares."""
    tail = student.to(dtype).scatter(1, ids, -math.inf)
    top = tail.amax(1, keepdim=True)
    worths = tail.sub_(top.masked_fill(top == -math.inf, 0)).exp_()
    total = worths.sum(1, keepdim=True, dtype=torch.float64)
    log_tail = top.double() + total.log()
    s = below_top(torch.cat([student.gather(1, ids).double(), log_tail], 1))
    losses, gradient = in_order(s, torch.nn.functional.pad(weights.double(), (0, 1)), linear=is_narrow(s))
    nothing = gradient[:, -1:] == 0  # of a row that is left out too, whatever stands in it
    share = (gradient[:, -1:] / total).masked_fill(nothing, 0)
    whole = worths.mul_(share.to(dtype)).masked_fill_(nothing, 0).scatter_(1, ids, gradient[:, :-1].to(dtype))
    return losses.to(dtype), whole


def _checked(
    student_logits: Tensor, teacher: TeacherTopK, labels: Tensor, ignore_index: int, class_dim: int
) -> tuple[Tensor, ...]:
    """Refuse a store that does not fit; return labels, ids, log-probabilities and, if any, the labels' own as rows."""
    check_logits("student_logits", student_logits, class_dim)
    check_ignore_index(ignore_index)
    check_labels(labels, student_logits, ignore_index, class_dim)
    if not isinstance(teacher, TeacherTopK):
        raise ValueError(f"teacher must be a TeacherTopK, as teacher_top_k makes, got {type(teacher).__name__}")
    check_integers("teacher.ids", teacher.ids, "class indices")
    check_floats("teacher.log_probabilities", teacher.log_probabilities)
    classes = student_logits.shape[class_dim]
    for name, tensor in (("ids", teacher.ids), ("log_probabilities", teacher.log_probabilities)):
        counts = tensor.shape[class_dim] if tensor.dim() == student_logits.dim() else 0
        rest = tensor.movedim(class_dim, -1).shape[:-1] if counts else None
        if rest != labels.shape or not 1 <= counts <= classes or tensor.shape != teacher.ids.shape:
            raise ValueError(
                f"teacher.{name} must have student_logits' shape {tuple(student_logits.shape)} with K in 1..C for C "
                f"along dim {class_dim}, got {tuple(tensor.shape)}; ids have {tuple(teacher.ids.shape)}"
            )
        if tensor.device != student_logits.device:
            raise ValueError(f"teacher.{name} is on {tensor.device} but student_logits on {student_logits.device}")
    ids = to_rows(teacher.ids, class_dim)
    if is_eager_cpu(ids) and ids.numel():
        least, most = (end.item() for end in ids.aminmax())
        if least < 0 or most >= classes:
            raise IndexError(f"teacher.ids must be in 0..{classes - 1}, got {least if least < 0 else most}")
    constants = labels.flatten(), ids, to_rows(teacher.log_probabilities.detach(), class_dim)
    own = teacher.label_log_probabilities
    if own is None:
        return constants
    check_floats("teacher.label_log_probabilities", own)
    if own.shape != labels.shape:
        raise ValueError(
            f"teacher.label_log_probabilities must have the labels' shape {tuple(labels.shape)}, got {tuple(own.shape)}"
        )
    return *constants, own.detach().flatten()
