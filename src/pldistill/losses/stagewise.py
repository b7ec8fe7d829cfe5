"""KL along the teacher's ranking, choice by choice: pldistill's own loss, not one of the PLD paper.

A ranking is a sequence of choices: the first of all classes, the second of those that are left, and so on. PLD asks the
student for the teacher's choice at each stage; here it is asked for the teacher's whole distribution over what is left.
KD's divergence is the first stage alone, DKD's non-target term the second alone. Symbols as in `ranking`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pldistill.losses._checks import check_stage_weights, check_temperature, check_weights
from pldistill.losses._rows import blank, computing_dtype, reduce_rows, to_rows
from pldistill.losses._stagewise import StagewiseKL
from pldistill.losses.ranking import checked_ranking


def plackett_luce_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    stage_weights: str | int | Tensor = 2,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """KL between the nets' choices along the teacher-optimal ranking: τ² Σ_k w_k KL_k, over the classes left at k.

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
        temperature: τ > 0, of both nets.
        stage_weights: w, one of
            "teacher": w_k = softmax(t / τ) of the class at place k, the weights of `pld`;
            an integer K, 1 <= K <= C: w_k = 1/K for the first K stages, 0 for the others;
            a floating-point tensor, >= 0, (C,) for all rows or of the logits' shape: `[n, k]` belongs to place k.
        reduction: "mean" over rows that are not left out, "sum", or "none" for (N, d1, ...).
        ignore_index: marks the rows to leave out, which count neither in value nor in number.

    Raises:
        ValueError: shapes, dtypes or options do not fit; weights require grad, are negative or not finite.
        IndexError: a label outside 0..C-1. Values of tensors are looked at for eager CPU tensors only.

    Summed in float64; returned in float32, or float64 where an input is. Derivatives as `plackett_luce`: the first.
    Source: pldistill's own, not from the paper; built on its Sec. 3.2 and 4.1.
    """
    check_temperature(temperature)
    ranking, kept = checked_ranking(student_logits, teacher_logits, labels, reduction, ignore_index)
    weights = _weights(stage_weights, student_logits, teacher_logits)
    student, teacher = (blank(to_rows(z), kept) for z in (student_logits, teacher_logits.detach()))
    losses, _ = StagewiseKL.apply(student, teacher, ranking, weights, temperature)
    return reduce_rows(losses, kept, reduction, student_logits)


def _weights(stage_weights: str | int | Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor | None:
    """w as rows, None for the teacher's mass, which is found with the sums."""
    check_stage_weights(stage_weights)
    classes = student_logits.shape[1]
    if isinstance(stage_weights, str):
        return None
    if isinstance(stage_weights, int):
        if stage_weights > classes:
            raise ValueError(f"stage_weights must be at most C = {classes} stages, got {stage_weights}")
        first = torch.arange(classes, device=student_logits.device) < stage_weights
        weights = first.to(computing_dtype(student_logits, teacher_logits)) / stage_weights
    else:
        check_weights("stage_weights", stage_weights, student_logits)
        weights = stage_weights if stage_weights.dim() == 1 else to_rows(stage_weights)
    return weights.expand(to_rows(student_logits).shape)
