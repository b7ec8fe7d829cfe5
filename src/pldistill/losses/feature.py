"""Losses that match activations place by place: attention transfer, FitNet's hint, variational information.

Symbols: f_s, f_t the maps of student and teacher at one pair of places; a method sums over its pairs. Every loss is
raw: its weight and the task's own loss stand outside. The teacher is a constant: no gradient flows to it.
Half-precision inputs are computed, and the loss returned, in float32, inside an autocast region too.
"""

from __future__ import annotations

from numbers import Real

from torch import Tensor
from torch.nn import functional

from pldistill.losses._features import check_equal, check_maps, check_samples, computed, shapes, unit


def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Attention transfer: mean over N and places of (a_s - a_t)², a = u / |u|, u = mean_c |f_c|^p, (N, H W).

    The larger map is average-pooled to the smaller one's size before the power. A map that is zero everywhere has
    a = 0 and gets no gradient.

    Args:
        student: f_s, (N, C_s, H_s, W_s), floating point.
        teacher: f_t, (N, C_t, H_t, W_t).
        power: p >= 1.

    Raises:
        ValueError: not two such maps of the same pictures (both shapes are named), or a power below 1.

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
        mean: μ, (N, C, H, W), floating point: what the caller's net predicts from f_s.
        teacher: f_t, the same shape.
        log_scale: σ, (C,), trained with μ.

    Raises:
        ValueError: shapes that do not fit (all are named), or no floating-point tensors.

    Source: Ahn et al., "Variational information distillation for knowledge transfer" (2019).
    """
    check_maps(mean, teacher)
    check_equal(mean, teacher)
    if log_scale.shape != mean.shape[1:2]:
        raise ValueError(
            f"log_scale must be ({mean.shape[1]},) for {shapes(mean, teacher)}, got {tuple(log_scale.shape)}"
        )
    mean, teacher = computed(mean, teacher)
    variance = (functional.softplus(log_scale.to(mean.dtype)) + 1e-5)[:, None, None]
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


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
