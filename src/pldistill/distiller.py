"""Student, method and task in one module: the only thing that is wrapped and optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pldistill import processes
from pldistill.contracts import UNLABELLED, Batch, Outputs
from pldistill.methods import Method
from pldistill.models import Net
from pldistill.tasks.classification import Classification


class Step(NamedTuple):
    """What a step gives: the terms to log, raw and weighted, and two counts of pictures.

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
    """The student and the method's adapters. The teacher's outputs come as an argument.

    With `joined` the method sees the batches of all processes as one; the task's loss is of this process's alone.
    """

    def __init__(self, student: Net, method: Method, task: Classification, joined: bool = False) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.task = task
        self.joined = joined

    def forward(self, batch: Batch, teacher: Outputs | None, weights: Mapping[str, float]) -> Step:
        """Run the student, in the surrounding autocast, and the losses outside of it.

        A term of weight 0 has no part in the step: it is neither summed nor logged. Of mixed pictures each term is the
        mixture of what it is of the two labels, and a hit is the label with the larger share. Pictures without a label
        count in the method's terms, which then read none, and not in the task's.
        """
        student = _float32(self.student(batch.images))
        with torch.autocast(student.logits.device.type, enabled=False):
            # A loss leaves rows out whose label is a mark; those without a label are to count.
            counted = replace(batch, labels=batch.labels.clamp(min=0))
            raw = self._terms(student, teacher and _float32(teacher), counted)
            if weights["task"] != 0:
                raw = {**_mixed(lambda labels: {"task": self.task.loss(student, labels)}, batch), **raw}
            raw = {name: value for name, value in raw.items() if weights[name] != 0}
            weighted = {name: weights[name] * value for name, value in raw.items()}
        return Step(raw, weighted, self.task.hits(student, _larger(batch)), (batch.labels != UNLABELLED).sum())

    def _terms(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        if self.joined:  # only where the labels do not matter, so neither does what they were mixed with
            student, teacher = processes.join(student), teacher and processes.join(teacher)
            return self.method(student, teacher, processes.join_rows(batch.labels))
        terms = partial(self.method, student, teacher)
        return _mixed(terms, batch) if self.method.reads_labels else terms(batch.labels)


def _mixed(terms: Callable[[Tensor], dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """Give `share terms(labels) + (1 - share) terms(partners' labels)`: the mixture of the two labels' losses."""
    own, mixture = terms(batch.labels), batch.mixture
    if mixture is None:
        return own
    other = terms(mixture.labels)
    return {name: mixture.share * value + (1 - mixture.share) * other[name] for name, value in own.items()}


def _larger(batch: Batch) -> Tensor:
    """Give the labels of what there is more of in each picture."""
    mixture = batch.mixture
    return batch.labels if mixture is None or mixture.share >= 0.5 else mixture.labels


def _float32(outputs: Outputs) -> Outputs:
    return Outputs(outputs.logits.float(), {name: feature.float() for name, feature in outputs.features.items()})
