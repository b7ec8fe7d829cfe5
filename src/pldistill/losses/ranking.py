"""Losses on a ranking of the classes: Plackett-Luce distillation (PLD) and its relatives.

They are one loss, `plackett_luce`, with different weights on the places of the ranking. Symbols are those of Bassam,
Zhu and Bian, "PLD: A Choice-Theoretic List-Wise Knowledge Distillation": s student logits, t teacher logits, y label,
π a ranking (π_1 comes first), α_k the weight of place k, C classes. With

    X_k = Σ_{l>=k} exp(s_{π_l})        the worth of all that is left to choose from at place k
    p_k = exp(s_{π_k}) / X_k           the probability that the right one of them is chosen (Sec. 3.2)

the loss and its gradient are (Sec. 4.2; Appendix A, its double sum turned round)

    L = -Σ_k α_k log p_k
    ∂L/∂s_{π_i} = exp(s_{π_i}) G_i - α_i,   G_i = Σ_{k<=i} α_k / X_k

Teachers, labels, rankings and weights are constants: no gradient flows to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pldistill import kernels
from pldistill.losses._inputs import (
    blank,
    check_choice,
    check_factor,
    check_flag,
    check_fraction,
    check_ignore_index,
    check_labels,
    check_logits,
    check_pair,
    check_ranking,
    check_reduction,
    check_temperature,
    check_weights,
    computing_dtype,
    from_rows,
    is_plain_eager,
    kept_rows,
    reduce_rows,
    to_rows,
)
from pldistill.losses._labels import of_rows
from pldistill.losses._plackett_luce import Form, Fused, losses_and_gradient, losses_of, operator
from pldistill.losses.top_k import check_top_k, form_of

LISTMLE_WEIGHTS = ("uniform", "sum")


def plackett_luce(
    student_logits: Tensor,
    ranking: Tensor,
    weights: Tensor,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
) -> Tensor:
    """Weighted Plackett-Luce negative log-likelihood of a ranking: -Σ_k α_k log p_k.

    Convex in `student_logits`, blind to a constant added to them, at least 0. A place of weight 0 costs nothing,
    whatever stands there (0 log 0 = 0); a class of logit -inf at a place of positive weight costs +inf. Summed in
    float64; returned in float32, or float64 where an input is. Has a second derivative, forward mode and `torch.func`;
    a third derivative raises, and a graph of `torch.compile` refuses the second where and as torch itself does.

    Args:
        student_logits: s, (N, C) or (N, C, d1, ...), floating point.
        ranking: π, the same shape, integer: the class at each place along dim 1; a row of `ignore_index` is left out.
        weights: α >= 0, the same shape, or (C,) for all rows: `weights[n, k]` belongs to place k, not to class k.
        reduction: "mean" over rows that are not left out, "sum", or "none" for (N, d1, ...).
        ignore_index: marks the rows to leave out, which count neither in value nor in number.
        class_dim: the dimension of the classes (of places, in ranking and weights), where it is not dim 1. Logits of
            tokens, (N, S, V), want -1; without it V = S would be taken for one another, which no check can see.

    Raises:
        ValueError: shapes, dtypes or options do not fit; weights require grad; a row of the ranking is no permutation;
            a weight is negative or not finite.
        IndexError: a class outside 0..C-1. Values of tensors are looked at for eager CPU tensors only.

    Source: Sec. 3.2, 4.2 and Appendix A.
    """
    check_logits("student_logits", student_logits, class_dim)
    check_ignore_index(ignore_index)
    check_ranking(ranking, student_logits, ignore_index, class_dim)
    check_weights("weights", weights, student_logits, class_dim)
    check_reduction(reduction)
    rows = to_rows(ranking, class_dim)
    weights = weights.expand(rows.shape) if weights.dim() == 1 else to_rows(weights, class_dim)
    kept = rows[:, 0] != ignore_index
    places = partial(_as_given, ignore_index=ignore_index)
    return _reduced(student_logits, places, (rows, weights), kept, reduction, class_dim)


def teacher_optimal_ranking(
    teacher_logits: Tensor, labels: Tensor, *, ignore_index: int = -100, class_dim: int = 1
) -> Tensor:
    """π* = (y, argsort(t) \\ {y}): the label first, then the other classes by descending teacher logit.

    Of equal logits the lower class index comes first; NaN ranks as +inf.

    Args:
        teacher_logits: t, (N, C) or (N, C, d1, ...), floating point.
        labels: y, (N, d1, ...), integers in 0..C-1, or `ignore_index`, whose row is filled with it.
        class_dim: the dimension of the classes, where it is not dim 1.

    Returns:
        int64, the shape of `teacher_logits`: class at place k along `class_dim`.

    Raises:
        ValueError, IndexError: as `plackett_luce`.

    Source: Sec. 4.1.
    """
    check_logits("teacher_logits", teacher_logits, class_dim)
    check_ignore_index(ignore_index)
    check_labels(labels, teacher_logits, ignore_index, class_dim)
    ranking, kept = optimal_rows(to_rows(teacher_logits.detach(), class_dim), labels.flatten(), ignore_index)
    return from_rows(ranking.masked_fill(~kept[:, None], ignore_index), teacher_logits, class_dim)


@of_rows(reads_labels=True)
def pld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    top_k: int | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Plackett-Luce distillation: Σ_k q_{π*_k} (log Σ_{l>=k} exp(s_{π*_l}) - s_{π*_k}), q = softmax(t / τ).

    The teacher's ranking with the label first, each place weighted by the teacher's probability of the class there. The
    temperature acts on these weights alone. No cross-entropy is added: a teacher that is one-hot on the label gives it.

    Args:
        student_logits: s, (N, C) or (N, C, d1, ...), floating point.
        teacher_logits: t, the same shape. A constant: it gets no gradient.
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        temperature: τ > 0. The paper's listing has 1, and so have its ImageNet tables; on CIFAR-100 it takes 4.
        label_weight: a floor w in [0, 1] of the label's weight, pldistill's own: where q_y < w, the label has w and the
            other ranks q_k (1 - w) / (1 - q_y). A teacher that is sure of another class leaves the label next to
            nothing. 0, no floor, is the paper's.
        top_k: K in 1..C: the first K ranks alone, for large label sets, all classes in every denominator; no sort, and
            of equal teacher logits any comes first. `pld_top_k_bound` says what is left out at most. None, the paper's:
            all ranks.
        class_weight: w >= 0, (C,): a row counts as its label's weight, as in torch's cross_entropy; the mean divides by
            the sum of these. See `_labels`, also for soft labels: probabilities y of the logits' shape, Σ_c y_c L_c.
        sample_weight: v >= 0, (N, d1, ...), of each row.
        reduction, ignore_index, class_dim: as `plackett_luce`, and derivatives and errors too.

    Source: Sec. 4.2. Half-precision inputs are computed in float32 or wider.
    """
    check_temperature(temperature)
    check_fraction("label_weight", label_weight)
    if top_k is not None:
        check_arguments(student_logits, teacher_logits, labels, reduction, ignore_index, class_dim)
        check_top_k(top_k, student_logits.shape[class_dim])
        form = form_of(temperature, label_weight, top_k, ignore_index)
        student, *constants = _as_rows(student_logits, teacher_logits, labels, class_dim)
        losses = losses_of(student, form, *constants)
        return reduce_rows(losses, kept_rows(labels, ignore_index), reduction, student_logits, class_dim)
    weighting = kernels.Weighting(label_weight)
    return _pld(student_logits, teacher_logits, labels, temperature, weighting, reduction, ignore_index, class_dim)


@of_rows(reads_labels=True)
def decoupled_pld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 3.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """PLD whose two parts are weighted apart: α (-log p_1) + β Σ_{k>1} q_k / (1 - q_y) (-log p_k), q = softmax(t / τ).

    The first rank is the label: -log p_1 is the student's cross-entropy. Behind it the teacher ranks the other classes,
    each rank weighted by the teacher's probability of the class there among these classes alone. PLD is the same with
    α = q_y and β = 1 - q_y, row by row: how much the teacher is at one with the label decides there how much is learnt
    from either part. It is to PLD what DKD is to KD. Convex, as `plackett_luce` is with any weights.

    Args:
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim, derivatives, errors: as `pld`.
        temperature: τ > 0, of the weights of the ranks behind the label.
        alpha: the weight of the label's choice, at least 0.
        beta: that of all ranks behind it together, at least 0; nothing where there is one class.

    Source: pldistill's own, not from the paper.
    """
    check_temperature(temperature)
    check_factor("alpha", alpha)
    check_factor("beta", beta)
    weighting = kernels.Weighting(alpha, beta)
    return _pld(student_logits, teacher_logits, labels, temperature, weighting, reduction, ignore_index, class_dim)


def pld_weights(
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    class_dim: int = 1,
) -> Tensor:
    """The weights α that `pld` gives the ranks: α_k = q_{π*_k}, q = softmax(t / τ), with its floor for the label.

    Args:
        teacher_logits: t, (N, C) or (N, C, d1, ...), floating point.
        labels: y, (N, d1, ...), integers in 0..C-1.
        temperature, label_weight, class_dim: as `pld`.

    Returns:
        The shape of t, float32, or float64 where t is: the weight of each rank, the label's first; a row sums to 1.

    Raises:
        ValueError, IndexError: as `pld`.

    Source: Sec. 4.2.
    """
    check_temperature(temperature)
    check_fraction("label_weight", label_weight)
    ranking = to_rows(teacher_optimal_ranking(teacher_logits, labels, class_dim=class_dim), class_dim)
    rows = to_rows(teacher_logits.detach(), class_dim)
    return from_rows(_weights(rows, ranking, temperature, kernels.Weighting(label_weight)), teacher_logits, class_dim)


def _pld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    weighting: kernels.Weighting,
    reduction: str,
    ignore_index: int,
    class_dim: int,
) -> Tensor:
    """The Plackett-Luce loss of the teacher-optimal ranking, its ranks weighted by the teacher: by a kernel, if any."""
    check_arguments(student_logits, teacher_logits, labels, reduction, ignore_index, class_dim)
    options = {"temperature": temperature, "ignore_index": ignore_index, "reduction": reduction}
    places = partial(_by_teacher, temperature=temperature, weighting=weighting, ignore_index=ignore_index)
    has_kernel = kernels.kernel_for(student_logits, teacher_logits, weighting) is not None
    student, *constants = _as_rows(student_logits, teacher_logits, labels, class_dim)
    if is_plain_eager(student_logits, teacher_logits, labels) and has_kernel:
        form = Form(partial(_by_kernel, **options, weighting=weighting), places)
        shares = partial(_shares, ignore_index=ignore_index, reduction=reduction)
        loss = Fused.apply(student, *constants, form, shares)
    elif torch.compiler.is_compiling() and has_kernel and weighting == kernels.BY_TEACHER:
        loss, _ = _operator(student, *constants, **options)
    else:
        kept = kept_rows(labels, ignore_index)
        return _reduced(student_logits, places, constants, kept, reduction, class_dim)
    return loss.view(labels.shape) if reduction == "none" else loss


@of_rows(reads_labels=True)
def listmle(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    weights: str = "uniform",
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """ListMLE on the teacher-optimal ranking: Σ_k α_k (log Σ_{l>=k} exp(s_{π*_l}) - s_{π*_k}), all α_k alike.

    Args:
        weights: "uniform", α_k = 1/C, the PLD paper's Sec. 5.2.2; or "sum", α_k = 1, the original plain sum. Classes
            that both models mask with -inf are neither weighted nor counted in C.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `pld`, and errors too.

    Source: Xia et al., "Listwise approach to learning to rank" (2008); Sec. 4.1, 5.2.2.
    """
    check_choice("weights", weights, LISTMLE_WEIGHTS)
    check_arguments(student_logits, teacher_logits, labels, reduction, ignore_index, class_dim)
    _, *constants = _as_rows(student_logits, teacher_logits, labels, class_dim)
    kept = kept_rows(labels, ignore_index)
    places = partial(_alike, weights=weights, ignore_index=ignore_index)
    return _reduced(student_logits, places, constants, kept, reduction, class_dim)


@of_rows(reads_labels=True)
def p_listmle(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    normalize: bool = False,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Position-aware ListMLE on the teacher-optimal ranking: as `listmle` with α_k = 2^(C-k) - 1, k = 1..C.

    Args:
        normalize: divide the weights by their sum, 2^C - 1 - C: finite for any C. Classes that both models mask with
            -inf are neither weighted nor counted in C.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `pld`.

    Raises:
        ValueError: also where the weights overflow in the student's dtype, which the gradient has: not normalized, from
            C = 17 in float16, from C = 129 in float32, from C = 1025 in float64 (just below, their product with a large
            log-likelihood may still be +inf).
        IndexError: as `pld`.

    Source: Lan et al., "Position-aware ListMLE" (2014); Sec. 4.2.
    """
    check_flag("normalize", normalize)
    check_arguments(student_logits, teacher_logits, labels, reduction, ignore_index, class_dim)
    dtype, classes = student_logits.dtype, student_logits.shape[class_dim]  # the gradient is of this dtype
    most = math.frexp(torch.finfo(dtype).max)[1]  # 2^most is the first power of two that overflows
    if not normalize and classes > most:
        raise ValueError(
            f"the weights 2^(C-k) - 1 overflow {dtype} for C = {classes} classes (at most {most}); "
            "normalize=True divides them by their sum"
        )
    _, *constants = _as_rows(student_logits, teacher_logits, labels, class_dim)
    kept = kept_rows(labels, ignore_index)
    places = partial(_by_position, normalize=normalize, ignore_index=ignore_index)
    return _reduced(student_logits, places, constants, kept, reduction, class_dim)


def check_arguments(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, reduction: str, ignore_index: int, class_dim: int
) -> None:
    """Check what the losses on π* share."""
    check_pair(student_logits, teacher_logits, class_dim)
    check_reduction(reduction)
    check_ignore_index(ignore_index)
    check_labels(labels, student_logits, ignore_index, class_dim)


def _as_rows(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, class_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    return to_rows(student_logits, class_dim), to_rows(teacher_logits.detach(), class_dim), labels.flatten()


def _by_kernel(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    reduction: str,
    weighting: kernels.Weighting,
) -> tuple[Tensor, Tensor]:
    """The loss of rows, and its gradient, by the kernel that there is for them."""
    kernel = kernels.kernel_for(student, teacher, weighting)
    assert kernel is not None
    plain = partial(_plain_pld, weighting=weighting)
    return kernel(student, teacher, labels, temperature, ignore_index, reduction, plain, weighting)


def _plain_pld(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weighting: kernels.Weighting
) -> tuple[Tensor, Tensor]:
    ranking = _teacher_optimal(teacher, labels)
    return losses_and_gradient(student, ranking, _weights(teacher, ranking, temperature, weighting))


def _as_operator(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    return _by_kernel(student, teacher, labels, temperature, ignore_index, reduction, kernels.BY_TEACHER)


_operator = operator("pldistill::pld", _as_operator, kernels.gradient_dtype)


def _as_given(student: Tensor, ranking: Tensor, weights: Tensor, *, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Ranking and weights of `plackett_luce`, as `Form.places`, and so are the next three."""
    kept = ranking[:, 0] != ignore_index
    anything = torch.arange(ranking.shape[1], device=ranking.device)
    return torch.where(kept[:, None], ranking, anything), blank(weights, kept)


def _by_teacher(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    shares: Tensor | None = None,
    *,
    temperature: float,
    weighting: kernels.Weighting,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Of `pld`; `shares` are further factors, row by row."""
    ranking, kept = optimal_rows(teacher, labels, ignore_index)
    weights = blank(_weights(teacher, ranking, temperature, weighting), kept)
    return ranking, weights if shares is None else weights * shares[:, None]


def _alike(
    student: Tensor, teacher: Tensor, labels: Tensor, *, weights: str, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Of `listmle`."""
    ranking, kept = optimal_rows(teacher, labels, ignore_index)
    place, count = _places(student, teacher, ranking)
    alpha = (place > 0).to(computing_dtype(student, teacher))
    return ranking, blank(alpha / count if weights == "uniform" else alpha, kept)


def _by_position(
    student: Tensor, teacher: Tensor, labels: Tensor, *, normalize: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Of `p_listmle`."""
    ranking, kept = optimal_rows(teacher, labels, ignore_index)
    place, count = _places(student, teacher, ranking)
    weights = _position_weights(place.double(), count.double(), normalize).masked_fill(place == 0, 0)
    return ranking, blank(weights.to(computing_dtype(student, teacher)), kept)


def _shares(labels: Tensor, *, ignore_index: int, reduction: str) -> Tensor:
    """The factor of each row's loss in the reduced loss; float64, since a rounding here would be one of every row."""
    kept = kept_rows(labels, ignore_index).double()
    return kept / kept.sum().clamp(min=1) if reduction == "mean" else kept


def optimal_rows(teacher: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """π* of (M, C) rows, of anything where a row is left out, and which rows are kept."""
    kept = kept_rows(labels, ignore_index)
    return _teacher_optimal(teacher, blank(labels, kept)), kept


def _weights(teacher: Tensor, ranking: Tensor, temperature: float, weighting: kernels.Weighting) -> Tensor:
    """α of (M, C) rows, rank by rank; see `kernels.Weighting`."""
    if weighting.others is not None:
        behind = teacher.gather(1, ranking[:, 1:])
        own = teacher.new_full((len(teacher), 1), weighting.label, dtype=computing_dtype(teacher))
        nobody = (behind == -math.inf).all(1, keepdim=True)  # the teacher rules out all but the label
        shares = _softmax(behind.masked_fill(nobody, 0), temperature).masked_fill(nobody, 0)
        return torch.cat([own, weighting.others * shares], dim=1)
    q = _softmax(teacher, temperature).gather(1, ranking)
    if weighting.label == 0:
        return q
    own, low = q[:, :1], q[:, :1] < weighting.label
    behind = q[:, 1:] * torch.where(low, (1 - weighting.label) / (1 - own), 1)
    return torch.cat([own.clamp(min=weighting.label), behind], dim=1)


def _teacher_optimal(teacher: Tensor, labels: Tensor) -> Tensor:
    """π* of (M, C) rows. Only the label's key is +inf, so that a stable descending sort puts it first."""
    largest = torch.finfo(teacher.dtype).max
    keys = teacher.nan_to_num(nan=largest, posinf=largest, neginf=-math.inf)
    keys = keys.scatter(1, labels[:, None].long(), math.inf)
    return keys.sort(dim=1, descending=True, stable=True).indices


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    """softmax(t / τ) to the rounding of its dtype: the sum over many classes would lose a digit in float32."""
    logits = logits.to(computing_dtype(logits))
    if logits.shape[1] == 0:
        return logits
    worths = ((logits - logits.amax(1, keepdim=True)) / temperature).exp()
    return worths / worths.sum(1, keepdim=True, dtype=torch.float64).to(worths.dtype)


def _places(student: Tensor, teacher: Tensor, ranking: Tensor) -> tuple[Tensor, Tensor]:
    """k of each place counted over the classes that not both models mask (0 for the others), and C, their number."""
    masked = (student == -math.inf) & (teacher == -math.inf)
    part = ~masked.gather(1, ranking)
    return part.cumsum(1).masked_fill(~part, 0), part.sum(1, keepdim=True)


def _position_weights(place: Tensor, count: Tensor, normalize: bool) -> Tensor:
    """p-ListMLE's weights; normalized, numerator and denominator are both divided by 2^C, so that no power grows."""
    if not normalize:
        return torch.exp2(count - place) - 1
    total = 1 - (1 + count) * torch.exp2(-count)
    return (torch.exp2(-place) - torch.exp2(-count)) / total.masked_fill(total == 0, 1)  # 0 / 0 for one class: 0


def _reduced(
    student_logits: Tensor,
    places: Callable[..., tuple[Tensor, Tensor]],
    constants: Sequence[Tensor],
    kept: Tensor,
    reduction: str,
    class_dim: int,
) -> Tensor:
    """The loss of rows, reduced. Rows that are left out weigh nothing, so that loss and gradient are nothing there."""
    form = Form(partial(_by_places, places=places), places)
    losses = losses_of(to_rows(student_logits, class_dim), form, *constants)
    return reduce_rows(losses, kept, reduction, student_logits, class_dim)


def _by_places(
    student: Tensor, *constants: Tensor, places: Callable[..., tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    return losses_and_gradient(student, *places(student, *constants))
