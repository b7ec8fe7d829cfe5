"""How long a detector's run will take on this machine: a few timed steps on the data's own images, and arithmetic."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from pldistill.precision import dtype_of, resolve
from pldistill.recipe import Recipe
from pldistill.studies.estimate import timed
from pldistill.tasks.base import Placement, make_task
from pldistill.tasks.detection.dataset import BoxData

_STEPS = 2


@dataclass(frozen=True)
class BoxJob:
    """A run as far as its time goes.

    Attributes:
        recipe: what it trains; nothing is read of its teacher's folder, nothing fetched.
        teacher: the model of who is asked, or None.
        data: its images.
        device: as torch names it.
    """

    recipe: Recipe
    teacher: str | None
    data: BoxData
    device: str

    @property
    def untrained(self) -> Recipe:
        """The same models with drawn weights: as fast as trained ones."""
        random = None if self.teacher is None else f"random:{self.teacher}"
        drawn = {"pretrained": False, "student_checkpoint": None, "teacher": random, "teacher_checkpoint": None}
        return self.recipe.model_copy(update={**drawn, "seed": 0})

    def work(self, what: str) -> tuple[str, ...]:
        """What is the same in jobs of which one is timed."""
        fields = ("student", "batch_size", "amp", "image_size", "data", "task_options")
        return what, str(self.teacher), self.device, json.dumps(self.recipe.model_dump(include=set(fields)))


BoxTimer = Callable[[BoxJob], float]


def seconds_of_detectors(
    jobs: Iterable[BoxJob], learning: BoxTimer | None = None, finding: BoxTimer | None = None
) -> list[float]:
    """Estimate each job's seconds; the timers give the seconds an image, by default those of this module.

    seconds = epochs (images * learning + validation images * finding)

    Distinct work is timed once. What the teacher finds in the validation images, once a run, is left out, and so are
    the method's loss, the reading of the images and the start.
    """
    known: dict[tuple[str, ...], float] = {}

    def rate(job: BoxJob, what: str, timer: BoxTimer) -> float:
        if job.work(what) not in known:
            known[job.work(what)] = timer(job)
        return known[job.work(what)]

    return [
        job.recipe.epochs
        * (
            len(job.data.train) * rate(job, "learning", learning or time_learning)
            + len(job.data.val) * rate(job, "finding", finding or time_finding)
        )
        for job in jobs
    ]


def time_learning(job: BoxJob) -> float:
    """Seconds an image of a training step: both models asked, the detector's own losses, a step of SGD."""
    task, device = make_task(job.recipe), torch.device(job.device)
    with torch.random.fork_rng(devices=[]):
        student = task.student(job.untrained, job.data).to(device).train()
        teacher = task.teacher(job.untrained, job.data)
        if teacher is not None:
            teacher.to(device, torch.contiguous_format)
        batch = next(task.loaders(job.untrained, job.data, Placement(device, 0)).train.epoch(0))
        optimizer = torch.optim.SGD([each for each in student.parameters() if each.requires_grad], lr=1e-6)

        def step() -> None:
            with _autocast(job):
                pair = task.pair(student, teacher, batch)
            torch.stack(list(pair.own().values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return _median(step, device) / len(batch)


@torch.no_grad()
def time_finding(job: BoxJob) -> float:
    """Seconds an image in which the student looks for objects."""
    task, device = make_task(job.recipe), torch.device(job.device)
    with torch.random.fork_rng(devices=[]):
        student = task.student(job.untrained, job.data).to(device).eval()
        batch = next(task.loaders(job.untrained, job.data, Placement(device, 0)).val.epoch(0))
        with _autocast(job):
            return _median(partial(student.detect, batch.images, batch.sizes), device) / len(batch)


def _autocast(job: BoxJob) -> torch.autocast:
    device = torch.device(job.device)
    amp = resolve(job.recipe.amp, device)
    return torch.autocast(device.type, dtype=dtype_of(amp), enabled=amp != "off")


def _median(step: Callable[[], object], device: torch.device) -> float:
    timed(step, device)  # the first also sets up what later ones reuse
    return statistics.median(timed(step, device) for _ in range(_STEPS))
