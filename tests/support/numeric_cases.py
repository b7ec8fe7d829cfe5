"""The hard cases of the Plackett-Luce losses, and how exact they must be: for the tests and `benchmarks/numerics.py`.

Errors are the worst row's: |loss - exact| / |exact|, and the L2 norm of the gradient's error over the gradient's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import reference
from pldistill.losses import pld


@dataclass(frozen=True)
class Case:
    """`make(student, teacher, labels)` turns Gaussian logits of standard deviation 3 into the case's student."""

    name: str
    classes: int
    make: Callable[[Tensor, Tensor, Tensor], Tensor]
    loss_bound: float
    gradient_bound: float
    temperature: float = 1.0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.classes)
        rows = 3 if self.classes > 1000 else 16
        student, teacher = (3 * torch.randn(rows, self.classes, generator=generator) for _ in range(2))
        labels = torch.randint(self.classes, (rows,), generator=generator)
        return self.make(student, teacher, labels), teacher, labels

    def errors(
        self, loss: Callable[..., Tensor] = pld, exact_rows: Callable[..., tuple[Tensor, Tensor]] = reference.pld
    ) -> tuple[float, float]:
        """The relative errors of loss and gradient against the reference, of what `loss` says of float32 logits."""
        student, teacher, labels = self.tensors()
        exact, exact_gradient = exact_rows(student, teacher, labels, temperature=self.temperature)
        student = student.clone().requires_grad_()
        losses = loss(student, teacher, labels, temperature=self.temperature, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), student)
        loss_error = ((losses.double() - exact).abs() / exact.abs()).max()
        gradient_error = ((gradient.double() - exact_gradient).norm(dim=1) / exact_gradient.norm(dim=1)).max()
        return loss_error.item(), gradient_error.item()


def _plain(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return student


def _scaled(deviation: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda student, teacher, labels: student / 3 * deviation


def _fitted(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return teacher + student / 60


def _sure_of_label(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return student.scatter(1, labels[:, None], student.amax(1, keepdim=True) + 200)


def _shifted(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return student + 1e4


CASES = [
    *(Case(f"C = {classes}", classes, _plain, 1e-6, 1e-6) for classes in (2, 10, 100, 1000, 21841)),
    Case("C = 100, temperature 4", 100, _plain, 1e-6, 1e-6, temperature=4.0),
    Case("C = 1000, student fitted to the teacher", 1000, _fitted, 1e-6, 1e-6),
    Case("C = 100, student deviation 1e2", 100, _scaled(1e2), 1e-6, 1e-5),
    Case("C = 1000, student deviation 1e2", 1000, _scaled(1e2), 1e-6, 1e-5),
    Case("C = 100, student deviation 1e4", 100, _scaled(1e4), 1e-6, 1e-5),
    Case("C = 1000, student deviation 1e4", 1000, _scaled(1e4), 1e-6, 1e-5),
    Case("C = 100, label logit 200 above the rest", 100, _sure_of_label, 1e-6, 1e-5),
    Case("C = 1000, label logit 200 above the rest", 1000, _sure_of_label, 1e-6, 1e-5),
    Case("C = 100, all logits shifted by 1e4", 100, _shifted, 1e-4, 1e-4),
    Case("C = 1000, all logits shifted by 1e4", 1000, _shifted, 1e-4, 1e-4),
]
