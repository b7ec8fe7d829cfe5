"""Optimizers by name: timm's factory, with `sgd` meaning what papers mean by it."""

from __future__ import annotations

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

    With `decay_all` off, tensors of one dimension (biases, normalisation) and those that the model itself excludes are
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
