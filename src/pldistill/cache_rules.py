"""What a recipe with a stored teacher must not ask, and what it must say of views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pldistill import methods

if TYPE_CHECKING:
    from pldistill.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Refuse fields that contradict one another.

    Raises:
        ValueError: fewer views than copies of a picture; beside a `teacher_cache` a method that is nothing to a store
            of logits, and what would change a teacher's answers.
    """
    if recipe.views is not None and recipe.views < recipe.repeats:
        raise ValueError(
            f"views: expected at least {recipe.repeats}, one for each of a picture's copies, got {recipe.views}"
        )
    cache = recipe.teacher_cache
    if cache is None:
        return
    spec = methods.find(recipe.method)
    if not spec.needs_teacher:
        raise ValueError(f"method {recipe.method!r} asks no teacher, got teacher_cache={cache!r}")
    if spec.taps is not None:
        raise ValueError(
            f"method {recipe.method!r} compares activations, which a store does not hold: expected a teacher alone, "
            f"got teacher_cache={cache!r}"
        )
    for name, value in (("teacher_checkpoint", recipe.teacher_checkpoint), ("class_map", recipe.class_map)):
        if value is not None:
            raise ValueError(f"{name}: expected none beside teacher_cache={cache!r}, which holds answers alone")
