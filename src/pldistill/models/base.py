"""What a task trains and asks: a module around the `model` whose weights a run leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import nn
from typing_extensions import Self

from pldistill.types import Outputs


class TaskModel(nn.Module, ABC):
    """A module around `model`, which is exported and averaged without what stands around it.

    Attributes:
        model: the module whose weights a run leaves behind.
        probe_is_whole: whether every layer sees in `probe` what an image shows it in training; then a layer that
            cannot train on one image is found by it.
    """

    model: Any
    probe_is_whole = False

    @abstractmethod
    def answer(self, batch: Any) -> Outputs:
        """Answer a batch of the task's: logits `(N, C)`, a row for each that the losses are to compare."""

    @abstractmethod
    def around(self, model: Any) -> Self:
        """The same around other weights, an average say: on the same device, without taps."""

    @abstractmethod
    def probe(self, image_size: int) -> Outputs:
        """Answer one black image of so many pixels a side, to read shapes from; no weight or statistic moves.

        Raises:
            ValueError: for an image that the model cannot take.
        """

    def stages(self) -> Sequence[str]:
        """The places at which a method may tap, the first stage first; none by default."""
        return ()

    def listen(self, taps: Sequence[str | int]) -> None:
        """Give the activations at `taps` as features from now on.

        Raises:
            ValueError: an unknown tap.
        """
        if taps:
            raise ValueError(f"taps: {type(self.model).__name__} has no stages here, got {list(taps)}")

    def compile_model(self) -> None:
        """Let `torch.compile` have what runs in a training step."""
        self.model.compile()

    def statistics(self) -> dict[str, list[float]]:
        """The input statistics that the model keeps, whatever the data's are, for the run's record."""
        return {}
