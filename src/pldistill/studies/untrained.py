"""A planned run as far as its time goes: the same models with drawn weights, on its images or on noise like them."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from pldistill.recipe import Recipe
from pldistill.specs import RANDOM, split_spec
from pldistill.studies.study import PlannedRun
from pldistill.tasks.base import make_task
from pldistill.teachers.live import Teacher
from pldistill.training.build import assemble, make_accelerator
from pldistill.training.progress import SilentCallback
from pldistill.training.timing import Rates, first_images, time_run
from pldistill.types import Outputs

# What decides neither what a step computes nor on how many images of which size.
_ALIKE = {
    "augment_seed",
    "class_map",
    "data",
    "epochs",
    "label_smoothing",
    "lr",
    "momentum",
    "new_head",
    "pretrained",
    "schedule",
    "seed",
    "student_checkpoint",
    "teacher",
    "teacher_cache",
    "teacher_checkpoint",
    "trust_teacher",
    "views",
    "warmup_epochs",
    "weight_decay",
    "weights",
}


def open_or_stand_in(recipe: Recipe, *, download: bool = False) -> Any:
    """The recipe's data where it is there; else as many images of noise, of a source whose counts are known.

    Raises:
        ValueError: for what is not there of which only the files tell how much it is, and for unknown options.
    """
    task = make_task(recipe)
    try:
        return task.open(recipe, download=download)
    except ValueError:
        data = task.stand_in(recipe)
        if data is None:
            raise
        return data


def work_of(run: PlannedRun) -> str:
    """What is the same in runs of which one is timed: models, method, precision and the images' source and size."""
    recipe = run.recipe
    name, path, _ = split_spec(recipe.data)
    weights = {term: weight != 0 for term, weight in recipe.weights.items()}
    asked = (run.models[0] if recipe.teacher is not None else None, recipe.teacher_cache is not None)
    fields = recipe.model_dump(mode="json", exclude=_ALIKE)
    return json.dumps([fields, asked, weights, name, path], sort_keys=True)


def in_words(run: PlannedRun) -> str:
    """`resnet56 -> resnet20 with kd`: what is timed, in a line."""
    teacher = f"{run.models[0]} -> " if run.recipe.teacher is not None else ""
    return f"{teacher}{run.recipe.student} with {run.row if run.row != 'teacher' else run.recipe.method}"


def seconds_of(run: PlannedRun, data: Any, rates: Rates) -> float:
    """Seconds of what is left of a run at these rates, `data` being its images."""
    recipe = run.recipe
    return rates.seconds(
        epochs=recipe.epochs - len(run.record.epochs()),
        images=len(data.train),
        steps=-(-len(data.train) // (recipe.batch_size * recipe.accumulate)),
        validation=len(data.val) + (0 if data.holdout is None else len(data.holdout)),
    )


def time_untrained(run: PlannedRun, data: Any, device: str, budget: float) -> Rates:
    """Time a run's steps on this machine in about `budget` seconds; torch's generators are left as they were.

    Nothing is read of its teacher's folder or cache, nothing fetched and nothing written.

    Raises:
        ValueError: for an unknown model, or one that cannot take the images; for a device that is not there.
    """
    recipe = _untrained(run)
    accelerator = make_accelerator(recipe.amp, device)
    task, few = make_task(recipe), first_images(data, recipe.batch_size)
    on_gpu = accelerator.device.type == "cuda"
    with torch.random.fork_rng(devices=[accelerator.device] if on_gpu else []):
        loop = assemble(recipe, few, run.record, accelerator, workers=0, callback=SilentCallback(), task=task)
        for model in (loop.bare, *(member.model for member in (loop.teacher.members if loop.teacher else ()))):
            _calm(model)
        if run.recipe.teacher_cache is not None:
            loop.teacher = _Stored(recipe.batch_size, task.columns(data), accelerator.device)
        try:
            return time_run(loop, task, few, budget=budget)
        finally:
            accelerator.free_memory()  # it holds on to the models


def _calm(model: nn.Module) -> None:
    """Halve what frozen normalizations multiply by.

    Under drawn weights they let the activations grow with every block, until a detector proposes nothing at all.
    """
    for part in model.modules():
        buffers = dict(part.named_buffers(recurse=False))
        if {"weight", "running_var"} <= buffers.keys():
            buffers["weight"].mul_(0.5)


class _Stored(Teacher):
    """In place of answers that are read from a cache, which takes hardly any time."""

    members = ()

    def __init__(self, most: int, columns: int, device: torch.device) -> None:
        self.logits = torch.randn(most, columns, device=device)

    def __call__(self, batch: Any) -> Outputs:
        return Outputs(self.logits[: len(batch)])

    def fingerprint(self) -> str:
        return ""


def _untrained(run: PlannedRun) -> Recipe:
    recipe = run.recipe
    alive = recipe.teacher is not None and recipe.teacher_cache is None
    drawn = {
        "teacher": f"{RANDOM}{run.models[0]}" if alive else None,
        "teacher_cache": None,
        "teacher_checkpoint": None,
        "class_map": None,
        "pretrained": False,
        "student_checkpoint": None,
        "compile": False,
        "seed": 0,
    }
    return recipe.model_copy(update=drawn)
