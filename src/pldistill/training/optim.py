"""Optimizers by name: timm's factory, with `sgd` meaning what papers mean by it; and the learning rate.

The rate is a pure function of the step: there is nothing to save and nothing to restore.
"""

from __future__ import annotations

import math

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from pldistill.recipe import Recipe
from pldistill.specs import unknown

# In timm `sgd` is Nesterov's; the public distillation code and torch mean plain momentum.
_TIMM_NAMES = {"sgd": "momentum"}


def optimizer_names() -> list[str]:
    """Give the names that work without further packages (timm also knows Apex's and bitsandbytes')."""
    return [name for name in map(str, list_optimizers()) if not name.startswith(("bnb", "fused"))]


def check_optimizer(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: naming the near ones.
    """
    if name not in optimizer_names():
        raise ValueError(unknown("optimizer", name, optimizer_names()))


def make_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over every parameter of `module`.

    With `decay_all` off, tensors of one dimension (biases, normalization) and those that the model itself excludes are
    spared from weight decay, as timm does it.
    """
    check_optimizer(recipe.optimizer)
    return create_optimizer_v2(
        module,
        opt=_TIMM_NAMES.get(recipe.optimizer, recipe.optimizer),
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        filter_bias_and_bn=not recipe.decay_all,
    )


# After which part of the run the step schedule divides by ten: epochs 150, 180 and 210 of 240 in the public CIFAR code.
MILESTONES = (150 / 240, 180 / 240, 210 / 240)
# The same of the two-step schedule: steps 120,000 and 160,000 of 180,000 in the public code for detectors.
TWO_STEP = (120 / 180, 160 / 180)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Give the learning rate of `step`, counted from 0 over the whole run."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / math.ceil(warmup)
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps_per_epoch
        return recipe.lr * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    if recipe.schedule == "step":
        epoch = step // steps_per_epoch
        return recipe.lr * 0.1 ** sum(epoch >= part * recipe.epochs for part in MILESTONES)
    if recipe.schedule == "two-step":
        total = recipe.epochs * steps_per_epoch
        return recipe.lr * 0.1 ** sum(step >= part * total for part in TWO_STEP)
    return recipe.lr
