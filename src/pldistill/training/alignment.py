"""Gradient alignment: what the method teaches never works against the task's own loss.

Where the gradient of the method's terms points against that of the task's (their product is below zero), it loses its
component along it; the task's is never changed. Both are of a whole step, over all that is trained, flattened to one
vector, as in the public code of dual-head knowledge distillation (Yang et al. 2025), whose option this is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from pldistill import distributed
from pldistill.training.distiller import Step


class Alignment:
    """Sums up both gradients over the batches of a step, then gives the parameters the aligned sum of the two.

    Args:
        parameters: all that is trained. A parameter that is one term's alone, as a second head is, counts with its
            zeros.
        own: the names of the task's terms.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], own: Collection[str]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.own = own
        self.task: list[Tensor] = []
        self.method: list[Tensor] = []

    def add(self, step: Step, scale: Tensor | float) -> None:
        """Add a batch's gradients, each `scale` times."""
        own = [value for name, value in step.weighted.items() if name in self.own]
        others = [value for name, value in step.weighted.items() if name not in self.own]
        self.method = self._added(self.method, others, scale, keep=bool(own))
        self.task = self._added(self.task, own, scale, keep=False)

    def put(self) -> None:
        """Leave the aligned gradient in the parameters' `grad`, and begin anew; of several processes the mean's.

        Where nothing was added, what is there stays.
        """
        if not self.task:
            return
        task, method = distributed.mean_of(self.task), distributed.mean_of(self.method)
        for parameter, gradient in zip(self.parameters, aligned(task, method), strict=True):
            parameter.grad = gradient
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self.task, self.method = [], []

    def _added(self, sums: list[Tensor], terms: list[Tensor], scale: Tensor | float, keep: bool) -> list[Tensor]:
        if not terms:
            return sums or [torch.zeros_like(parameter) for parameter in self.parameters]
        loss = torch.stack(terms).sum() * scale
        found = torch.autograd.grad(loss, self.parameters, retain_graph=keep, allow_unused=True)
        given = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        return [a + b for a, b in zip(sums, given, strict=True)] if sums else given


def aligned(task: list[Tensor], method: list[Tensor]) -> list[Tensor]:
    """Give `task + method`, where `method` has lost what of it points against `task`.

    With the product p = <method, task> over all tensors and p < 0 that is `(1 - p / |task|^2) task + method`: the
    task's gradient counts more, and what is against it is gone.

    Args:
        task, method: gradients of the same shapes.
    """
    # In float64: a norm of many small numbers, of scaled gradients too, neither overflows nor vanishes.
    product = torch.stack([(a.double() * b.double()).sum() for a, b in zip(task, method, strict=True)]).sum()
    squared = torch.stack([a.double().square().sum() for a in task]).sum()
    share = torch.where(product < 0, product / squared, 0.0)  # where product < 0, task is not zero
    return [b + (1 - share).to(a.dtype) * a for a, b in zip(task, method, strict=True)]
