"""Losses on features: activations place by place (attention transfer, FitNet's hint, variational information, channel-
wise distillation), and how the images of a batch relate (PKT, RKD, similarity-preserving).

Symbols: f_s, f_t the maps of student and teacher at one pair of places; a method sums over its pairs. Every loss is
raw: its weight and the task's own loss stand outside. A relation couples the samples of a batch, a row of features for
each, of any two widths, and is a mean: there is no other reduction. The teacher is a constant: no gradient flows to it.
Half-precision inputs are computed, and the loss returned, in float32, inside an autocast region too.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional

from pldistill.losses._inputs import (
    check_equal,
    check_factor,
    check_floats,
    check_ignore_index,
    check_integers,
    check_maps,
    check_samples,
    check_temperature,
    check_vectors,
    computed,
    shapes,
    unit,
)
from pldistill.losses.logit import _among, _kl


def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer: mean over N and places of (a_s - a_t)², a = u / |u|, u = mean_c |f_c|^p, (N, H W).

    The larger map is average-pooled to the smaller one's size before the power. A map that is zero everywhere has
    a = 0 and gets no gradient.

    Args:
        student: f_s, (N, C_s, H_s, W_s), floating point.
        teacher: f_t, (N, C_t, H_t, W_t).
        power: p >= 1.

    Raises:
        ValueError: not two such maps of the same images (both shapes are named), or a power below 1.

    Source: Zagoruyko & Komodakis, "Paying more attention to attention" (2017), Eq. 2, with the mean of squares in place
    of the norm, as the public baselines have it.
    """
    check_maps(student, teacher)
    if not (isinstance(power, Real) and not isinstance(power, bool) and 1 <= power < float("inf")):
        raise ValueError(f"power must be a finite number of at least 1, got {power!r}")
    student, teacher = pool_to_smaller(*computed(student, teacher))
    return (_attention(student, power) - _attention(teacher, power)).square().mean()


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet's hint: the mean over all elements of (r(f_s) - f_t)²; the regressor r is the caller's.

    Args:
        student: r(f_s), of any shape (N, ...), floating point.
        teacher: f_t, the same shape.

    Raises:
        ValueError: shapes that differ (both are named), or no floating-point tensors.

    Source: Romero et al., "FitNets: hints for thin deep nets" (2015), Eq. 3, as a mean in place of half the sum.
    """
    check_samples(student, teacher)
    check_equal(student, teacher)
    student, teacher = computed(student, teacher)
    return (student - teacher).square().mean()


def vid(mean: Tensor, teacher: Tensor, log_scale: Tensor) -> Tensor:
    """Variational information: the mean over all elements of ½ ((μ - f_t)² / v_c + log v_c), v = softplus(σ) + 1e-5.

    The negative log-likelihood, but for a constant, of the teacher's map under a normal distribution whose mean comes
    from the student's map and whose variance is one number a channel. It may be negative.

    Args:
        mean: μ, (N, C, H, W), floating point: what the caller's model predicts from f_s.
        teacher: f_t, the same shape.
        log_scale: σ, (C,), trained with μ.

    Raises:
        ValueError: shapes that do not fit (all are named), or no floating-point tensors.

    Source: Ahn et al., "Variational information distillation for knowledge transfer" (2019).
    """
    check_maps(mean, teacher, "mean")
    check_equal(mean, teacher)
    check_floats("log_scale", log_scale)
    if log_scale.shape != mean.shape[1:2]:
        raise ValueError(
            f"log_scale must be ({mean.shape[1]},) for {shapes(mean, teacher)}, got {tuple(log_scale.shape)}"
        )
    mean, teacher = computed(mean, teacher)
    variance = (functional.softplus(log_scale.to(mean.dtype)) + 1e-5)[:, None, None]
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


def cwd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    ignore_index: int = -100,
) -> Tensor:
    """Channel-wise distillation: τ² / (N C) Σ_nc KL(φ(f_t)_nc ‖ φ(f_s)_nc), φ(f)_nci = exp(f_nci/τ) / Σ_j exp(f_ncj/τ).

    The softmax is over the H W places i of a channel, so each channel says where it is strong and not how much. f are
    maps of logits, one channel a class, or of features. From log-softmaxes: finite in float32 where the logarithm of a
    softmax is not, at logits of deviation 80 say. A constant added to a channel of an image changes nothing.

    Args:
        student: f_s, (N, C, H, W), floating point.
        teacher: f_t, the same shape; maps of other channels or another size are the caller's to bring to it.
        labels: (N, H, W); places of `ignore_index` take no part, and N counts the images that have others. None: all
            do, as published.
        temperature: τ, from 1e-6 to 1e6; published 4.
        ignore_index: the mark.

    Returns:
        A scalar; NaN, with a gradient of 0, where no place takes part.

    Raises:
        ValueError: shapes that differ (both are named), no floating-point tensors, labels that do not fit, or a bad
            temperature.

    Source: Shu et al., "Channel-wise knowledge distillation for dense prediction" (2021), Eq. 5, with the mean over the
    images, as its public code has it. Others leave the teacher's entropy out, with the same gradient.
    """
    check_maps(student, teacher)
    check_equal(student, teacher)
    check_temperature(temperature)
    check_ignore_index(ignore_index)
    count, channels = student.shape[:2]
    kept = torch.ones(count, student[0, 0].numel(), dtype=torch.bool, device=student.device)
    if labels is not None:
        check_places(labels, student)
        kept = (labels != ignore_index).flatten(1)
    ours, theirs = (maps.reshape(count * channels, -1) for maps in computed(student, teacher))
    part = kept.repeat_interleave(channels, 0)
    losses = _among(part, ours, theirs, temperature, lambda log_p, log_q: _kl(log_q, log_p))
    images = kept.any(1).sum()
    value = temperature**2 * losses.sum() / (channels * images.clamp(min=1))
    return value.masked_fill(images == 0, math.nan)


def check_places(labels: object, maps: Tensor) -> None:
    """Refuse what is not a mark for each place of (N, C, H, W) maps; it may be any integer."""
    check_integers("labels", labels, "class indices")
    assert isinstance(labels, Tensor)
    expected = (len(maps), *maps.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels must have shape {expected} for maps of {tuple(maps.shape)}, got {tuple(labels.shape)}"
        )
    if labels.device != maps.device:
        raise ValueError(f"labels are on {labels.device} but the maps on {maps.device}")


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two (N, C, H, W) maps to the smaller height and the smaller width; equal sizes stay as they are."""
    check_maps(student, teacher)
    height, width = (min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True))
    student, teacher = (
        maps if maps.shape[2:] == (height, width) else functional.adaptive_avg_pool2d(maps, (height, width))
        for maps in (student, teacher)
    )
    return student, teacher


def _attention(maps: Tensor, power: float) -> Tensor:
    return unit(maps.abs().pow(power).mean(1).flatten(1))


_PKT_EPSILON = 1e-7


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer: the mean over i, j of q_ij log((q_ij + ε) / (p_ij + ε)), ε = 1e-7.

    p_ij = k_ij / Σ_l k_il, k_ij = (cos(f_i, f_j) + 1) / 2 of the student, the diagonal included; q the teacher's; the
    cosine is of f / (|f| + ε). A row of zeros has the cosine 0 with every row and gets no gradient.

    Args:
        student: f_s, (N, D_s), floating point.
        teacher: f_t, (N, D_t).

    Raises:
        ValueError: not two such matrices of the same images (both shapes are named).

    Source: Passalis & Tefas, "Learning deep representations with probabilistic knowledge transfer" (2018), with the
    mean over N², as the public baselines have it.
    """
    check_vectors(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        p, q = (_neighbors(features) for features in computed(student, teacher))
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
        ValueError: not two such matrices of the same images (both shapes are named), or a bad factor.

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

    An image whose features are all zero has a row of zeros in G and gets no gradient from it.

    Args:
        student: f_s, (N, ...), floating point; all but the first dimension are flattened.
        teacher: f_t, (N, ...).

    Raises:
        ValueError: not two such tensors of the same images (both shapes are named).

    Source: Tung & Mori, "Similarity-preserving knowledge distillation" (2019).
    """
    check_samples(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        gram_s, gram_t = (unit(f.flatten(1) @ f.flatten(1).T) for f in computed(student, teacher))
        return (gram_s - gram_t).square().mean()


def _neighbors(features: Tensor) -> Tensor:
    """p: how likely each row is another's neighbor. Rounding must not take a cosine below -1, where p has no log."""
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
