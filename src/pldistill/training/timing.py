"""How long a run takes on this machine: a few of the loop's own steps, timed, and arithmetic.

`time_run` is for a loop that is thrown away: it moves its weights. `time_ahead` is for a run that is about to go on,
and leaves no trace in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pldistill import distributed
from pldistill.tasks.base import Loaders, Placement, Task
from pldistill.training.loop import Loop

# A model's seconds an image settle well below a CPU's usual batch; a GPU's do not, so there the whole batch is timed.
CPU_BATCH = 64
SOON = 10.0  # seconds; of a run that is over so soon nobody asks how long it takes
_GROWTH, _REPEATS = 4, 3


@dataclass(frozen=True)
class Rates:
    """Seconds of a run's work on one machine.

    Attributes:
        image: an image that is learned from: both models, the loss and its gradient.
        step: a step of the optimizer, and of the average where there is one.
        validation: an image that the student is scored on.
        teacher: an image that the teacher is scored on, which is done once a run.
    """

    image: float
    step: float
    validation: float
    teacher: float

    def seconds(self, *, epochs: float, images: int, steps: int, validation: int) -> float:
        """epochs (images * image + steps * step + validation images * validation) + validation images * teacher.

        `images`, `steps` and `validation`, in images, are those of an epoch. Reading and augmenting the images and the
        start of the run are left out.
        """
        an_epoch = images * self.image + steps * self.step + validation * self.validation
        return epochs * an_epoch + validation * self.teacher


def time_run(loop: Loop, task: Task[Any, Any], data: Any, *, budget: float) -> Rates:
    """Time a run's work by its own loop on the first images of `data`, in about four times `budget` seconds.

    The loop's weights move, and torch's generators. Where the first step is a slow one, over the fewest images that
    can be learned from, little more is timed: a validation of one image by the student, and one step of the optimizer.

    Args:
        loop: as `assemble` gives it; one process has it.
        task: the loop's.
        data: as the task opens it.
        budget: seconds of forward and backward that may be repeated.
    """
    recipe, device = loop.recipe, loop.accelerator.device
    most = min(recipe.batch_size, len(data.train), CPU_BATCH if device.type == "cpu" else recipe.batch_size)
    loop.prepare()
    loop.distiller.train()
    weights = loop.weights()

    def gradient(count: int) -> float:
        loop.clear_gradient()
        batch = next(_loaders(loop, task, data, count)[0].train.epoch(0))
        return timed(partial(loop.add_gradient, batch, weights), device)

    count, seconds = settled(gradient, _fewest(loop), most, budget)
    slow = seconds > budget / 2
    loaders, few = _loaders(loop, task, data, 1 if slow else count)
    teacher = None if slow else loop.teacher
    validate = task.validation(loaders, few, teacher, loop.accelerator.autocast)
    scored = [timed(partial(validate, loop.evaluated), device) / len(few.val) for _ in range(1 if slow else 2)]
    asked = 0.0 if teacher is None else max(0.0, scored[0] - scored[-1])
    return Rates(seconds / count, _time_optimizer(loop, again=not slow), scored[-1], asked)


def _loaders(loop: Loop, task: Task[Any, Any], data: Any, count: int) -> tuple[Loaders, Any]:
    """Loaders of one batch, of the first `count` images, in training and in validation; and these images."""
    few = first_images(data, count)
    recipe = loop.recipe.model_copy(update={"batch_size": count})
    return task.loaders(recipe, few, Placement(loop.accelerator.device, 0)), few


def _fewest(loop: Loop) -> int:
    """How many images a step can be timed over: BatchNorm learns from two at least, as do methods that relate them."""
    couples = loop.recipe.method_spec.couples_batch
    normalizes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in loop.bare.modules())
    return 2 if couples or normalizes else 1


def _time_optimizer(loop: Loop, *, again: bool) -> float:
    """Seconds of a step from the gradients that are there; of a second one where the first, which also makes the
    optimizer's state, is not to count.
    """
    device = loop.accelerator.device
    gradients = [(parameter, parameter.grad) for parameter in loop.bare.parameters()]
    seconds = timed(loop.optimize, device)
    if again:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        seconds = timed(loop.optimize, device)
    return seconds


def first_images(data: Any, most: int) -> Any:
    """The data with the first images of its two splits, at most so many of each, and none held out."""
    splits = {name: getattr(data, name) for name in ("train", "val")}
    few = {name: split.subset(list(range(min(most, len(split))))) for name, split in splits.items()}
    return replace(data, **few, **({} if data.holdout is None else {"holdout": None}))


def settled(run: Callable[[int], float], fewest: int, most: int, budget: float) -> tuple[int, float]:
    """How many images a step is best timed over, and its seconds: `run` does one over so many and gives them.

    Begins with `fewest` images, or `most` where that is less. Where these take more than half of the budget, in
    seconds, that step counts, though it also sets up what later ones reuse. Else the batch is made four times as large,
    up to `most`, while a step is sure to take no more than half of the budget, and the median of up to three counts.
    """
    count = min(fewest, most)
    seconds = run(count)
    if seconds > budget / 2:
        return count, seconds
    seconds = run(count)
    while count < most and seconds * _GROWTH <= budget / 2:
        count = min(_GROWTH * count, most)
        seconds = run(count)
    times = []
    while len(times) < _REPEATS and (not times or sum(times) + seconds <= budget):
        times.append(run(count))
    return count, statistics.median(times)


def time_ahead(loop: Loop) -> float | None:
    """Seconds of the training that is left of a run, without its validation; None where that is hardly any.

    One step forward and backward over the next batch is timed, and a second one where the first says that more than
    ten seconds are left; no step of the optimizer. Gradients, buffers, training modes and torch's generators are put
    back, so the run goes on as if nothing had been. Several processes do it together, and all are given the longest
    time. None too where the student is compiled, which the first step does.
    """
    if loop.recipe.compile or loop.epoch == loop.recipe.epochs or loop.tally.batches == len(loop.loader):
        return None
    batch = next(loop.loader.epoch(loop.epoch, start=loop.tally.batches))
    joined, epochs = loop.loader.joined, loop.recipe.epochs - loop.epoch
    images = epochs * sum(joined) - sum(joined[: loop.tally.batches])
    weights, device = loop.weights(), loop.accelerator.device

    def step() -> None:
        with loop.accelerator.autocast():
            loss = loop.bare(batch, loop.teacher, weights).loss
        loss.backward()
        for parameter in loop.bare.parameters():
            parameter.grad = None

    with untouched(loop.bare, device):
        for _ in range(2):
            loop.bare.train()
            each = timed(step, device) / (len(batch) * distributed.world_size())
            seconds = max(distributed.gather(images * each))
            if seconds <= SOON:
                return None
    return seconds


@contextmanager
def untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back the module's buffers and training modes and torch's generators of the CPU and of `device`."""
    modes = {part: part.training for part in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    own = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    buffer.copy_(buffers[name])
            for part, mode in modes.items():
                part.training = mode
            if own is not None:
                torch.mps.set_rng_state(own)


def timed(act: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call of `act` takes, of what was begun before it nothing."""
    _wait(device)
    began = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":  # a GPU works on after a call returns
        getattr(torch, device.type).synchronize()
