"""Student, method and task in one module: the only thing that is wrapped and optimised."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pldistill import distributed
from pldistill.methods import Method
from pldistill.tasks.base import Ask, Pair, Task, mixed


class Step(NamedTuple):
    """What a step gives: the terms to log, raw and weighted, and two counts of rows (pictures, or regions).

    `hits` are those that the student got right, `labelled` those that have a label to be right about.
    """

    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    hits: Tensor
    labelled: Tensor

    @property
    def loss(self) -> Tensor:
        """The sum of the weighted terms: what is optimised."""
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
        """Let the task ask both nets, in the surrounding autocast, and compute the losses outside of it.

        A term of weight 0 has no part in the step: it is neither summed nor logged. Of mixed pictures each term is the
        mixture of what it is of the two labels, and a hit is the label with the larger share. Pictures without a label
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
            student, teacher = distributed.join(student), teacher and distributed.join(teacher)
            return self.method(student, teacher, distributed.join_rows(pair.labels))
        if len(pair.labels) == 0 and self.method.reads_labels:  # a mean over nothing would be NaN
            return {name: student.logits.sum() for name in weights if name not in self.task.own}
        terms = partial(self.method, student, teacher)
        return mixed(terms, pair.labels, pair.mixture) if self.method.reads_labels else terms(pair.labels)
