"""What the losses on activations share: what they refuse, and a direction that stays finite at length 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pldistill.losses._checks import check_tensor
from pldistill.losses._rows import computing_dtype


def check_maps(student: object, teacher: object) -> None:
    """Refuse what is not two (N, C, H, W) maps of the same pictures."""
    _check_pair(student, teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"expected maps (N, C, H, W), got {shapes(student, teacher)}")


def check_vectors(student: object, teacher: object) -> None:
    """Refuse what is not two (N, D) features of the same pictures; D may differ."""
    _check_pair(student, teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() != 2 or teacher.dim() != 2:
        raise ValueError(f"expected pooled features (N, D), got {shapes(student, teacher)}")


def check_samples(student: object, teacher: object) -> None:
    """Refuse what is not two (N, ...) features of the same pictures."""
    _check_pair(student, teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() < 2 or teacher.dim() < 2:
        raise ValueError(f"expected features (N, ...) of at least 2 dimensions, got {shapes(student, teacher)}")


def check_equal(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"expected features of one shape, got {shapes(student, teacher)}")


def shapes(student: Tensor, teacher: Tensor) -> str:
    return f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"


def computed(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that is computed in, the teacher as a constant."""
    dtype = computing_dtype(student, teacher)
    return student.to(dtype), teacher.detach().to(dtype)


def unit(vectors: Tensor, dim: int = 1, *, extra: float = 0.0) -> Tensor:
    """v / (|v| + extra) along `dim`. A vector of length 0 has no direction: it stays 0, and no gradient reaches it."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / (length.masked_fill(length <= 1e-12, math.inf) + extra)


def _check_pair(student: object, teacher: object) -> None:
    for name, features in (("student", student), ("teacher", teacher)):
        check_tensor(name, features)
        assert isinstance(features, Tensor)
        if not features.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {features.dtype}")
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.device != teacher.device:
        raise ValueError(f"student is on {student.device} but teacher on {teacher.device}")
    if student.shape[:1] != teacher.shape[:1] or 0 in (student.numel(), teacher.numel()):
        raise ValueError(f"expected features of the same pictures, at least one, got {shapes(student, teacher)}")
