"""Losses on the logits of both models, class by class: KD and its divergences, DKD and its kin, DIST; standardization.

Symbols: s student logits, t teacher logits, y label, τ temperature, p = softmax(s / τ), q = softmax(t / τ), C classes.
Every loss is raw: a task's own cross-entropy and the mixing weights stand outside. The teacher is a constant: no
gradient flows to it. Half-precision inputs are computed, and the loss returned, in float32, inside an autocast region
too. Classes that both models mask with -inf do not take part: 0 log 0 = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

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
    check_reduction,
    check_temperature,
    check_tensor,
    computing_dtype,
    kept_rows,
    reduce_rows,
    to_rows,
)
from pldistill.losses._labels import of_rows

DIRECTIONS = ("forward", "reverse")


@of_rows(reads_labels=False)
def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    tau_squared: bool = True,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Knowledge distillation, forward KL: τ² Σ_i q_i (log q_i - log p_i).

    A class that the student rules out (-inf) and the teacher does not costs +inf.

    Args:
        student_logits: s, (N, C) or (N, C, d1, ...), floating point.
        teacher_logits: t, the same shape.
        labels: (N, d1, ...), integers; only says, by `ignore_index`, which rows to leave out. None: all count.
        temperature: τ > 0; 4 is the CIFAR-100 choice of the public baselines.
        tau_squared: False drops the factor τ² (the PLD paper's Appendix G).
        reduction: "mean" over rows that are not left out, "sum", or "none" for (N, d1, ...).
        ignore_index: the label of rows to leave out.
        class_dim: the dimension of the classes, where it is not dim 1: -1 for tokens' logits (N, S, V). Without labels
            there is nothing to tell the two apart by.
        class_weight: w >= 0, (C,): a row counts as its label's weight, as in torch's cross_entropy; the mean divides by
            the sum of these.
        sample_weight: v >= 0, (N, d1, ...), of each row.

    Raises:
        ValueError: shapes, dtypes or options do not fit.
        IndexError: a label outside 0..C-1 that is not `ignore_index` (looked at for eager CPU tensors only).

    Source: Hinton et al., "Distilling the knowledge in a neural network" (2015); PLD paper, Sec. 3.1.
    """
    options = (temperature, tau_squared, reduction, ignore_index, class_dim)
    return _divergence_loss(lambda log_p, log_q: _kl(log_q, log_p), student_logits, teacher_logits, labels, *options)


@of_rows(reads_labels=False)
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    tau_squared: bool = True,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Reverse KL: τ² Σ_i p_i (log p_i - log q_i). A class that the teacher alone rules out costs +inf.

    Args, errors: as `kd`. Source: PLD paper, Appendix G.
    """
    options = (temperature, tau_squared, reduction, ignore_index, class_dim)
    return _divergence_loss(_kl, student_logits, teacher_logits, labels, *options)


@of_rows(reads_labels=False)
def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    tau_squared: bool = True,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Jensen-Shannon divergence: τ² ½ (KL(q || m) + KL(p || m)), m = (p + q) / 2, at most τ² log 2.

    Args, errors: as `kd`. Source: PLD paper, Appendix G (which gives no formula; this is the usual one, in nats).
    """
    options = (temperature, tau_squared, reduction, ignore_index, class_dim)
    return _divergence_loss(_jensen_shannon, student_logits, teacher_logits, labels, *options)


@of_rows(reads_labels=False)
def generalized_jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    tau_squared: bool = True,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Generalized Jensen-Shannon divergence: τ² (β KL(q || m) + (1 - β) KL(p || m)), m = β q + (1 - β) p.

    β = 1/2 is `jensen_shannon`. By definition β = 0 is the forward KL(q || p) and β = 1 the reverse KL(p || q): the
    formula itself is 0 there, so nearby values of β are small, and grow by 1/β or 1/(1 - β) to these. log m is found
    from log q and log p, so that no probability underflows.

    Args:
        beta: β in [0, 1], the teacher's part of the mixture.
        temperature: τ > 0; 1 is the choice of the public code for language models.
        student_logits, teacher_logits, labels, tau_squared, reduction, ignore_index, class_dim: as `kd`, errors too.

    Source: Agarwal et al., "On-policy distillation of language models" (2024).
    """
    check_mixture(beta)
    divergence = partial(_generalized_jsd, beta=beta)
    options = (temperature, tau_squared, reduction, ignore_index, class_dim)
    return _divergence_loss(divergence, student_logits, teacher_logits, labels, *options)


@of_rows(reads_labels=False)
def skew_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    skew: float = 0.1,
    direction: str = "forward",
    entropy: bool = True,
    temperature: float = 1.0,
    tau_squared: bool = True,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Skew KL: τ² KL(a || λ a + (1 - λ) b), a = q and b = p forward, a = p and b = q reverse.

    λ = 0 is `kd` forward and `reverse_kl` reverse; λ = 1 is 0. For λ > 0 it is at most τ² log(1/λ), also where a model
    rules out a class. log of the mixture is found from log a and log b, so that no probability underflows.

    Args:
        skew: λ in [0, 1], the part of the mixture that is a.
        direction: "forward" (from the teacher) or "reverse" (from the student).
        entropy: False leaves out the teacher's negative entropy Σ_i q_i log q_i, which is a constant: the
            cross-entropy -τ² Σ_i q_i log(λ q_i + (1 - λ) p_i) has the same gradient. Forward alone: the student's
            entropy is no constant.
        temperature: τ > 0; 1 is the choice of the public code for language models.
        student_logits, teacher_logits, labels, tau_squared, reduction, ignore_index, class_dim: as `kd`, errors too.

    Raises:
        ValueError: also for entropy=False with direction="reverse".

    Source: Ko et al., "DistiLLM: towards streamlined distillation for large language models" (2024).
    """
    check_skew(skew, direction, entropy)
    divergence = partial(_skew_kl, skew=skew, forward=direction == "forward", entropy=entropy)
    options = (temperature, tau_squared, reduction, ignore_index, class_dim)
    return _divergence_loss(divergence, student_logits, teacher_logits, labels, *options)


def check_mixture(beta: object) -> None:
    check_factor("beta", beta)
    check_fraction("beta", beta)


def check_skew(skew: object, direction: object, entropy: object) -> None:
    check_fraction("skew", skew)
    check_choice("direction", direction, DIRECTIONS)
    check_flag("entropy", entropy)
    if direction == "reverse" and not entropy:
        raise ValueError(
            "entropy must be True for direction='reverse', got False: the student's entropy has a gradient, and "
            "without it the loss is least for a student that is sure of one class"
        )


@of_rows(reads_labels=True)
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Decoupled KD: τ² (α KL(b_q || b_p) + β KL(q̂ || p̂)), b = [p_y, 1 - p_y], p̂ = softmax over the classes but y.

    In log space throughout, so a student that is sure of the label has a finite loss. A row where a model leaves no
    class but the label has no q̂ or p̂: its second term is 0.

    Args:
        alpha: α >= 0, the target-class term. beta: β >= 0, the non-target term; 8 is the original's value for
            ResNet32x4/8x4 and ResNet50/MobileNetV2 on CIFAR-100 (6 and 2 for its other pairs).
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        student_logits, teacher_logits, temperature, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: Zhao et al., "Decoupled knowledge distillation" (2022).
    """
    check_factor("alpha", alpha)
    check_factor("beta", beta)
    check_reduction(reduction)
    check_tensor("labels", labels)  # unlike the other losses here, this one is none without them
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    target = _one_hot(blank(labels.flatten(), kept), student)
    b_p, log_p, student_alone = _decouple(student, target, temperature)
    b_q, log_q, teacher_alone = _decouple(teacher, target, temperature)
    others = _kl(log_q, log_p).masked_fill(student_alone | teacher_alone, 0)
    return reduce_rows(
        temperature**2 * (alpha * _kl(b_q, b_p) + beta * others), kept, reduction, student_logits, class_dim
    )


@of_rows(reads_labels=True)
def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Normalized KD: -q_y log p_y - γ τ² Σ_{c≠y} q̂_c log p̂_c, p and q at temperature 1, p̂ = softmax_{c≠y}(s / τ).

    Cross-entropies, without the teacher's entropy: least at p = q, but not 0 there. Of two classes, one is left beside
    the label, and the second term is 0, as it is in a row where a model leaves no class but the label.

    Args:
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        gamma: γ >= 0, the non-target term. 1.5 with τ = 1 is the original's for ImageNet; its example on CIFAR-100,
            ResNet34 to ResNet18, has 3.5 with τ = 3.
        temperature: τ > 0, of the non-target term alone.
        student_logits, teacher_logits, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: Yang et al., "From knowledge distillation to self-knowledge distillation: a unified approach with normalized
    loss and customized soft labels" (2023). A soft label counts by its parts here, by its largest class in the
    original's code.
    """
    check_factor("gamma", gamma)
    check_reduction(reduction)
    check_tensor("labels", labels)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    target = _one_hot(blank(labels.flatten(), kept), student)
    log_p, log_q = (_log_softmax(logits, 1.0).masked_fill(~target, 0).sum(1) for logits in (student, teacher))
    q = log_q.exp()
    own = -q * log_p.masked_fill(q == 0, 0)
    others = _among(~target, student, teacher, temperature, _cross_entropy)
    return reduce_rows(own + gamma * temperature**2 * others, kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=False)
def ttm(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 10.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Transformed teacher matching: Σ_i q_i (log q_i - log softmax(s)_i), the temperature on the teacher alone, no τ².

    q = softmax(t / τ) is the teacher's softmax(t) raised to the power 1/τ and normalized.

    Args:
        temperature: τ > 0, the inverse of the original's exponent. 10 is the value of its example, VGG13 to VGG8 on
            CIFAR-100.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: Zheng and Yang, "Knowledge distillation based on transformed teacher matching" (2024).
    """
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    losses = _kl(_log_softmax(teacher, temperature), _log_softmax(student, 1.0))
    return reduce_rows(losses, kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=False)
def wttm(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 5.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Weighted TTM: U Σ_i q_i (log q_i - log softmax(s)_i) with U = Σ_i softmax(t)_i^(1/τ), row by row.

    U, between 1 and C^(1 - 1/τ) for τ >= 1, is large where the teacher is unsure. It rescales the whole loss: a weight
    for `ttm` is about ten times too large here, at 100 classes.

    Args:
        temperature: τ > 0, the inverse of the original's exponent; 5 is the value of its example with this loss.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too. The mean
            divides by the number of rows, not by the sum of U.

    Source: Zheng and Yang, "Knowledge distillation based on transformed teacher matching" (2024).
    """
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    losses = _kl(_log_softmax(teacher, temperature), _log_softmax(student, 1.0))
    weight = (_log_softmax(teacher, 1.0) / temperature).logsumexp(1).exp()
    return reduce_rows(weight * losses, kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=True)
def rld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    target_temperature: float = 1.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Refined logit distillation: α τ_y² KL([m, 1 - m] || [p_y, 1 - p_y]) + β τ² KL(q̂ || p̂), m = max_c q_c.

    p_y and m are of temperature τ_y; p̂ and q̂ are softmaxes, of temperature τ, over the classes that the teacher puts
    below the label: {c: t_c < t_y}. So the student learns how sure the teacher is, but of the label, and nothing about
    classes that the teacher takes for the label. A class tied with the label is left out with those above it.

    In log space throughout, so a student that is confidently wrong has a finite loss. A row where no class is below the
    label, or where a model masks all of these, has no second term, and counts.

    Args:
        labels: y, (N, d1, ...), integers in 0..C-1 or `ignore_index`.
        alpha: α >= 0, the confidence term. beta: β >= 0, the term of the classes below the label.
        temperature: τ > 0. target_temperature: τ_y > 0; the original's README runs it at τ.
        student_logits, teacher_logits, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: Sun et al., "Knowledge distillation with refined logits" (2024).
    """
    check_factor("alpha", alpha)
    check_factor("beta", beta)
    check_temperature(target_temperature, "target_temperature")
    check_reduction(reduction)
    check_tensor("labels", labels)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    target = _one_hot(blank(labels.flatten(), kept), student)
    b_p, *_ = _decouple(student, target, target_temperature)
    b_q, *_ = _decouple(teacher, _one_hot(teacher.argmax(1), teacher), target_temperature)
    below = teacher < teacher.masked_fill(~target, -math.inf).amax(1, keepdim=True)
    refined = _among(below, student, teacher, temperature, lambda log_p, log_q: _kl(log_q, log_p))
    losses = alpha * target_temperature**2 * _kl(b_q, b_p) + beta * temperature**2 * refined
    return reduce_rows(losses, kept, reduction, student_logits, class_dim)


@of_rows(reads_labels=False)
def dhkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 2.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Dual-head KD's logit term: τ² Σ_c log cosh((s_c - t_c) / (2 τ)), class by class and without a softmax.

    The same as τ² Σ_c KL(Bernoulli(½) || Bernoulli(σ((s_c - t_c) / τ))), whose form by probabilities is infinite with a
    gradient of 0 in float32 from (s_c - t_c) / τ = 17 on; this one grows as τ |s_c - t_c| / 2. The logits themselves
    are matched: unlike KD, the loss changes where a constant is added to a row.

    Dual-head KD gives it to a second head on the student's pooled feature, so that the head of the task is left alone:
    the method `dhkd`. A class that one model alone rules out (-inf) costs +inf.

    Args:
        temperature: τ > 0; 2 is the original's.
        student_logits, teacher_logits, labels, reduction, ignore_index, class_dim: as `kd`, and errors too.

    Source: Yang et al., "Dual-head knowledge distillation" (2025), the normalized form of its binary KL, which its
    public code trains with. The closed form is pldistill's own.
    """
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    masked = (student == -math.inf) & (teacher == -math.inf)
    halves = (student - teacher).masked_fill(masked, 0) / (2 * temperature)
    return reduce_rows(temperature**2 * _log_cosh(halves).sum(1), kept, reduction, student_logits, class_dim)


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 4.0,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
) -> Tensor:
    """DIST: τ² (β (1 - mean_n r(p_n, q_n)) + γ (1 - mean_c r(p_:c, q_:c))), r Pearson's correlation.

    r(a, b) = <a - ā, b - b̄> / (|a - ā| |b - b̄| + 1e-8): the 1e-8 is part of the definition, since a class that is
    rarely likely has a product of norms about as small. The first term compares the classes within a row, the second
    the rows within a class: the rows of a batch are coupled; with one row the second term is γ τ², its gradient 0.

    Args:
        beta: β >= 0, inter-class term. gamma: γ >= 0, intra-class term. Defaults: the PLD paper's for CIFAR-100.
        labels: (N, d1, ...); rows of `ignore_index` take no part in either correlation.
        reduction: "mean" alone, as the loss is no sum over samples.
        student_logits, teacher_logits, temperature, ignore_index, class_dim: as `kd`, errors too. Positions are rows.

    Source: Huang et al., "Knowledge distillation from a stronger teacher" (2022).
    """
    check_factor("beta", beta)
    check_factor("gamma", gamma)
    check_mean_alone("dist", reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    p, q = _log_softmax(student, temperature).exp(), _log_softmax(teacher, temperature).exp()
    part = ~((student == -math.inf) & (teacher == -math.inf))
    part = part if kept is None else part & kept[:, None]
    inter = reduce_rows(1 - _pearson(p, q, part, dim=1), part.any(1), "mean", student_logits, class_dim)
    intra = reduce_rows(1 - _pearson(p, q, part, dim=0), part.any(0), "mean", student_logits, class_dim)
    return temperature**2 * (beta * inter + gamma * intra)


def check_mean_alone(loss: str, reduction: object) -> None:
    """Refuse another reduction of a loss that couples the samples of a batch."""
    if reduction != "mean":
        raise ValueError(
            f"reduction must be 'mean' for {loss}, which couples the samples of a batch, got {reduction!r}"
        )


def standardize(logits: Tensor, *, class_dim: int = 1) -> Tensor:
    """Logit standardization over the classes: (z - mean z) / (1e-7 + std z), std with C - 1 in the denominator.

    Put it around both models' logits inside a distillation loss. Masked classes (-inf) stay so, out of mean and std.

    Args:
        logits: z, (N, C) or (N, C, d1, ...) with C >= 2, floating point.
        class_dim: the dimension of the classes, where it is not dim 1.

    Returns:
        The same shape, in float32, or float64 for float64.

    Raises:
        ValueError: not such a tensor.

    Source: Sun et al., "Logit standardization in knowledge distillation" (2024).
    """
    check_logits("logits", logits, class_dim)
    if logits.shape[class_dim] < 2:
        raise ValueError(f"logits must have at least 2 classes to be standardised, got shape {tuple(logits.shape)}")
    logits = logits.to(computing_dtype(logits))
    masked = logits == -math.inf
    z = (logits - _finite_top(logits, class_dim)).masked_fill(masked, 0)
    count = (~masked).sum(class_dim, keepdim=True)
    centered = (z - z.sum(class_dim, keepdim=True) / count.clamp(min=1)).masked_fill(masked, 0)
    std = torch.linalg.vector_norm(centered, dim=class_dim, keepdim=True) / (count - 1).clamp(min=1).to(z.dtype).sqrt()
    return (centered / (1e-7 + std)).masked_fill(masked, -math.inf)


def _divergence_loss(
    divergence: Callable[[Tensor, Tensor], Tensor],
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    temperature: float,
    tau_squared: bool,
    reduction: str,
    ignore_index: int,
    class_dim: int,
) -> Tensor:
    """τ² times a divergence that takes log p and log q."""
    check_flag("tau_squared", tau_squared)
    check_reduction(reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, temperature, ignore_index, class_dim)
    losses = divergence(_log_softmax(student, temperature), _log_softmax(teacher, temperature))
    return reduce_rows(temperature**2 * losses if tau_squared else losses, kept, reduction, student_logits, class_dim)


def _rows(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    temperature: float,
    ignore_index: int,
    class_dim: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check what all losses here share; return student and teacher as rows to compute with, and which are kept."""
    check_pair(student_logits, teacher_logits, class_dim)
    check_temperature(temperature)
    check_ignore_index(ignore_index)
    if labels is not None:
        check_labels(labels, student_logits, ignore_index, class_dim)
    dtype = computing_dtype(student_logits, teacher_logits)
    kept = None if labels is None else kept_rows(labels, ignore_index)
    student, teacher = (to_rows(logits, class_dim).to(dtype) for logits in (student_logits, teacher_logits.detach()))
    return blank(student, kept), blank(teacher, kept), kept


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(z / τ); the largest logit is taken off before the division, where that is still exact."""
    return torch.log_softmax((logits - _finite_top(logits)) / temperature, 1)


def _finite_top(logits: Tensor, dim: int = 1) -> Tensor:
    top = logits.detach().amax(dim, keepdim=True)
    return top.masked_fill(top == -math.inf, 0)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Σ_i a_i (log a_i - log b_i) along dim 1. Where a_i = 0 the difference, maybe NaN, has no part in the gradient."""
    a = log_a.exp()
    return (a * (log_a - log_b).masked_fill(a == 0, 0)).sum(1)


def _one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """(M, C) bool: where each row's class is."""
    return torch.arange(like.shape[1], device=like.device) == classes[:, None]


def _among(
    part: Tensor,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    divergence: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A divergence of the softmaxes over the classes in `part`; 0 in a row where a model leaves none of them."""
    student, teacher = (logits.masked_fill(~part, -math.inf) for logits in (student, teacher))
    none = ((student == -math.inf).all(1) | (teacher == -math.inf).all(1))[:, None]
    log_p, log_q = (_log_softmax(logits.masked_fill(none, 0), temperature) for logits in (student, teacher))
    return divergence(log_p, log_q).masked_fill(none[:, 0], 0)


def _cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-Σ_i q_i log p_i along dim 1."""
    q = log_q.exp()
    return -(q * log_p.masked_fill(q == 0, 0)).sum(1)


def _log_cosh(x: Tensor) -> Tensor:
    """log cosh x: by sinh where x is small and exponentials would cancel, by |x| where sinh would overflow."""
    small = x.abs() < 1
    near = torch.log1p(x.masked_fill(~small, 0).sinh().square()) / 2
    size = x.masked_fill(small, 1).abs()
    return torch.where(small, near, size + torch.log1p(torch.exp(-2 * size)) - math.log(2))


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    nowhere = (log_p == -math.inf) & (log_q == -math.inf)
    log_m = torch.logaddexp(log_p.masked_fill(nowhere, 0), log_q.masked_fill(nowhere, 0)) - math.log(2)
    return (_kl(log_q, log_m) + _kl(log_p, log_m)) / 2


def _generalized_jsd(log_p: Tensor, log_q: Tensor, *, beta: float) -> Tensor:
    if beta == 0:
        return _kl(log_q, log_p)
    if beta == 1:
        return _kl(log_p, log_q)
    log_m = _log_mixture(log_q, log_p, beta)
    return beta * _kl(log_q, log_m) + (1 - beta) * _kl(log_p, log_m)


def _skew_kl(log_p: Tensor, log_q: Tensor, *, skew: float, forward: bool, entropy: bool) -> Tensor:
    log_a, log_b = (log_q, log_p) if forward else (log_p, log_q)
    log_m = _log_mixture(log_a, log_b, skew)
    if entropy:
        return _kl(log_a, log_m)
    a = log_a.exp()
    return -(a * log_m.masked_fill(a == 0, 0)).sum(1)


def _log_mixture(log_a: Tensor, log_b: Tensor, part: float) -> Tensor:
    """log(λ a + (1 - λ) b); where both are 0, a constant that has no part in anything."""
    if part in (0, 1):
        return log_a if part else log_b
    nowhere = (log_a == -math.inf) & (log_b == -math.inf)
    log_a, log_b = log_a.masked_fill(nowhere, 0), log_b.masked_fill(nowhere, 0)
    return torch.logaddexp(log_a + math.log(part), log_b + math.log1p(-part))


def _decouple(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log [p_y, 1 - p_y], (M, 2); log p̂ with -inf at y; and (M,) where y alone is left, so that log p̂ means nothing."""
    others = logits.masked_fill(target, -math.inf)
    alone = (others == -math.inf).all(1)
    log_p = _log_softmax(logits, temperature)
    log_target = log_p.masked_fill(~target, 0).sum(1)
    log_others = log_p.masked_fill(target, -math.inf).masked_fill(alone[:, None], 0).logsumexp(1)
    binary = torch.stack([log_target, log_others.masked_fill(alone, -math.inf)], 1)
    return binary, _log_softmax(others.masked_fill(alone[:, None], 0), temperature), alone


def _pearson(a: Tensor, b: Tensor, part: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along `dim` over the entries that take part."""
    a, b = _centered(a, part, dim), _centered(b, part, dim)
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (norms + 1e-8)


def _centered(x: Tensor, part: Tensor, dim: int) -> Tensor:
    mean = x.masked_fill(~part, 0).sum(dim, keepdim=True) / part.sum(dim, keepdim=True).clamp(min=1)
    return (x - mean).masked_fill(~part, 0)
