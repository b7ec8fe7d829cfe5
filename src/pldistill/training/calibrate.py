"""Temperature scaling of a finished run: the number that its logits are divided by, in a file beside its model.

It is fitted on samples that neither trained nor score the model. The order of the answers, and so top-1, stays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pldistill.files import sha256, write_atomically
from pldistill.record import MODEL
from pldistill.tasks.base import Placement, Task, evenly, make_task
from pldistill.tasks.calibration import (
    TEMPERATURE,
    TemperatureFile,
    calibration_bins,
    calibration_error,
    fit_temperature,
)
from pldistill.teachers.live import LiveTeacher, Teacher
from pldistill.training.build import make_accelerator
from pldistill.training.run import Run, model_folder

MOST = 2**25  # logits that are kept


def calibrate(
    run: Run, *, data: str | None = None, device: str = "auto", workers: int = 2, weights: str = "last"
) -> dict[str, Any]:
    """Fit the temperature of a finished run's model and leave it as `temperature.json` beside the model.

    `pldistill predict` then divides by it. In float32, on as many evenly taken samples as have 2^25 logits.

    Args:
        run: of a classifier or a language model.
        data: other data, on whose validation part the temperature is fitted and measured; None fits it on the samples
            that the run held out, and measures it on those that score it.
        device, workers: as `train`.
        weights: `last` or `best`, as `evaluate`.

    Returns:
        temperature; fitted_on and measured_on, what on; samples, how many it was fitted on; and of the rows that it was
        measured on nats and nats_scaled, their cross-entropy before and after, ece and ece_scaled in percent.

    Raises:
        ValueError: for a run that held nothing out and no data, for a detector's, and for data of other classes.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), Sec. 4.2.
    """
    folder, recipe = model_folder(run, weights), run.recipe
    _ = run.result  # a run that is not finished is refused
    if recipe.task_spec.predictions == "boxes":
        raise ValueError(f"run {str(run.folder)!r}: expected a classifier or a language model, got a detector")
    task = make_task(recipe).reading(folder)
    loaded = task.load(folder)
    changed = {"image_size": loaded.image_size, "unlabelled": None, "data": data or recipe.data}
    settings = recipe.model_copy(update={**changed, "batch_size": recipe.task_spec.scored_at_once})
    if data is None:
        opened = task.open(settings, download=False)
        fitted, measured, names = opened.holdout, opened.val, ("held-out", "validation")
        if fitted is None:
            raise ValueError(
                "data: expected other data than that which scores the run, which held nothing out (validation=N in its "
                "data), got none"
            )
    else:
        opened = task.open_validation(settings, loaded.classes)
        fitted, measured, names = opened.val, opened.val, (data, data)
    accelerator = make_accelerator("off", device)
    place = Placement(accelerator.device, workers)
    teacher = LiveTeacher(loaded.model.to(place.device))
    logits, labels, samples = _answers(task, teacher, fitted, settings, opened, place)
    if len(labels) == 0:
        raise ValueError(f"data {opened.spec!r}: expected {names[0]} {task.rows} that have a label, got none")
    temperature = fit_temperature(logits, labels)
    if measured is not fitted:
        logits, labels, _ = _answers(task, teacher, measured, settings, opened, place)
    before, after = (_figures(each, labels) for each in (logits, logits / temperature))
    content = {
        "temperature": temperature,
        "fitted_on": names[0],
        "samples": samples,
        "measured_on": names[1],
        **before,
        **{f"{name}_scaled": value for name, value in after.items()},
    }
    file = TemperatureFile(**content, model_sha256=sha256(folder / MODEL[0]))
    write_atomically(folder / TEMPERATURE, (file.model_dump_json(indent=2) + "\n").encode())
    return content


@torch.no_grad()
def _answers(
    task: Task[Any, Any], teacher: Teacher, part: Any, settings: Any, data: Any, place: Placement
) -> tuple[Tensor, Tensor, int]:
    """Logits and labels of the samples of a part, or of as many of them as may be kept, and how many these are."""
    some = part.subset(evenly(len(part), max(1, MOST // (task.columns(data) * task.rows_a_sample(data)))))
    answers = [task.answers(teacher, batch) for batch in task.loader(some, settings, data, place, train=False).epoch(0)]
    logits, labels = (torch.cat(each) for each in zip(*answers, strict=True))
    kept = labels >= 0  # marks in place of a label are below
    return logits[kept].float(), labels[kept], len(some)


def _figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    log_p = logits.log_softmax(dim=1)
    means = {name: value.item() / len(labels) for name, value in calibration_bins(log_p, labels).items()}
    return {"nats": functional.nll_loss(log_p, labels).item(), "ece": calibration_error(means)}
