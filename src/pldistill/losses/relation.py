"""Losses that match how the pictures of a batch relate: PKT, RKD, similarity-preserving.

Symbols: f_s, f_t the features of student and teacher, a row for each of the N pictures; their widths may differ.
Every loss couples the samples of a batch and is a mean: there is no other reduction. It is raw: its weight stands
outside. The teacher is a constant: no gradient flows to it. Half-precision inputs are computed, and the loss returned,
in float32, inside an autocast region too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pldistill.losses._checks import check_factor
from pldistill.losses._features import check_samples, check_vectors, computed, unit

_PKT_EPSILON = 1e-7


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: the mean over i, j of q_ij log((q_ij + ε) / (p_ij + ε)), ε = 1e-7.

    p_ij = k_ij / Σ_l k_il, k_ij = (cos(f_i, f_j) + 1) / 2 of the student, the diagonal included; q the teacher's; the
    cosine is of f / (|f| + ε). A row of zeros has the cosine 0 with every row and gets no gradient.

    Args:
        student: f_s, (N, D_s), floating point.
        teacher: f_t, (N, D_t).

    Raises:
        ValueError: not two such matrices of the same pictures (both shapes are named).

    Source: Passalis & Tefas, "Learning deep representations with probabilistic knowledge transfer" (2018), with the
    mean over N², as the public baselines have it.
    """
    check_vectors(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        p, q = (_neighbours(features) for features in computed(student, teacher))
        return (q * ((q + _PKT_EPSILON) / (p + _PKT_EPSILON)).log()).mean()


def rkd(student: Tensor, teacher: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Relational KD: λ_d mean_ij h(d_ij^s - d_ij^t) + λ_a mean_ijk h(cos_ijk^s - cos_ijk^t), h Huber's loss with δ = 1.

    d_ij = |f_j - f_i| over its mean for i ≠ j; cos_ijk = <e_ij, e_ik>, e_ij = (f_j - f_i) / |f_j - f_i|. Means are over
    N² and N³, diagonals included. Rows that coincide are 1e-6 apart and have no direction, so neither gets a gradient
    from the other. N = 1 gives 0.

    Args:
        student: f_s, (N, D_s), floating point.
        teacher: f_t, (N, D_t).
        distance: λ_d >= 0. angle: λ_a >= 0.

    Raises:
        ValueError: not two such matrices of the same pictures (both shapes are named), or a bad factor.

    Source: Park et al., "Relational knowledge distillation" (2019).
    """
    check_vectors(student, teacher)
    check_factor("distance", distance)
    check_factor("angle", angle)
    with torch.autocast(student.device.type, enabled=False):
        (d_s, cos_s), (d_t, cos_t) = (_distances_and_cosines(features) for features in computed(student, teacher))
        return distance * functional.smooth_l1_loss(d_s, d_t) + angle * functional.smooth_l1_loss(cos_s, cos_t)


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving KD: |G_t - G_s|_F² / N², G the Gram matrix f fᵀ with rows of length 1.

    A picture whose features are all zero has a row of zeros in G and gets no gradient from it.

    Args:
        student: f_s, (N, ...), floating point; all but the first dimension are flattened.
        teacher: f_t, (N, ...).

    Raises:
        ValueError: not two such tensors of the same pictures (both shapes are named).

    Source: Tung & Mori, "Similarity-preserving knowledge distillation" (2019).
    """
    check_samples(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        gram_s, gram_t = (unit(f.flatten(1) @ f.flatten(1).T) for f in computed(student, teacher))
        return (gram_s - gram_t).square().mean()


def _neighbours(features: Tensor) -> Tensor:
    """p: how likely each row is another's neighbour. Rounding must not take a cosine below -1, where p has no log."""
    unit_rows = unit(features, extra=_PKT_EPSILON)
    kernel = ((unit_rows @ unit_rows.T).clamp(min=-1) + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)


def _distances_and_cosines(features: Tensor) -> tuple[Tensor, Tensor]:
    """d, (N, N), and cos, (N, N, N). From differences, not from the Gram matrix, where close rows would cancel."""
    count = len(features)
    difference = features[None] - features[:, None]
    itself = torch.eye(count, dtype=torch.bool, device=features.device)
    d = difference.square().sum(2).clamp(min=1e-12).sqrt().masked_fill(itself, 0)
    mean = d.sum() / max(count * (count - 1), 1)
    directions = unit(difference, dim=2)
    return d / mean.clamp(min=1e-6), directions @ directions.mT
