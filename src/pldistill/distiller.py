"""Student, method and task in one module: the only thing that is wrapped and optimised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pldistill.contracts import Batch, Outputs
from pldistill.methods import Method
from pldistill.models import Net
from pldistill.tasks.classification import Classification


class Step(NamedTuple):
    """What a step gives: the terms to log, raw and weighted, and the count of pictures that the student got right."""

    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    hits: Tensor

    @property
    def loss(self) -> Tensor:
        """The sum of the weighted terms: what is optimised."""
        return torch.stack(list(self.weighted.values())).sum()


class Distiller(nn.Module):
    """The student and the method's adapters. The teacher's outputs come as an argument."""

    def __init__(self, student: Net, method: Method, task: Classification) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.task = task

    def forward(self, batch: Batch, teacher: Outputs | None, weights: Mapping[str, float]) -> Step:
        """Run the student, in the surrounding autocast, and the losses outside of it.

        A term of weight 0 has no part in the step: it is neither summed nor logged.
        """
        student = _float32(self.student(batch.images))
        with torch.autocast(student.logits.device.type, enabled=False):
            raw = self.method(student, teacher and _float32(teacher), batch.labels)
            if weights["task"] != 0:
                raw = {"task": self.task.loss(student, batch.labels), **raw}
            raw = {name: value for name, value in raw.items() if weights[name] != 0}
            weighted = {name: weights[name] * value for name, value in raw.items()}
        return Step(raw, weighted, self.task.hits(student, batch.labels))


def _float32(outputs: Outputs) -> Outputs:
    return Outputs(outputs.logits.float(), {name: feature.float() for name, feature in outputs.features.items()})
