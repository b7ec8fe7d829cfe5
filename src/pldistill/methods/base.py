"""The contract of a method: a loss and what it takes to use it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pldistill.types import Outputs


class Method(nn.Module, ABC):
    """What distills: named loss terms from what the two models said about a batch.

    Learnable adapters are ordinary submodules, so that they are optimized and saved with the run, and never exported
    with the student. Weights stand outside: a method returns raw values.

    Attributes:
        reads_labels: False where the terms are the same whatever the labels, so that a batch of mixed images, which
            has two labels for each, needs them once.
        aligns: True where the gradient of its terms loses what points against that of the task's, see
            `training/alignment.py`.
    """

    reads_labels: bool = True
    aligns: bool = False

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Learn that `epoch` (from 0) of `epochs` begins: options that move over a run have its values from here."""
        return

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        """Give each of the method's terms as a scalar.

        Args:
            student: the student's outputs, float32 or float64.
            teacher: the teacher's on the same images, constant; None for a method that asks no teacher.
            labels: `(N,)` int64.
        """
