"""A method made of several, each of which sees the activations that it asked for; see `combination`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pldistill.methods.base import Method
from pldistill.types import Outputs


class CombinedMethod(Method):
    """The terms of all parts. Where one of them aligns, the gradient of all is aligned.

    Args:
        parts: the methods by name.
        places: of the parts that compare activations, the names of the student's features and of the teacher's.
    """

    def __init__(self, parts: Mapping[str, Method], places: Mapping[str, Sequence[Sequence[str]]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.places = dict(places)
        self.reads_labels = any(part.reads_labels for part in parts.values())
        self.aligns = any(part.aligns for part in parts.values())

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        for part in self.parts.values():
            assert isinstance(part, Method)
            part.begin_epoch(epoch, epochs)

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            ours, theirs = self.places.get(name, ((), ()))
            terms |= part(only(student, ours), None if teacher is None else only(teacher, theirs), labels)
        return terms


def only(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """The same logits with these features alone."""
    return Outputs(outputs.logits, {name: outputs.features[name] for name in names})
