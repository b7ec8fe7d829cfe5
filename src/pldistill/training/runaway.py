"""Numbers that run away: a loss, a validation figure or a gradient that no run that goes well has.

A run that diverges without becoming infinite ends like any other, with a figure in a table. So it is said, by the name
of the term and with the likely reason: at the first steps by the gradient, and after each epoch by its figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pldistill.recipe import Recipe

FIRST_STEPS = 3
GROWTH = 100.0  # of a term, over the least that an epoch before had
WORSE = 10.0  # times the cross-entropy of guessing, log C
_ALIKE = 1e-6  # a deviation of logits below it is none


class Watch:
    """What ran away in the epochs of a run so far, which is told of them one by one.

    Args:
        classes: how many the data has.
        reason: the likely one, as `likely_reason` gives it.
    """

    def __init__(self, classes: int, reason: str) -> None:
        self._guessing, self._reason = math.log(max(classes, 2)), reason
        self._least: dict[str, tuple[float, int]] = {}
        self.warnings: dict[str, str] = {}

    def add(self, row: Mapping[str, Any]) -> list[str]:
        """Look at an epoch's row; give what is new in `warnings`, which have one of a name, of its first epoch."""
        known = len(self.warnings)
        for name, term in row["terms"].items():
            value, number = abs(term["raw"]), row["epoch"]
            low, when = self._least.get(name, (value, number))
            if value > max(GROWTH * low, 1.0):
                self._warn(
                    name,
                    f"term {name!r} of the loss grew from {low:.3g} in epoch {when} to {value:.3g} in epoch {number}",
                )
            if value < low or name not in self._least:
                self._least[name] = (value, number)
        for name, about in (("kl", "KL to the teacher"), ("val_loss", "cross-entropy")):
            value = row.get(name)
            if value is not None and value > WORSE * self._guessing:
                figures = f"is {value:.3g} nats; guessing has {self._guessing:.3g}"
                self._warn(name, f"the validation {about} in epoch {row['epoch']} {figures}")
        return [*self.warnings.values()][known:]

    def _warn(self, name: str, text: str) -> None:
        self.warnings.setdefault(name, f"{text}: {self._reason}")


def of_epochs(rows: Iterable[Mapping[str, Any]], classes: int, reason: str) -> dict[str, str]:
    """What ran away in the epochs of a run, by its name: said of the first epoch in which it did."""
    watch = Watch(classes, reason)
    for row in rows:
        watch.add(row)
    return watch.warnings


def of_step(step: int, gradient: float, weights: float, lr: float, reason: str) -> str | None:
    """Whether a step of SGD is longer than all weights together, which are then no more than what the step left."""
    ratio = lr * gradient / weights if weights > 0 else math.inf
    if not ratio > 1:
        return None
    return (
        f"step {step} of the optimizer is {ratio:,.3g} times as long as all weights together (gradient norm "
        f"{gradient:.3g}, learning rate {lr:g}): {reason}"
    )


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all of them together. Waits for the device."""
    squares = [tensor.detach().float().square().sum() for tensor in tensors]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def gradient_norm(module: nn.Module) -> float:
    """The Euclidean norm of the gradients of all parameters together."""
    return norm(parameter.grad for parameter in module.parameters() if parameter.grad is not None)


def divides_by_deviation(recipe: Recipe) -> bool:
    """Whether the recipe's method divides by the deviation of the student's logits."""
    divides = recipe.method_spec.divides_by_deviation
    return divides is not None and divides(recipe.options)


def likely_reason(recipe: Recipe) -> str:
    """What most often makes a run of this recipe diverge, and what helps."""
    helps = "try a lower --lr or --clip-grad 1"
    if divides_by_deviation(recipe):
        return (
            f"method {recipe.method} divides by the deviation of the student's logits, so its gradient is unbounded "
            f"where they are alike; {helps}"
        )
    weights = ", ".join(f"{name} {weight}" for name, weight in recipe.weights.items() if weight != 0)
    return f"likely the learning rate ({recipe.lr:g}) or a term's weight ({weights}) is too large; {helps}"


def alike_at_first(recipe: Recipe, logits: Tensor) -> str | None:
    """What to say of a student whose logits `(1, C)` are all alike before the first step, where the method minds."""
    if not divides_by_deviation(recipe) or logits.float().std() > _ALIKE:
        return None
    return (
        f"student {recipe.student!r} begins with the same logit for every class, as timm's heads of zeros do (mixer, "
        f"resmlp, gmlp), and method {recipe.method} divides by their deviation, so the first step is as good as "
        "unbounded: try --clip-grad 1, another method for the first epochs, or another student"
    )
