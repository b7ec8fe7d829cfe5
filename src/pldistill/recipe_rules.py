"""What fields of a recipe contradict one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pldistill import cache_rules, methods
from pldistill.spec import ENSEMBLE, RANDOM, teacher_members
from pldistill.task_options import TASKS

if TYPE_CHECKING:
    from pldistill.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Refuse fields that contradict one another."""
    _check_task(recipe)
    needs = methods.find(recipe.method, recipe.task).needs_teacher
    if needs and recipe.teacher is None and recipe.teacher_cache is None:
        raise ValueError(f"method {recipe.method!r} needs a teacher: give a run folder or a net's name, got none")
    if not needs and recipe.teacher is not None:
        raise ValueError(f"method {recipe.method!r} asks no teacher, got teacher={recipe.teacher!r}")
    cache_rules.check(recipe)
    if recipe.teacher_checkpoint is not None and recipe.teacher is None:
        raise ValueError("teacher_checkpoint: expected the teacher's name beside it, got none")
    if recipe.teacher is not None:
        _check_teacher(recipe, recipe.teacher)
    if recipe.class_map is not None and recipe.teacher is None:
        raise ValueError("class_map: expected a teacher beside it, got none")
    if recipe.pretrained and recipe.student_checkpoint is not None:
        raise ValueError("pretrained and student_checkpoint: expected one of them, got both")
    if not any(weight != 0 for weight in recipe.weights.values()):
        raise ValueError(f"weights: expected one above 0, got {recipe.weights}")
    couples = methods.find(recipe.method, recipe.task).couples_batch
    if recipe.relation is not None and not couples:
        known = ", ".join(name for name, spec in methods.BY_TASK[recipe.task].items() if spec.couples_batch)
        raise ValueError(
            f"relation: expected a method that relates a batch's pictures ({known}), got {recipe.method!r}"
        )
    if couples and recipe.accumulate > 1 and recipe.relation != "local":
        raise ValueError(
            f"accumulate: expected 1 or relation='local', for {recipe.method!r} relates the pictures of a batch and "
            f"not those of {recipe.accumulate} batches, got accumulate={recipe.accumulate}, "
            f"relation={recipe.relation!r}"
        )
    if recipe.label_smoothing and recipe.weights.get("task") == 0:
        raise ValueError(
            f"label_smoothing: expected a method with a task term, whose cross-entropy it smooths (--weight task=1), "
            f"got {recipe.method!r} without one"
        )
    if recipe.warmup_epochs >= recipe.epochs and recipe.warmup_epochs > 0:
        raise ValueError(f"warmup_epochs: expected fewer than the {recipe.epochs} epochs, got {recipe.warmup_epochs:g}")
    if recipe.mix_probability != 1 and not (recipe.mixup or recipe.cutmix):
        raise ValueError(f"mix_probability: expected mixup or cutmix beside {recipe.mix_probability:g}, got neither")
    if recipe.unlabelled is not None:
        _check_unlabelled(recipe, recipe.unlabelled)


def _check_unlabelled(recipe: Recipe, unlabelled: str) -> None:
    """Refuse what pictures without labels do not go with."""
    if methods.find(recipe.method, recipe.task).needs_labels:
        known = ", ".join(name for name, spec in methods.BY_TASK[recipe.task].items() if not spec.needs_labels)
        raise ValueError(f"unlabelled: expected a method that reads no labels ({known}), got {recipe.method!r}")
    if recipe.mixup or recipe.cutmix:
        raise ValueError(f"unlabelled: expected neither mixup nor cutmix beside {unlabelled!r}, which mix labels")
    if recipe.accumulate > 1 and recipe.weights["task"] != 0:
        raise ValueError(
            "unlabelled: expected accumulate=1, for the task's loss is a mean over the labelled pictures of a "
            f"batch, whose number changes, got {recipe.accumulate}"
        )


def _check_teacher(recipe: Recipe, teacher: str) -> None:
    """Refuse what the teacher's text alone shows to be wrong."""
    members = teacher_members(teacher)
    if teacher.startswith(ENSEMBLE) and (len(members) < 2 or not all(members)):
        raise ValueError(f"teacher: expected ensemble:A+B with at least two members, got {teacher!r}")
    if len(members) > 1 and methods.find(recipe.method, recipe.task).taps is not None:
        raise ValueError(
            f"method {recipe.method!r} compares activations: expected one net for a teacher, got {teacher!r}"
        )
    drawn = [member for member in members if member.startswith(RANDOM)]
    if drawn and not recipe.trust_teacher:
        raise ValueError(
            f"teacher {drawn[0]!r} knows nothing, which only serves to try things out: say so with --trust-teacher"
        )
    if drawn and recipe.class_map is not None:
        raise ValueError(f"class_map: expected a teacher with classes of its own, got {drawn[0]!r}")
    if recipe.teacher_checkpoint is not None and teacher.startswith((ENSEMBLE, RANDOM)):
        raise ValueError(
            f"teacher_checkpoint: expected a net's name for a teacher beside it, got {teacher!r}; "
            "a member with weights is NAME@FILE"
        )


def _check_task(recipe: Recipe) -> None:
    """Refuse what says nothing in the recipe's task."""
    for name, reason in TASKS[recipe.task].refused.items():
        given, default = getattr(recipe, name), type(recipe).model_fields[name].default
        if given != default:
            raise ValueError(f"{name}: expected {default!r} in {recipe.task}, got {given!r}: {reason}")
    if recipe.relation == "global" and not recipe.task_options.get("background_rows", True):
        raise ValueError("relation: expected local where background_rows is false, for a process may have no row")
    if recipe.task == "detection" and (recipe.teacher or "").startswith(ENSEMBLE):
        raise ValueError(f"teacher: expected one net in detection, got {recipe.teacher!r}")
