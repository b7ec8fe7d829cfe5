"""How long a run will take on this machine: a few timed steps of each model, and arithmetic."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional

from pldistill import models
from pldistill.models import NormalizedModel
from pldistill.precision import NAMES, dtype_of

# A model's seconds an image settle well below a CPU's usual batch; a GPU's do not, so there the whole batch is timed.
_CPU_BATCH = 64
_STEPS = 3


@dataclass(frozen=True)
class Job:
    """A run as far as its time goes.

    `teacher` is a model's name or None; `images` are trained on and `val_images` scored each epoch, held-out ones
    among them; `amp` and the fields before it as in a recipe; `device` as torch names it.
    Raises ValueError for a count below 1 (`val_images`: below 0) or an unknown `amp`.
    """

    student: str
    teacher: str | None
    epochs: int
    images: int
    val_images: int
    batch_size: int
    classes: int
    image_size: int
    amp: str = "off"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "images", "batch_size", "classes", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.val_images < 0:
            raise ValueError(f"val_images: expected at least 0, got {self.val_images}")
        if self.amp not in NAMES:
            raise ValueError(f"amp: expected {', '.join(NAMES)}, got {self.amp!r}")


@dataclass(frozen=True)
class Work:
    """What is timed: a model that learns (forward, backward, a step of SGD) or one that answers (forward alone)."""

    model: str
    learns: bool
    batch_size: int
    classes: int
    image_size: int
    amp: str
    device: str


Timer = Callable[[Work], float]


def seconds_of(jobs: Iterable[Job], timer: Timer | None = None) -> list[float]:
    """Estimate each job's seconds; `timer` gives the seconds an image of a model's work, by default `time_work`.

    seconds = epochs (images (student learns + teacher answers) + val_images (student answers))
              + val_images (teacher answers)

    The teacher is asked about the validation images once a run. Distinct work is timed once. What the method, the
    images' augmentation and the start cost is left out, so a run takes somewhat longer.

    Raises:
        ValueError: for an unknown model, or one that cannot take the images.
    """
    timed: dict[Work, float] = {}

    def rate(job: Job, model: str | None, learns: bool) -> float:
        if model is None:
            return 0.0
        work = Work(model, learns, job.batch_size, job.classes, job.image_size, job.amp, job.device)
        if work not in timed:
            timed[work] = (timer or time_work)(work)
        return timed[work]

    seconds = []
    for job in jobs:
        learning, answering = rate(job, job.student, True), rate(job, job.student, False)
        teacher = rate(job, job.teacher, False)
        an_epoch = job.images * (learning + teacher) + job.val_images * answering
        seconds.append(job.epochs * an_epoch + job.val_images * teacher)
    return seconds


def time_work(work: Work) -> float:
    """Seconds an image of `work` on this machine: after a warm-up, the median of three steps.

    The state of torch's CPU generator is left as it was.
    """
    device = torch.device(work.device)
    batch_size = min(work.batch_size, _CPU_BATCH) if device.type == "cpu" else work.batch_size
    with torch.random.fork_rng(devices=[]):
        step = _step(work, device, batch_size)
        timed(step, device)  # the first step also sets up what later ones reuse
        return statistics.median(timed(step, device) for _ in range(_STEPS)) / batch_size


def _step(work: Work, device: torch.device, batch_size: int) -> Callable[[], None]:
    bare = models.build(work.model, num_classes=work.classes, image_size=work.image_size)
    model = (
        NormalizedModel(bare, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    model.train(work.learns)
    images = torch.randint(0, 256, (batch_size, 3, work.image_size, work.image_size), dtype=torch.uint8)
    images = images.to(device).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        with (
            torch.set_grad_enabled(work.learns),
            torch.autocast(device.type, dtype=dtype_of(work.amp), enabled=work.amp != "off"),
        ):
            logits = model(images).logits
        if work.learns:
            functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call of `step` takes."""
    began = time.perf_counter()
    step()
    if device.type != "cpu":  # a GPU works on after a call returns
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - began
