"""What the tests of the KL along the ranking share: its weightings and drawn models."""

import pytest
import torch

every_weighting = pytest.mark.parametrize("stages", [1, 2, 10, "teacher"])


def draw(rows=6, classes=12, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    student, teacher = (
        (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(2)
    )
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def gradient_of(losses, student):
    return torch.autograd.grad(losses.sum(), student)[0]
