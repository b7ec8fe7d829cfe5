"""Methods that need nothing but the two nets' logits: a function of `losses` with its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from pldistill import losses
from pldistill.contracts import Outputs
from pldistill.methods.base import Method


class LogitMethod(Method):
    """One term: `loss(student_logits, teacher_logits, labels, **options)`, named as the method."""

    def __init__(self, term: str, loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        self.term = term
        self.loss = loss
        self.options = options

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        assert teacher is not None  # the run refuses a teacherless recipe for these
        return {self.term: self.loss(student.logits, teacher.logits, labels, **self.options)}

    def extra_repr(self) -> str:
        return ", ".join([self.term, *(f"{name}={value}" for name, value in self.options.items())])


def stagewise(temperature: float, stages: str) -> LogitMethod:
    """`plackett_luce_kl` of the first K stages, or of all, weighted by the teacher's mass.

    Args:
        stages: K in digits, or "teacher".

    Raises:
        ValueError: for other stages.
    """
    if stages != "teacher" and not (stages.isdecimal() and int(stages) > 0):
        raise ValueError(f"option stages: expected a whole number of at least 1, or teacher, got {stages!r}")
    weights = "teacher" if stages == "teacher" else int(stages)
    return LogitMethod("plkl", losses.plackett_luce_kl, {"temperature": temperature, "stage_weights": weights})


class LabelSmoothing(Method):
    """Cross-entropy with smoothed labels, torch's: `(1 - eps) onehot + eps / C`. No teacher."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        if not 0 <= epsilon < 1:
            raise ValueError(f"option epsilon: expected a number in [0, 1), got {epsilon}")
        self.epsilon = epsilon

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        return {"ls": functional.cross_entropy(student.logits, labels, label_smoothing=self.epsilon)}


class TaskOnly(Method):
    """No term of its own: the task's loss alone, for a teacher or a baseline."""

    reads_labels = False

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        return {}
