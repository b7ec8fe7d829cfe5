"""Losses on how far the two models agree on the order of the classes: Kendall's tau, Pearson and Spearman, top-K pairs.

Symbols: s student logits, t teacher logits, τ temperature, σ the logistic function, C the classes of a row that take
part (those that both models mask with -inf do not). A rank correlation has no gradient: here the student's comparisons
are smooth, tanh or σ of (s_i - s_j) / τ, and the teacher's hard. As τ goes to 0 the correlations are the textbook's.

They do not read the labels. The teacher is a constant, half precision is computed in float32, and a row of fewer than
two classes costs nothing. Kendall's and Spearman's compare every pair: C² numbers a row, so 1,000 classes are slow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pldistill.losses._inputs import check_count, check_factor, check_reduction, check_temperature, reduce_rows
from pldistill.losses._labels import of_rows
from pldistill.losses.logit import _log_softmax, _pearson, _rows


@of_rows(reads_labels=False)
def kendall(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Kendall's tau-a, smooth: 1 - 2 / (C (C - 1)) Σ_{i<j} tanh((s_i - s_j) / τ) sign(t_i - t_j), in [0, 2].

    Its gradient does not shrink with the teacher's probabilities: pairs of unlikely classes count as others do. A pair
    that is tied in the teacher counts among all and adds nothing.

    Args:
        temperature: τ > 0, of the student's differences. Small, the loss counts discordant pairs.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: in the form of the ranking loss of Guan et al., "Enhancing logits distillation with plug&play Kendall's τ
    ranking loss" (2025), who add it to a loss such as KD. The equation is the one above, with the teacher's signs.
    """
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    part = _part(student, teacher)
    concord = (torch.tanh(_differences(student, part) / temperature) * _signs(teacher, part)).sum((1, 2))
    count = part.sum(1)
    tau = concord / (count * (count - 1)).clamp(min=1)
    return reduce_rows((1 - tau).masked_fill(count < 2, 0), kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=False)
def cmkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    rank_temperature: float = 1.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Correlation matching: α (1 - r(p, q)) + β (1 - ρ(s, t)), Pearson's of the softmaxes and Spearman's of the logits.

    p = softmax(s / τ), q = softmax(t / τ), and r is `dist`'s between the classes of a row. With the smooth ranks
    R_i = Σ_{j≠i} σ((s_i - s_j) / τ_r) of the student and the teacher's Q_i = Σ_{j≠i} ([t_i > t_j] + [t_i = t_j] / 2),

        ρ = 12 / (C (C² - 1)) Σ_i (R_i - (C - 1) / 2) (Q_i - (C - 1) / 2)

    which for hard ranks without ties is Spearman's correlation. Nothing in it divides by the student's deviation.

    Args:
        alpha: α >= 0, Pearson's term. beta: β >= 0, Spearman's. Fixed here; the original moves both with how difficult
            a sample is.
        temperature: τ > 0, of the softmaxes. rank_temperature: τ_r > 0, of the smooth ranks.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: in the form of Niu et al., "Efficient and robust knowledge distillation from a stronger teacher based on
    correlation matching" (2024), which sorts by another smooth operator. The equation is the one above.
    """
    check_factor("alpha", alpha)
    check_factor("beta", beta)
    check_temperature(rank_temperature, "rank_temperature")
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    part = _part(student, teacher)
    p, q = _log_softmax(student, temperature).exp(), _log_softmax(teacher, temperature).exp()
    count = part.sum(1)
    # Σ_{j≠i} σ(x_ij) - (C - 1) / 2 = Σ_j tanh(x_ij / 2) / 2, and so for the teacher's signs.
    ours = torch.tanh(_differences(student, part) / (2 * rank_temperature)).sum(2) / 2
    theirs = _signs(teacher, part).sum(2) / 2
    whole = (count * (count * count - 1)).clamp(min=1)
    losses = alpha * (1 - _pearson(p, q, part, dim=1)) + beta * (1 - 12 * (ours * theirs).sum(1) / whole)
    return reduce_rows(losses.masked_fill(count < 2, 0), kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=False)
def rankdistil(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    top: int = 10,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Pairs of the teacher's first K classes with all behind: mean over (i, j) of log(1 + exp(s_j - s_i)).

    i is one of the teacher's K first classes and j any class with t_j < t_i: the order of the first K is learnt, and
    large logits of classes behind are penalized, whose own order is left alone. Of equal logits the lower class index
    is the earlier, and a tied pair is none. A row without a pair costs nothing.

    Args:
        top: K >= 1; all classes where there are fewer.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: in the form of Reddi et al., "RankDistil: knowledge distillation for ranking" (2021): the order at the top
    kept, large scores below it penalized. The equation, with the logistic loss of each pair, is the one above.
    """
    check_count("top", top)
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, 1.0, ignore_index, class_dim)
    first = teacher.sort(dim=1, descending=True, stable=True).indices[:, :top]
    part = _part(student, teacher)
    pairs = (teacher.gather(1, first)[:, :, None] > teacher[:, None]) & part[:, None]
    gaps = student[:, None] - student.gather(1, first)[:, :, None]
    both = (student[:, None] == -math.inf) & (student.gather(1, first)[:, :, None] == -math.inf)
    costs = functional.softplus(gaps.masked_fill(~pairs | both, 0)).masked_fill(~pairs, 0)
    losses = costs.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    return reduce_rows(losses, kept, reduction, student_logits, class_dim)


def _part(student: Tensor, teacher: Tensor) -> Tensor:
    """(M, C) bool: the classes that not both models mask."""
    return ~((student == -math.inf) & (teacher == -math.inf))


def _differences(logits: Tensor, part: Tensor) -> Tensor:
    """s_i - s_j at [n, i, j], (M, C, C); 0 where one of the two takes no part, or both are -inf."""
    both = logits == -math.inf
    none = ~(part[:, :, None] & part[:, None]) | (both[:, :, None] & both[:, None])
    return (logits[:, :, None] - logits[:, None]).masked_fill(none, 0)


def _signs(logits: Tensor, part: Tensor) -> Tensor:
    """sign(t_i - t_j) at [n, i, j], (M, C, C); 0 where one of the two takes no part."""
    first, second = logits[:, :, None], logits[:, None]
    signs = (first > second).to(logits.dtype) - (first < second).to(logits.dtype)
    return signs.masked_fill(~(part[:, :, None] & part[:, None]), 0)
