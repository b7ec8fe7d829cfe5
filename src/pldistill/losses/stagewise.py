"""KL along the teacher's ranking, choice by choice: pldistill's own loss, not one of the PLD paper.

A ranking is a sequence of choices: the first of all classes, the second of those that are left, and so on. PLD asks the
student for the teacher's choice at each stage; here it is asked for the teacher's whole distribution over what is left.
KD's divergence is the first stage alone, DKD's non-target term the second alone. Symbols as in `ranking`.

Loss and gradient are found in one pass. U_k / T_k - log T_k + log S_k is a small difference of large sums, and is not
computed so. To choose among what is left at place k is to take what stands there, or to go on and choose among the
rest. So

    KL_k = b_k + (1 - q_k) KL_{k+1} = Σ_{j>=k} (T_j / T_k) b_j

with q_k = e^{t_k} / T_k, p_k = e^{s_k} / S_k, and b_k the KL between the coins (q_k, 1 - q_k) and (p_k, 1 - p_k). No
term is below 0, so none cancels another. The gradient is that of two Plackett-Luce losses, one less the other: exact to
the rounding of the weights, in float64, and so nought where both models are sure of the same class to that rounding.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from pldistill.losses._inputs import (
    blank,
    check_stage_weights,
    check_temperature,
    check_weights,
    computing_dtype,
    kept_rows,
    reduce_rows,
    to_rows,
)
from pldistill.losses._labels import of_rows
from pldistill.losses._plackett_luce import Form, below_top, in_chunks, is_narrow, losses_of, scan
from pldistill.losses.ranking import check_arguments, optimal_rows

# Up to this difference of log-odds, a coin's KL is written so that it loses no digits near 0.
_NEAR = 0.5


def _compute(
    student: Tensor, teacher: Tensor, labels: Tensor, *weights: Tensor, temperature: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(M,) losses and their (M, C) gradient; without weights, they are the teacher's mass."""
    dtype = computing_dtype(student, teacher, *weights)
    ranking, kept = optimal_rows(teacher, labels, ignore_index)
    teacher = blank(teacher, kept)

    def of(part: slice) -> tuple[Tensor, Tensor]:
        places = ranking[part]
        s, t = (_ordered(z[part], places, temperature) for z in (student, teacher))
        w = weights[0][part].double() if weights else t.softmax(1)
        losses, gradient = _losses_and_gradient(s, t, w)
        gradient = torch.empty_like(gradient).scatter_(1, places, gradient)
        return (temperature**2 * losses).to(dtype), (temperature * gradient).to(dtype)

    losses, gradient = in_chunks(of, student)
    return losses, gradient


def _places(
    student: Tensor, teacher: Tensor, labels: Tensor, *weights: Tensor, temperature: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Of KL_k, log S_k alone is bent: the Hessian is that of a Plackett-Luce loss with the weights of the stages."""
    ranking, kept = optimal_rows(teacher, labels, ignore_index)
    t = _ordered(blank(teacher, kept), ranking, temperature)
    w = weights[0].double() if weights else t.softmax(1)
    nothing_left = (t > -math.inf).flip(1).cumsum(1).flip(1) == 0
    return ranking, w.masked_fill(nothing_left, 0)


def _ordered(logits: Tensor, ranking: Tensor, temperature: float) -> Tensor:
    return below_top(logits.gather(1, ranking).double()) / temperature


def _losses_and_gradient(s: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_k w_k KL_k and its gradient by s, in ranking order; a stage where the teacher leaves no class costs nothing."""
    linear = is_narrow(s) and is_narrow(t)
    log_t, from_teacher = scan(t, w, linear=linear)
    w = w.masked_fill(log_t == -math.inf, 0)
    log_s, from_student = scan(s, w, linear=linear)
    divergences = _divergences(_coins(s, t, log_s, log_t), log_t, linear=linear)
    return (w * divergences).masked_fill(w == 0, 0).sum(1), from_student - from_teacher


def _coins(s: Tensor, t: Tensor, log_s: Tensor, log_t: Tensor) -> Tensor:
    """b_k from the log-odds of taking place k against what comes after it."""
    odds_s, odds_t = (
        z - torch.nn.functional.pad(left[:, 1:], (0, 1), value=-math.inf) for z, left in ((s, log_s), (t, log_t))
    )
    log_p, log_not_p, log_q, log_not_q = map(_log_sigmoid, (odds_s, -odds_s, odds_t, -odds_t))
    q, not_q = log_q.exp(), log_not_q.exp()
    apart = (q * (log_q - log_p)).masked_fill(q == 0, 0) + (not_q * (log_not_q - log_not_p)).masked_fill(not_q == 0, 0)
    smaller, step = torch.minimum(q, not_q), torch.where(q < not_q, odds_s - odds_t, odds_t - odds_s)
    near = (smaller * step.expm1()).log1p() - smaller * step  # log(1 - q + q e^δ) - q δ, or the same of the other side
    coins = torch.where(step.abs() < _NEAR, near, apart).clamp(min=0)
    impossible = (log_s == -math.inf) & (log_t > -math.inf)
    return coins.masked_fill(impossible, math.inf).masked_fill(log_t == -math.inf, 0)


def _divergences(coins: Tensor, log_t: Tensor, *, linear: bool) -> Tensor:
    """KL_k, the sums of coins from the last place up."""
    if linear:
        left = log_t.exp()
        return (left * coins).flip(1).cumsum(1).flip(1) / left
    log_total = (log_t + coins.log()).flip(1).logcumsumexp(1).flip(1)
    return (log_total - log_t).exp()


def _log_sigmoid(x: Tensor) -> Tensor:
    return x.clamp(max=0) - (-x.abs()).exp().log1p()


@of_rows(reads_labels=True)
def plackett_luce_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    stage_weights: str | int | Tensor = 2,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """KL between the models' choices along the teacher-optimal ranking: τ² Σ_k w_k KL_k, over the classes left at k.

    With s and t divided by τ, and in the order π* of `teacher_optimal_ranking` (the label, then the teacher's order):

        T_k = Σ_{l>=k} e^{t_l},   S_k = Σ_{l>=k} e^{s_l},   U_k = Σ_{l>=k} e^{t_l} (t_l - s_l)
        KL_k = U_k / T_k - log T_k + log S_k
        ∂L/∂s_j = Σ_{k<=j} w_k (e^{s_j} / S_k - e^{t_j} / T_k), times τ for the logit that is not divided by τ

    At least 0, and 0 where the student's logits are the teacher's plus a constant. w = (1, 0, ...) is `kd`; w = (0, 1,
    0, ...) is `dkd` with α = 0, β = 1. A class of student logit -inf that the teacher does not rule out costs +inf at
    every stage that it is left at; a stage where the teacher rules out all that is left costs nothing.

    Args:
        student_logits: s, (N, C) or (N, C, d1, ...), floating point.
        teacher_logits: t, the same shape. A constant: it gets no gradient.
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        temperature: τ > 0, of both models.
        stage_weights: w, one of
            "teacher": w_k = softmax(t / τ) of the class at place k, the weights of `pld`;
            an integer K, 1 <= K <= C: w_k = 1/K for the first K stages, 0 for the others;
            a floating-point tensor, >= 0, (C,) for all rows or of the logits' shape: `[n, k]` belongs to place k.
        reduction: "mean" over rows that are not left out, "sum", or "none" for (N, d1, ...).
        ignore_index: marks the rows to leave out, which count neither in value nor in number.
        class_dim: the dimension of the classes (of places, in weights), where it is not dim 1.

    Raises:
        ValueError: shapes, dtypes or options do not fit; weights require grad, are negative or not finite.
        IndexError: a label outside 0..C-1. Values of tensors are looked at for eager CPU tensors only.

    Summed in float64; returned in float32, or float64 where an input is. Derivatives as `plackett_luce`.
    Source: pldistill's own, not from the paper; built on its Sec. 3.2 and 4.1.
    """
    check_temperature(temperature)
    check_arguments(student_logits, teacher_logits, labels, reduction, ignore_index, class_dim)
    weights = _weights(stage_weights, student_logits, teacher_logits, class_dim)
    kept = kept_rows(labels, ignore_index)
    student = blank(to_rows(student_logits, class_dim), kept)
    constants = (to_rows(teacher_logits.detach(), class_dim), labels.flatten(), *weights)
    options = {"temperature": temperature, "ignore_index": ignore_index}
    form = Form(partial(_compute, **options), partial(_places, **options), temperature)
    return reduce_rows(losses_of(student, form, *constants), kept, reduction, student_logits, class_dim)


def _weights(
    stage_weights: str | int | Tensor, student_logits: Tensor, teacher_logits: Tensor, class_dim: int
) -> tuple[Tensor, ...]:
    """w as rows; nothing for the teacher's mass, which is found with the sums."""
    check_stage_weights(stage_weights)
    classes = student_logits.shape[class_dim]
    if isinstance(stage_weights, str):
        return ()
    if isinstance(stage_weights, int):
        if stage_weights > classes:
            raise ValueError(f"stage_weights must be at most C = {classes} stages, got {stage_weights}")
        first = torch.arange(classes, device=student_logits.device) < stage_weights
        weights = first.to(computing_dtype(student_logits, teacher_logits)) / stage_weights
    else:
        check_weights("stage_weights", stage_weights, student_logits, class_dim)
        weights = stage_weights if stage_weights.dim() == 1 else to_rows(stage_weights, class_dim)
    return (weights.expand(to_rows(student_logits, class_dim).shape),)
