"""The contract of a task: what two models are asked about a batch, and all of a run that depends on what is learned."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:  # the door of a task's data and names: it opens without torch
    import torch
    from torch import Tensor, nn

    from pldistill.recipe import Recipe
    from pldistill.record import RunRecord
    from pldistill.teachers.live import Teacher
    from pldistill.types import Mixture, Outputs

Data = TypeVar("Data")
AnyModel = TypeVar("AnyModel", bound="nn.Module")
Ask = Callable[[Any], "Outputs"]
Figures = dict[str, Any]
Autocast = Callable[..., AbstractContextManager[None]]


@dataclass(frozen=True)
class Pair:
    """What the two models said about a batch, as the losses are given it.

    Attributes:
        student: the student's outputs, float32.
        teacher: the teacher's about the same, constant, float32; None where there is no teacher.
        labels: `(N,)` int64, of the rows of both.
        own: gives the task's own terms when they are wanted.
        hits: how many rows the student got right.
        counted: how many rows there are to be right about.
        mixture: what the labels are mixed with, or None.
    """

    student: Outputs
    teacher: Outputs | None
    labels: Tensor
    own: Callable[[], dict[str, Tensor]]
    hits: Tensor
    counted: Tensor
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Placement:
    """Where a run's batches go: the device, and how many processes read images for it."""

    device: torch.device
    workers: int


class Loaders(NamedTuple):
    """A run's batches: to learn from, to be scored on, and those that are held out, where some are."""

    train: Any
    val: Any
    holdout: Any = None


class Task(ABC, Generic[Data, AnyModel]):
    """What models are trained to do. A model is a module around the `model` whose weights a run leaves behind.

    Attributes:
        own: the names of its own terms, whose weights stand beside the method's.
        rows: what a row of logits is about, in messages.
    """

    own: tuple[str, ...]
    rows: str

    @abstractmethod
    def pair(self, student: nn.Module, teacher: Ask | None, batch: Any) -> Pair:
        """Ask both models about a batch, in the surrounding autocast."""

    @abstractmethod
    def open(self, recipe: Recipe, *, download: bool) -> Data:
        """Open the recipe's data."""

    def describe(self, data: Data) -> str:
        """Say what was found, in a line: how many of what, of how many classes, how large."""
        found: Any = data
        held = getattr(found, "holdout", None)
        counts = [(len(found.train), "training"), (0 if held is None else len(held), "held-out")]
        counts.append((len(found.val), "validation"))
        numbers = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        return f"{numbers} images, {len(found.classes)} classes, {found.image_size} pixels"

    def notes(self, data: Data) -> list[str]:
        """Say what a user should know of the data before the run."""
        return []

    @abstractmethod
    def student(self, recipe: Recipe, data: Data) -> AnyModel:
        """Build the model that is trained."""

    @abstractmethod
    def compile(self, model: AnyModel) -> None:
        """Let `torch.compile` have what runs in a training step."""

    @abstractmethod
    def teacher(self, recipe: Recipe, data: Data) -> Teacher | None:
        """Build who is asked."""

    @abstractmethod
    def columns(self, data: Data) -> int:
        """Give the number of logits in a row."""

    @abstractmethod
    def stages(self, model: AnyModel) -> Sequence[str]:
        """Name the places of a model at which a method may listen."""

    @abstractmethod
    def probe(self, model: AnyModel, data: Data) -> Outputs:
        """Give what a model says to one image, to read shapes from; ValueError for one that it cannot take."""

    @abstractmethod
    def loaders(self, recipe: Recipe, data: Data, place: Placement) -> Loaders:
        """Open the run's batches."""

    @abstractmethod
    def validation(
        self, loaders: Loaders, data: Data, teacher: Teacher | None, autocast: Autocast
    ) -> Callable[[AnyModel], Figures]:
        """Give what measures a model after an epoch."""

    @abstractmethod
    def examine(
        self, recipe: Recipe, data: Data, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[int, Tensor, int]:
        """Ask the teacher about up to `most` validation images: its hits, the labels `(N,)`, of how many classes."""

    def sample(
        self, recipe: Recipe, data: Data, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        """Ask the teacher about up to `most` labelled training samples as the first epoch shows them.

        Gives its logits `(N, C)`, float32, and the labels `(N,)`, on the CPU; None in a task that does not say.
        """
        return None

    @abstractmethod
    def save(self, model: AnyModel, folder: Path, data: Data, recipe: Recipe) -> None:
        """Leave the trained model in the run's folder."""

    def show(self, model: AnyModel, teacher: Teacher | None, run: RunRecord, data: Data) -> None:
        """Leave in the run's folder what is to be looked at beside the figures; in most tasks nothing."""
        return

    @abstractmethod
    def result(self, rows: Sequence[Mapping[str, Any]], data: Data) -> Figures:
        """Give the task's part of result.json, from the rows of all epochs."""

    @abstractmethod
    def measure(
        self, folder: Path, recipe: Recipe, spec: str | None, batch_size: int, place: Placement, autocast: Autocast
    ) -> Figures:
        """Measure the model in a finished run's folder on the validation split of `spec`, by default the run's."""


def evenly(total: int, most: int) -> Tensor:
    """Up to `most` of the places from 0 to `total` - 1, evenly taken, the same ones always."""
    import torch

    count = min(most, total)
    return torch.arange(count) * total // count


def first(names: Sequence[str]) -> str:
    """The first three of `names`, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def mixed(terms: Callable[[Tensor], dict[str, Tensor]], labels: Tensor, mixture: Mixture | None) -> dict[str, Tensor]:
    """Give `share terms(labels) + (1 - share) terms(partners' labels)`: the mixture of the two labels' losses."""
    own = terms(labels)
    if mixture is None:
        return own
    other = terms(mixture.labels)
    return {name: mixture.share * value + (1 - mixture.share) * other[name] for name, value in own.items()}


def float32(outputs: Outputs) -> Outputs:
    """The same outputs as losses compute on them."""
    return type(outputs)(outputs.logits.float(), {name: feature.float() for name, feature in outputs.features.items()})


def make_task(recipe: Recipe) -> Task[Any, Any]:
    """Build the recipe's task: what `make` in `pldistill.tasks.NAME.task` gives, imported when it is wanted."""
    return importlib.import_module(f"pldistill.tasks.{recipe.task}.task").make(recipe)
