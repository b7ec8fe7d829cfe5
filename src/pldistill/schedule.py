"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from pldistill.recipe import Recipe

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
