"""The training loop, on Accelerate: steps, epochs, checkpoints, interruption. It knows no loss by name.

All that a loop needs to continue goes into its folder's checkpoint, and comes back from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pldistill import distributed
from pldistill.launch import Interrupted, Interrupts
from pldistill.recipe import Ramp, Recipe, make_recipe
from pldistill.record import RunRecord, stored_recipe
from pldistill.teachers.live import Teacher
from pldistill.training import checkpoint, runaway
from pldistill.training.alignment import Alignment
from pldistill.training.distiller import Distiller, EpochMetrics, Step
from pldistill.training.optim import learning_rate
from pldistill.types import Batch, DetectionBatch


class Batches(Protocol):
    """A run's batches, epoch by epoch; `joined` are the images in each of an epoch's, over all processes."""

    joined: list[int]

    def __len__(self) -> int: ...
    def epoch(self, view: int, start: int = 0) -> Iterator[Any]: ...


class Callback(Protocol):
    """Who looks on. Called from the loop; may print, may not change anything.

    Attributes:
        wants_time: whether to be told before the first step how long the run will take, which costs two steps.
    """

    wants_time: bool

    def warn(self, message: str) -> None: ...
    def tell(self, message: str) -> None: ...
    def begin(self, title: str, epochs: int, done: int, batches: int) -> None: ...
    def step(self, epoch: int, tally: EpochMetrics) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def end(self) -> None: ...


class Keeper(Protocol):
    """Who keeps the best epoch's model: it is offered each epoch's, when its row is written; gives its files' names."""

    def offer(self, model: Any, row: Mapping[str, Any]) -> None: ...
    def files(self) -> list[str]: ...


@dataclass(frozen=True)
class Saves:
    """When a run is saved beside the end of each epoch.

    Attributes:
        minutes: after so many without a checkpoint.
        steps: after so many of the optimizer's steps of an epoch, and again; None for never.
    """

    minutes: float = 10.0
    steps: int | None = None

    def __post_init__(self) -> None:
        minutes, steps = self.minutes, self.steps
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
            raise ValueError(f"checkpoint_minutes: expected a number above 0, got {minutes!r}")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"checkpoint_steps: expected a whole number from 1, or None, got {steps!r}")


@dataclass
class Loop:
    """One run from its first step, or its checkpoint, to its last. Of several processes each has a loop, in step.

    Attributes:
        bare: what is trained; `distiller` is the same as `Accelerator.prepare` gives it when the loop runs.
        average: the moving average of the student's weights, or None.
        validate: gives an epoch's validation figures for a model.
        evaluated: the model that is validated: the student, or the average in its place.
        saves: when it is saved.
        best: who keeps the best epoch's model, or None.
        classes: how many the data has.
    """

    recipe: Recipe
    bare: Distiller
    student: nn.Module
    average: AveragedModel | None
    evaluated: Any
    teacher: Teacher | None
    loader: Batches
    validate: Callable[[Any], dict[str, Any]]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    record: RunRecord
    callback: Callback
    saves: Saves = field(default_factory=Saves)
    best: Keeper | None = None
    classes: int = 2
    distiller: nn.Module = field(init=False)
    tally: EpochMetrics = field(init=False)
    alignment: Alignment | None = field(init=False)
    epoch: int = field(init=False, default=0)
    watch: runaway.Watch | None = field(init=False, default=None)

    # How long, in seconds, the loop goes without reading numbers back from a GPU; several processes do so at the same
    # step, and count steps instead.
    LOOK_EVERY = 0.5
    AGREE_EVERY = 10

    def __post_init__(self) -> None:
        self.tally = EpochMetrics(self.accelerator.device)
        self.steps = -(-len(self.loader) // self.recipe.accumulate)
        self.saved = time.monotonic()
        own = self.bare.task.own
        self.alignment = Alignment(self.bare.parameters(), own) if self.bare.method.aligns else None

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with the state saved.
            NonFiniteLoss: at a NaN or infinite term; the checkpoint of the last good epoch stays.
        """
        self.prepare()
        self.saved = time.monotonic()
        self.callback.begin(self.record.folder.name, self.recipe.epochs, self.epoch, len(self.loader))
        try:
            with Interrupts(patient=distributed.world_size() > 1) as interrupts:
                while self.epoch < self.recipe.epochs:
                    self._train_epoch(interrupts)
                    self._close_epoch()
        finally:
            self.callback.end()

    def prepare(self) -> None:
        """Hand what is trained to Accelerate; several processes meet here."""
        self.distiller, self.optimizer = self.accelerator.prepare(self.bare, self.optimizer)

    @property
    def step(self) -> int:
        """Give the optimizer's steps in this epoch so far."""
        return -(-self.tally.batches // self.recipe.accumulate)

    def weights(self) -> dict[str, float]:
        """Give the weight of each term in this epoch."""
        return {
            name: weight.at(self.epoch, self.recipe.epochs) if isinstance(weight, Ramp) else weight
            for name, weight in self.recipe.weights.items()
        }

    def _train_epoch(self, interrupts: Interrupts) -> None:
        weights = self.weights()
        self.bare.method.begin_epoch(self.epoch, self.recipe.epochs)
        self.distiller.train()
        looked = began = time.monotonic()
        for batch in self.loader.epoch(self.epoch, start=self.tally.batches):
            stepped = self._learn(batch, weights, began)
            began = time.monotonic()
            if not stepped:
                continue
            if due := began - looked > self.LOOK_EVERY:
                looked = began
                self.callback.step(self.epoch, self.tally)
            if self._looks(due):
                self._look(interrupts)
            if self._is_due():
                self._agree()
                save_state(self)

    def _learn(self, batch: Batch | DetectionBatch, weights: dict[str, float], began: float) -> bool:
        """Add a batch's gradient; after the last batch of a step take the step, and say so."""
        number, every = self.tally.batches, self.recipe.accumulate
        group = self.loader.joined[number - number % every :][:every]
        last = number % every == len(group) - 1
        synced = last and self.alignment is None  # which takes the mean of both gradients itself
        with nullcontext() if synced else self.accelerator.no_sync(self.distiller):
            # Gradients are averaged over the processes. So each mean counts as its images among all of the step's.
            part = len(batch) * distributed.world_size() / sum(group)
            step = self.add_gradient(batch, weights, part)
        if last:
            self.optimize()
        self.tally.add(step, len(batch), time.monotonic() - began)
        return last

    def add_gradient(self, batch: Batch | DetectionBatch, weights: dict[str, float], part: float = 1.0) -> Step:
        """Go forward and backward over a batch, whose loss counts as this part of a step's."""
        step = self.distiller(batch, self.teacher, weights)
        if self.alignment is not None:
            scaler = self.accelerator.scaler
            self.alignment.add(step, part if scaler is None else scaler.scale(step.loss.new_tensor(part)))
        else:
            self.accelerator.backward(step.loss if part == 1 else part * step.loss)
        return step

    def clear_gradient(self) -> None:
        """Forget the gradients that are there."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.alignment is not None:
            self.alignment.clear()

    def optimize(self) -> None:
        """Take the optimizer's step, from the gradients that are there."""
        if self.alignment is not None:
            self.alignment.put()
        done = self.epoch * self.steps + self.tally.batches // self.recipe.accumulate
        rate = learning_rate(self.recipe, done, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        if self.recipe.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.distiller.parameters(), self.recipe.clip_grad)
        elif done < runaway.FIRST_STEPS and self.recipe.optimizer == "sgd":
            self._watch_step(done + 1, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.student)

    def _watch_step(self, step: int, rate: float) -> None:
        """Say of a step that it is longer than the weights; of an optimizer that divides by the gradient none is."""
        if self.accelerator.scaler is not None:
            return  # gradients are scaled, and the scaler leaves out a step that is too long
        gradient, weights = runaway.gradient_norm(self.bare), runaway.norm(self.student.parameters())
        warning = runaway.of_step(step, gradient, weights, rate, runaway.likely_reason(self.recipe))
        if warning is not None and distributed.is_main_process():
            self.callback.warn(warning)

    def warnings(self, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Give what ran away in the epochs of these rows, by its name."""
        return runaway.of_epochs(rows, self.classes, runaway.likely_reason(self.recipe))

    def _new_warnings(self, row: dict[str, Any]) -> list[str]:
        """Give what ran away in the epoch of this row; with the first one, what did in those before it."""
        if self.watch is not None:
            return self.watch.add(row)
        self.watch = runaway.Watch(self.classes, runaway.likely_reason(self.recipe))
        return [warning for each in self.record.epochs() for warning in self.watch.add(each)]

    def _looks(self, due: bool) -> bool:
        """Whether it is time to look; on a CPU reading a number costs nothing, so a bad one is caught at its step."""
        if self.accelerator.device.type == "cpu":
            return True
        return due if distributed.world_size() == 1 else self.step % self.AGREE_EVERY == 0

    def _look(self, interrupts: Interrupts) -> None:
        signal = interrupts.received
        if distributed.world_size() > 1:
            signal = self.tally.agree(signal)
        self.tally.check(self.epoch)
        if signal is not None:
            self._stop(signal)

    def _is_due(self) -> bool:
        """Whether a checkpoint is due within the epoch, in all processes at the same step; its end has its own."""
        if self.step == self.steps:
            return False
        if self.saves.steps is not None and self.step % self.saves.steps == 0:
            return True
        late = time.monotonic() - self.saved > 60 * self.saves.minutes
        if distributed.world_size() == 1:
            return late
        return self.step % self.AGREE_EVERY == 0 and distributed.any_process(late, self.accelerator.device)

    def _agree(self) -> None:
        """Make sure that no process has seen a term that was not finite: the last checkpoint is a good one."""
        if distributed.world_size() > 1:
            self.tally.agree(None)
        self.tally.check(self.epoch)

    def _close_epoch(self) -> None:
        self._agree()
        began = time.monotonic()
        tally = self.tally.joined()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"], **tally.row()}
        distributed.broadcast_buffers(self.evaluated)
        row |= self.validate(self.evaluated)
        row["seconds"] = tally.seconds + time.monotonic() - began
        if distributed.is_main_process():
            self.record.append_epoch(row)
            if self.best is not None:
                self.best.offer(self.evaluated, row)
        self.epoch += 1
        self.tally = EpochMetrics(self.accelerator.device)
        save_state(self)
        self.callback.epoch(row)
        if distributed.is_main_process():
            for warning in self._new_warnings(row):
                self.callback.warn(warning)

    def _stop(self, signal: int) -> None:
        save_state(self)
        distributed.gather(None)  # no process ends before the state is saved: a launcher would end the others
        folder = self.record.folder
        raise Interrupted(
            f"stopped in epoch {self.epoch + 1} of {self.recipe.epochs} after step {self.step} of "
            f"{self.steps}; nothing is lost: go on with `pldistill train --out {folder} --resume`",
            signal,
        )


def save_state(loop: Loop) -> None:
    """Write the folder's checkpoint: the first of several processes does, with what is each one's own."""
    own, *others = distributed.gather(_own(loop))
    loop.saved = time.monotonic()
    if not distributed.is_main_process():
        return
    scaler, average = loop.accelerator.scaler, loop.average
    state = {
        "recipe": loop.recipe.to_dict(),
        "epoch": loop.epoch,
        **own,
        "others": others,
        "distiller": loop.bare.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    checkpoint.save(loop.record.folder / "checkpoint", state, step=loop.epoch * loop.steps + loop.step)


def restore_state(loop: Loop) -> None:
    """Go on from the folder's checkpoint; where there is none, from the beginning.

    Raises:
        ValueError: for a checkpoint that is damaged, and so is the one before it; for one of another recipe than the
            folder's; for rows of the record that are not those of its epochs.
    """
    warn = loop.callback.warn if distributed.is_main_process() else None  # the first process mends the index
    state = checkpoint.load(loop.record.folder / "checkpoint", warn)
    if state is not None and "recipe" in state:  # older checkpoints do not say
        if not isinstance(state["recipe"], dict):
            raise ValueError(f"checkpoint: expected a dict as recipe in its state, got {state['recipe']!r}")
        _check_recipe(loop.record, state["recipe"])
    epoch = 0 if state is None else state.get("epoch")
    if not isinstance(epoch, int) or not 0 <= epoch <= loop.recipe.epochs:
        raise ValueError(f"checkpoint: expected an epoch from 0 to {loop.recipe.epochs} in its state, got {epoch!r}")
    if distributed.is_main_process():
        loop.record.epochs()
    if state is not None:
        try:
            _put_state(loop, state)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            folder, reason = loop.record.folder / "checkpoint", " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"checkpoint: {str(folder)!r} does not fit the run: {reason}") from error
    if distributed.is_main_process():  # nothing is cut off before the state is found to fit
        loop.record.truncate(epoch)


def _put_state(loop: Loop, state: dict[str, Any]) -> None:
    """Put a checkpoint's state into the loop."""
    own = state if distributed.is_main_process() else state["others"][distributed.rank() - 1]
    loop.epoch = state["epoch"]
    loop.tally.load_state_dict(own["tally"])
    loop.bare.load_state_dict(state["distiller"])
    loop.optimizer.load_state_dict(state["optimizer"])
    if loop.average is not None:
        loop.average.load_state_dict(state["average"])
    if loop.accelerator.scaler is not None:
        loop.accelerator.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(own["rng"])
    if own["cuda_rng"] is not None:
        torch.cuda.set_rng_state(own["cuda_rng"])


def _check_recipe(record: RunRecord, theirs: dict[str, Any]) -> None:
    """Refuse a checkpoint of another recipe than the folder's."""
    ours, theirs = stored_recipe(record).to_dict(), make_recipe(theirs).to_dict()
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"resume: {str(record.folder / 'recipe.json')!r} has {name} {value!r}, its checkpoint is of a run with "
                f"{theirs.get(name)!r}"
            )


def _own(loop: Loop) -> dict[str, Any]:
    """Give what is each process's own: its sums, and torch's generators, for what models draw."""
    return {
        "tally": loop.tally.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if loop.accelerator.device.type == "cuda" else None,
    }
