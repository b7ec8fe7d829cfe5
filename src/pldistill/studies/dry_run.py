"""What a study will cost before it starts: its runs with an estimate of their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from pldistill.data import Dataset
from pldistill.precision import resolve
from pldistill.record import duration
from pldistill.studies.estimate import Job, seconds_of
from pldistill.studies.study import Plan, PlannedRun
from pldistill.tasks.base import make_task
from pldistill.training.build import make_accelerator


def forecast(plan: Plan, *, device: str = "auto", download: bool = False) -> Table:
    """List the runs of a plan: what is finished with its own time, the others with an estimate for this machine.

    The estimate times a few steps of every model; what a method's loss, the augmentation and the start cost is left
    out.

    Raises:
        ValueError: for images or a device that are not there.
    """
    device_type = make_accelerator(plan.runs[0].recipe.amp, device).device.type
    opened: dict[str, Any] = {}
    for cell in plan.runs:
        if cell.recipe.data not in opened:
            opened[cell.recipe.data] = make_task(cell.recipe).open(cell.recipe, download=download)
    left = [cell for cell in plan.runs if not cell.record.finished]
    estimates = _seconds([(cell, opened[cell.recipe.data]) for cell in left], device_type)
    expected = {cell.folder: seconds for cell, seconds in zip(left, estimates, strict=True)}
    caption = f"left: {duration(sum(expected.values()))} on this machine, estimated from a few steps of each model"
    table = Table("run", "time", "state", box=None, caption=caption, caption_justify="left")
    for cell in plan.runs:
        result = cell.record.read_result()
        seconds = expected[cell.folder] if result is None else result["seconds"]
        state = "finished" if result is not None else _state(cell)
        table.add_row(cell.name, duration(seconds), state)
    return table


def _seconds(cells: Sequence[tuple[PlannedRun, Any]], device: str) -> list[float]:
    """The estimates; all runs of a study have one task."""
    if cells and cells[0][0].recipe.task == "detection":
        from pldistill.studies.estimate_boxes import BoxJob, seconds_of_detectors  # brings torchvision's detectors

        asked = [cell.models[0] if cell.recipe.teacher is not None else None for cell, _ in cells]
        jobs = [BoxJob(cell.recipe, model, data, device) for (cell, data), model in zip(cells, asked, strict=True)]
        return seconds_of_detectors(jobs)
    return seconds_of(_job(cell, data, device) for cell, data in cells)


def _job(cell: PlannedRun, dataset: Dataset, device: str) -> Job:
    recipe = cell.recipe
    held = 0 if dataset.holdout is None else len(dataset.holdout)
    return Job(
        student=recipe.student,
        teacher=cell.models[0] if recipe.teacher is not None and recipe.teacher_cache is None else None,
        epochs=recipe.epochs,
        images=len(dataset.train),
        val_images=len(dataset.val) + held,
        batch_size=recipe.batch_size,
        classes=len(dataset.classes),
        image_size=dataset.image_size,
        amp=resolve(recipe.amp, torch.device(device)),
        device=device,
    )


def _state(cell: PlannedRun) -> str:
    return f"{len(cell.record.epochs())}/{cell.recipe.epochs} epochs" if cell.folder.exists() else ""
