"""Student, method and task in one module: the only thing that is wrapped and optimized.

The sums of an epoch under way are kept on the device, so that no step waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pldistill import distributed
from pldistill.methods.base import Method
from pldistill.tasks.base import Ask, Pair, Task, mixed


class Step(NamedTuple):
    """What a step gives: the terms to log, raw and weighted, and two counts of rows (images, or RoIs).

    `hits` are those that the student got right, `labelled` those that have a label to be right about.
    """

    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    hits: Tensor
    labelled: Tensor

    @property
    def loss(self) -> Tensor:
        """The sum of the weighted terms: what is optimized."""
        return torch.stack(list(self.weighted.values())).sum()


class Distiller(nn.Module):
    """The student and the method's adapters. The teacher comes as an argument, so it is no part of what is trained.

    With `joined` the method sees the batches of all processes as one; the task's terms are of this process's alone.
    """

    def __init__(self, student: nn.Module, method: Method, task: Task[Any, Any], joined: bool = False) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.task = task
        self.joined = joined

    def forward(self, batch: Any, teacher: Ask | None, weights: Mapping[str, float]) -> Step:
        """Let the task ask both models, in the surrounding autocast, and compute the losses outside of it.

        A term of weight 0 has no part in the step: it is neither summed nor logged. Of mixed images each term is the
        mixture of what it is of the two labels, and a hit is the label with the larger share. Images without a label
        count in the method's terms, which then read none, and not in the task's. Where no row is to count in them, the
        method's terms are 0.
        """
        pair = self.task.pair(self.student, teacher, batch)
        with torch.autocast(pair.student.logits.device.type, enabled=False):
            raw = self._terms(pair, weights)
            if any(weights[name] != 0 for name in self.task.own):
                raw = {**pair.own(), **raw}
            raw = {name: value for name, value in raw.items() if weights[name] != 0}
            weighted = {name: weights[name] * value for name, value in raw.items()}
        return Step(raw, weighted, pair.hits, pair.counted)

    def _terms(self, pair: Pair, weights: Mapping[str, float]) -> dict[str, Tensor]:
        student, teacher = pair.student, pair.teacher
        if self.joined:  # only where the labels do not matter, so neither does what they were mixed with
            student, teacher = (
                distributed.all_gather_with_grad(student),
                teacher and distributed.all_gather_with_grad(teacher),
            )
            return self.method(student, teacher, distributed.join_rows(pair.labels))
        if len(pair.labels) == 0 and self.method.reads_labels:  # a mean over nothing would be NaN
            return {name: student.logits.sum() for name in weights if name not in self.task.own}
        terms = partial(self.method, student, teacher)
        return mixed(terms, pair.labels, pair.mixture) if self.method.reads_labels else terms(pair.labels)


_NEVER = torch.iinfo(torch.int64).max


class NonFiniteLoss(ArithmeticError):
    """A term of the loss became NaN or infinite."""


class EpochMetrics:
    """Sums over the samples seen so far in an epoch; a checkpoint in mid-epoch carries them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.batches = 0
        self.seen = 0
        self.seconds = 0.0
        self.sums: dict[str, Tensor] = {}
        self.first_bad: dict[str, Tensor] = {}

    def add(self, step: Step, count: int, seconds: float) -> None:
        """Count one step over `count` images that took `seconds`."""
        self.batches += 1
        self.seen += count
        self.seconds += seconds
        self._sum("hits", step.hits)
        self._sum("labelled", step.labelled)
        for name, value in step.raw.items():
            value = value.detach()
            self._sum(f"raw {name}", value * count)
            self._sum(f"weighted {name}", step.weighted[name].detach() * count)
            bad = torch.where(value.isfinite(), _NEVER, self.batches)
            self.first_bad[name] = torch.minimum(self.first_bad.get(name, bad), bad)

    def check(self, epoch: int) -> None:
        """Raise NonFiniteLoss if a term has been NaN or infinite in a step of this epoch. Waits for the device."""
        for name, bad in self.first_bad.items():
            if (batch := int(bad.item())) != _NEVER:
                raise NonFiniteLoss(f"term {name!r} of the loss was not finite in epoch {epoch + 1}, step {batch}")

    def agree(self, signal: int | None) -> int | None:
        """Let all processes know the first bad steps of any of them, and the signal that any of them received."""
        bad = list(self.first_bad.values())
        flags = distributed.all_reduce_min(torch.stack([*bad, torch.tensor(-(signal or 0), device=self.device)]))
        self.first_bad = dict(zip(self.first_bad, flags, strict=False))
        return -int(flags[-1].item()) or None

    def joined(self) -> EpochMetrics:
        """Give the tally of all processes together."""
        whole = EpochMetrics(self.device)
        whole.batches, whole.seconds, whole.first_bad = self.batches, self.seconds, self.first_bad
        sums = distributed.all_reduce_sum({**self.sums, "seen": torch.tensor(self.seen, device=self.device)})
        whole.seen = int(sums.pop("seen").item())
        whole.sums = sums
        return whole

    def terms(self) -> dict[str, dict[str, float]]:
        """Give each term's mean over the images seen, raw and weighted. Waits for the device."""
        return {
            name: {"raw": self._mean(f"raw {name}"), "weighted": self._mean(f"weighted {name}")}
            for name in self.first_bad
        }

    def row(self) -> dict[str, Any]:
        """Give the training part of the epoch's row in the record."""
        terms = self.terms()
        return {
            "terms": terms,
            "loss": sum(term["weighted"] for term in terms.values()),
            "train_top1": 100 * self.sums["hits"].item() / self.sums["labelled"].item(),
            "images_per_second": self.seen / self.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Give everything as plain types and CPU tensors."""
        return {
            "batches": self.batches,
            "seen": self.seen,
            "seconds": self.seconds,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "first_bad": {name: value.cpu() for name, value in self.first_bad.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.batches, self.seen, self.seconds = state["batches"], state["seen"], state["seconds"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.first_bad = {name: value.to(self.device) for name, value in state["first_bad"].items()}

    def _sum(self, name: str, value: Tensor) -> None:
        # float32 would stop counting single images after 16 million of them.
        value = value.to(torch.float64)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _mean(self, name: str) -> float:
        return self.sums[name].item() / self.seen
