"""Methods that need nothing but the two models' logits: a function of `losses` with its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from pldistill import losses
from pldistill.methods.base import Method
from pldistill.methods.spec import at_epoch
from pldistill.specs import unknown
from pldistill.types import Outputs

STANDARDIZE = ("none", "both", "teacher")


class LogitMethod(Method):
    """One term: `loss(student_logits, teacher_logits, labels, **options)`, named as the method.

    Where `standardize` is "both" or "teacher", the loss sees these models' logits as z-scores over the classes,
    (z - mean z) / (1e-7 + std z), the standard deviation with C - 1 in the denominator (`losses.standardize`); its
    temperature divides the z-scores. The term alone sees them: the task's own loss is of the raw logits. The order of a
    row's classes stays, and so does the ranking that a loss reads from the teacher, but for logits so close that the
    z-scores round to equal ones.

    Args:
        term: the name of the term.
        loss: of `losses`.
        options: the loss's own; a `Ramp` among them moves from epoch to epoch.
        standardize: "none", "both" or "teacher".

    Raises:
        ValueError: for another `standardize`; in the call, for logits of one class, which have no deviation.

    Source: Sun et al., "Logit standardization in knowledge distillation" (2024), both models, for kd and dkd; the PLD
    paper, App. F, both models for kd, dist and pld, and the teacher alone for pld's weights. App. F states neither the
    1e-7 nor the deviation's denominator, which are Sun et al.'s here, nor a temperature.
    """

    def __init__(
        self, term: str, loss: Callable[..., Tensor], options: dict[str, Any], standardize: str = "none"
    ) -> None:
        super().__init__()
        if standardize not in STANDARDIZE:
            raise ValueError(unknown("option standardize", standardize, STANDARDIZE))
        self.term = term
        self.loss = loss
        self.options = options
        self.begin_epoch(0, 1)
        self.standardize = standardize

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self._now = at_epoch(self.options, epoch, epochs)

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        assert teacher is not None  # the run refuses a teacherless recipe for these
        ours, theirs = student.logits, teacher.logits
        if self.standardize == "both":
            ours = losses.standardize(ours)
        if self.standardize != "none":
            theirs = losses.standardize(theirs)
        return {self.term: self.loss(ours, theirs, labels, **self._now)}

    def extra_repr(self) -> str:
        said = [f"{name}={value}" for name, value in self.options.items()]
        return ", ".join([self.term, *said, f"standardize={self.standardize}"])


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
