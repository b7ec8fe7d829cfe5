"""Dual-head knowledge distillation: a second head on the student's pooled feature learns from the teacher, and the
student's own head from the task's loss alone."""

from __future__ import annotations

from torch import Tensor, nn

from pldistill import losses
from pldistill.methods.base import Method
from pldistill.specs import unknown
from pldistill.types import Outputs

HEADS = ("linear", "nonlinear")
WIDTH, DROPOUT = 200, 0.1  # of the nonlinear head, as in the public code


class DualHead(Method):
    """One term, `dhkd`: `losses.dhkd` of a second head's logits and the teacher's.

    The head is an adapter: it is trained and saved with the run, and not a part of the exported student. Both heads
    move what is below the pooled feature.

    Args:
        student, teacher: what the models answered to one image: the head is built for the student's pooled feature
            (N, D) and as many classes as it has, which are those that a class map gives the teacher.
        temperature: of the term.
        head: "linear", one linear layer; or "nonlinear", Linear(D, 200), dropout 0.1, batch normalization, ReLU and
            Linear(200, C).
        align: whether the term's gradient loses what points against the gradient of the task's loss.

    Raises:
        ValueError: for another head; for a pooled feature that is no vector.

    Source: Yang et al., "Dual-head knowledge distillation" (2025), and its public code.
    """

    reads_labels = False

    def __init__(self, student: Outputs, teacher: Outputs, *, temperature: float, head: str, align: bool) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(unknown("option head", head, HEADS))
        (feature,) = student.features.values()
        if feature.dim() != 2:
            raise ValueError(f"expected a pooled feature (N, D) of the student, got {tuple(feature.shape)}")
        losses.DHKDLoss(temperature)  # a temperature that does not fit is refused here
        self.temperature = temperature
        self.aligns = align
        width, classes = feature.shape[1], student.logits.shape[1]  # the teacher's, in the data's classes
        self.head = nn.Linear(width, classes) if head == "linear" else _nonlinear(width, classes)

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        assert teacher is not None  # the recipe refuses to go without one
        (feature,) = student.features.values()
        return {"dhkd": losses.dhkd(self.head(feature), teacher.logits, temperature=self.temperature)}

    def extra_repr(self) -> str:
        return f"dhkd, temperature={self.temperature}"


def _nonlinear(width: int, classes: int) -> nn.Module:
    layers = [nn.Linear(width, WIDTH), nn.Dropout(DROPOUT), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)]
    return nn.Sequential(*layers)
