"""What a user is told before the first step: the data, the networks, the device and its precision, and the steps."""

from __future__ import annotations

from typing import Any

import torch

from pldistill import distributed, models, precision
from pldistill.loop import Loop
from pldistill.tasks import make_task


def introduction(loop: Loop, data: Any, env: dict[str, Any]) -> list[str]:
    """A line each on the data, the networks, the device, the steps and, of a run that goes on, where it is.

    How long it will take is said by the display after the first steps, which tell it better than any estimate.
    """
    recipe, task = loop.recipe, make_task(loop.recipe)
    lines = [
        f"data: {data.spec}: {task.describe(data)}",
        f"student: {recipe.student}, {_millions(loop.evaluated.model)}",
    ]
    if loop.teacher is not None:
        where = " (its answers are read from a store)" if recipe.teacher_cache is not None else ""
        lines.append(f"teacher: {recipe.teacher}, {loop.teacher.count_parameters() / 1e6:,.2f} M parameters{where}")
    lines.append(f"device: {_device(loop)}, {precision.NAMES[env['precision']]} (amp {recipe.amp})")
    alone, whole = loop.steps, loop.steps * recipe.epochs
    together = recipe.batch_size * distributed.count() * recipe.accumulate
    lines.append(f"steps: {alone:,} an epoch of {together:,} pictures each, {whole:,} in {recipe.epochs} epochs")
    if loop.epoch or loop.step:
        lines.append(f"resumed: epoch {loop.epoch + 1} of {recipe.epochs}, after step {loop.step} of {alone}")
    return lines


def _millions(model: torch.nn.Module) -> str:
    return f"{models.count_parameters(model) / 1e6:,.2f} M parameters"


def _device(loop: Loop) -> str:
    device = loop.accelerator.device
    together = f", {distributed.count()} processes" if distributed.count() > 1 else ""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}{together}"
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    return f"{device.type} ({precision.cpu_capability()}), {threads}{together}"
