"""A loss on how the logits of a batch's samples relate: SKD's term, which couples the rows of a batch.

Symbols: z_n the logits of row n divided by their length, Z (N, C) all of them, student's or teacher's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pldistill.losses._inputs import reduce_rows
from pldistill.losses.logit import _rows, check_mean_alone


def skd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    ridge: float = 0.1,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_dim: int = 1,
) -> Tensor:
    """SKD's term: mean_n sqrt(d_nᵀ S⁻¹ d_n), D = (Z_s Z_sᵀ - Z_t Z_tᵀ) / C, S = cov(D) + ε I.

    A Mahalanobis length of how far the cosines between a sample and all others are from the teacher's; d_n is row n of
    D, cov that of its rows with N - 1 in the denominator, 0 for one row. The gradient flows through S as well. A row
    with d = 0 has no direction: its length is 0 and its gradient is 0, so a student that is its teacher has a finite
    one.

    The cosines are of raw logits: unlike KD, the loss changes where a constant is added to a row. Logits of length 0
    stay 0. Classes that both models mask with -inf do not take part, in C neither; all other logits must be finite.

    Args:
        labels: (N, d1, ...); rows of `ignore_index` take no part.
        ridge: ε, from 1e-6 to 1e6.
        reduction: "mean" alone, as the loss is no sum over samples.
        student_logits, teacher_logits, ignore_index, class_dim: as `kd`, and errors too. Positions are rows: D has N²
            numbers, and the Cholesky factor of S costs N³ / 3.

    Source: the correlation term of the public code of SKD, "StreamLined" (CVPR 2026); its KD term and the masks that
    weight both are not part of it.
    """
    check_ridge(ridge)
    check_mean_alone("skd", reduction)
    student, teacher, kept = _rows(student_logits, teacher_logits, labels, 1.0, ignore_index, class_dim)
    masked = (student == -math.inf) & (teacher == -math.inf)
    counts = torch.ones_like(student[:, 0]) if kept is None else kept.to(student.dtype)
    classes = (~masked & (counts[:, None] > 0)).any(0).sum().clamp(min=1)
    device = student.device.type
    with torch.autocast(device if torch.amp.is_autocast_available(device) else "cpu", enabled=False):
        ours, theirs = (_directions(logits.masked_fill(masked, 0)) * counts[:, None] for logits in (student, teacher))
        d = (ours @ ours.mT - theirs @ theirs.mT) / classes
        count = counts.sum()
        centered = (d - d.sum(0) / count.clamp(min=1)) * counts[:, None]
        covariance = centered.mT @ centered / (count - 1).clamp(min=1)
        s = covariance + ridge * torch.eye(len(d), dtype=d.dtype, device=d.device)
        factor, _ = torch.linalg.cholesky_ex(s)  # which looks at no value
        solved = torch.linalg.solve_triangular(factor, d.mT, upper=False)
    lengths, nothing = _length(solved, dim=0)
    lengths = lengths.masked_fill(nothing, 0)
    return reduce_rows(lengths, kept, reduction, student_logits, class_dim)


def check_ridge(ridge: object) -> None:
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 1e-6 <= ridge <= 1e6:
        raise ValueError(f"ridge must be a number from 1e-06 to 1e+06, got {ridge!r}")


def _directions(logits: Tensor) -> Tensor:
    """z / |z|, whose squares do not overflow; 0, without a gradient, for a z of length 0."""
    z = logits / logits.detach().abs().amax(1, keepdim=True).clamp(min=1)
    length, nothing = _length(z, dim=1)
    return (z / length[:, None]).masked_fill(nothing[:, None], 0)


def _length(vectors: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """|v| along `dim`, and where it is nothing: 1 stands there in its place, so that no derivative is NaN."""
    squares = vectors.square().sum(dim)
    nothing = squares <= 1e-24
    return squares.masked_fill(nothing, 1).sqrt(), nothing
