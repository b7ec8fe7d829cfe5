"""What the nets are trained to do: two of them asked about a batch, the task's own loss, its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pldistill.recipe import Recipe
    from pldistill.tasks.base import Task


def make_task(recipe: Recipe) -> Task[Any, Any]:
    """Build the recipe's task."""
    if recipe.task == "detection":
        from pldistill.tasks.detection import Detection  # brings torchvision's detectors

        return Detection(recipe.task_options)
    from pldistill.tasks.classification import Classification

    return Classification(recipe.label_smoothing)
