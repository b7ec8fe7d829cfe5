"""The training loop, on Accelerate: steps, epochs, checkpoints, interruption. It knows no loss by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pldistill import checkpoint
from pldistill.contracts import Batch
from pldistill.data import Loader
from pldistill.interrupt import Interrupted, Interrupts
from pldistill.models import Net
from pldistill.recipe import Ramp, Recipe
from pldistill.record import RunRecord
from pldistill.schedule import learning_rate
from pldistill.tally import Tally
from pldistill.teachers import Teacher


class Watch(Protocol):
    """Who looks on. Called from the loop; may print, may not change anything."""

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None: ...
    def step(self, epoch: int, tally: Tally) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def end(self) -> None: ...


@dataclass
class Loop:
    """One run from its first step, or its checkpoint, to its last.

    Attributes:
        distiller: what is trained, as `Accelerator.prepare` gave it; `bare` is the module inside.
        average: the moving average of the student's weights, or None.
        validate: gives an epoch's validation figures for a net.
        evaluated: the net that is validated: the student, or the average in its place.
    """

    recipe: Recipe
    distiller: nn.Module
    bare: nn.Module
    student: nn.Module
    average: AveragedModel | None
    evaluated: Net
    teacher: Teacher | None
    loader: Loader
    validate: Callable[[Net], dict[str, float | None]]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    record: RunRecord
    watch: Watch
    tally: Tally = field(init=False)
    epoch: int = field(init=False, default=0)

    # How long, in seconds, the loop goes without reading numbers back from a GPU.
    LOOK_EVERY = 0.5

    def __post_init__(self) -> None:
        self.tally = Tally(self.accelerator.device)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with the state saved.
            NonFiniteLoss: at a NaN or infinite term; the checkpoint of the last good epoch stays.
        """
        self.watch.begin(self.record.folder.name, self.recipe.epochs, self.epoch, len(self.loader))
        try:
            with Interrupts() as interrupts:
                while self.epoch < self.recipe.epochs:
                    self._train_epoch(interrupts)
                    self._close_epoch()
        finally:
            self.watch.end()

    def _train_epoch(self, interrupts: Interrupts) -> None:
        weights = {
            name: weight.at(self.epoch, self.recipe.epochs) if isinstance(weight, Ramp) else weight
            for name, weight in self.recipe.weights.items()
        }
        self.distiller.train()
        looked = began = time.monotonic()
        for batch in self.loader.epoch(self.epoch, start=self.tally.batches):
            self._step(batch, weights, began)
            began = time.monotonic()
            # On a CPU reading a number costs nothing, so a bad one is caught at its own step.
            if self.accelerator.device.type == "cpu":
                self.tally.check(self.epoch)
            if began - looked > self.LOOK_EVERY:
                looked = began
                self.tally.check(self.epoch)
                self.watch.step(self.epoch, self.tally)
            if interrupts.received is not None:
                self._stop(interrupts.received)

    def _step(self, batch: Batch, weights: dict[str, float], began: float) -> None:
        rate = learning_rate(self.recipe, self.epoch * len(self.loader) + self.tally.batches, len(self.loader))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        answers = None
        if self.teacher is not None:
            with self.accelerator.autocast():
                answers = self.teacher(batch)
        step = self.distiller(batch, answers, weights)
        self.accelerator.backward(step.loss)
        if self.recipe.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.distiller.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.student)
        self.tally.add(step, len(batch.labels), time.monotonic() - began)

    def _close_epoch(self) -> None:
        self.tally.check(self.epoch)
        began = time.monotonic()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"], **self.tally.row()}
        row |= self.validate(self.evaluated)
        row["seconds"] = self.tally.seconds + time.monotonic() - began
        self.record.append_epoch(row)
        self.epoch += 1
        self.tally = Tally(self.accelerator.device)
        self._save()
        self.watch.epoch(row)

    def _stop(self, signal: int) -> None:
        self.tally.check(self.epoch)
        self._save()
        folder = self.record.folder
        raise Interrupted(
            f"stopped in epoch {self.epoch + 1} of {self.recipe.epochs} after step {self.tally.batches} of "
            f"{len(self.loader)}; nothing is lost: go on with `pldistill train --out {folder} --resume`",
            signal,
        )

    def _save(self) -> None:
        state = {
            "epoch": self.epoch,
            "tally": self.tally.state_dict(),
            "distiller": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.accelerator.device.type == "cuda" else None,
        }
        checkpoint.save(
            self.record.folder / "checkpoint", state, step=self.epoch * len(self.loader) + self.tally.batches
        )

    def restore(self) -> None:
        """Go on from the folder's checkpoint; where there is none, from the beginning."""
        state = checkpoint.load(self.record.folder / "checkpoint")
        self.record.truncate(state["epoch"] if state is not None else 0)
        if state is None:
            return
        self.epoch = state["epoch"]
        self.tally.load_state_dict(state["tally"])
        self.bare.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
