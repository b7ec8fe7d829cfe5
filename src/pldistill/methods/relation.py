"""Methods that match how the pictures of a batch relate: one function of one feature of each net, and no adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pldistill.methods.base import Method
from pldistill.types import Outputs


class RelationMethod(Method):
    """One term: `loss(student_feature, teacher_feature, **options)`, named as the method."""

    reads_labels = False

    def __init__(
        self, term: str, loss: Callable[..., Tensor], student: Outputs, teacher: Outputs, **options: Any
    ) -> None:
        super().__init__()
        self.term = term
        self.loss = loss
        self.options = options
        self.forward(student, teacher)  # shapes and options that do not fit are refused here

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None = None) -> dict[str, Tensor]:
        assert teacher is not None  # the recipe refuses to go without one
        (ours,), (theirs,) = student.features.values(), teacher.features.values()
        return {self.term: self.loss(ours, theirs, **self.options)}

    def extra_repr(self) -> str:
        return ", ".join([self.term, *(f"{name}={value}" for name, value in self.options.items())])
