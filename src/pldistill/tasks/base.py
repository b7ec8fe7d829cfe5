"""The contract of a task: what two models answer to a batch, and all of a run that depends on what is learned."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from pldistill import distributed
from pldistill.models import TaskModel
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.specs import unknown
from pldistill.tasks.spec import TaskSpec
from pldistill.teachers.live import LiveTeacher, Teacher
from pldistill.types import Mixture, Outputs

Ask = Callable[[Any], Outputs]
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
    """Where a run's batches go.

    Attributes:
        device: the device.
        workers: how many processes read images for it.
        rank: which of the processes that share the batches this one is.
        world: how many these are.
    """

    device: torch.device
    workers: int
    rank: int = 0
    world: int = 1

    def alone(self) -> Placement:
        """The same for batches that each process has whole."""
        return replace(self, rank=0, world=1)


class Loaders(NamedTuple):
    """A run's batches: to learn from, to be scored on, and those that are held out, where some are."""

    train: Any
    val: Any
    holdout: Any = None


class TaskData(Protocol):
    """What a run knows of its data, whatever the task.

    Attributes:
        spec: the text that opened it.
        classes: class names.
        image_size: pixels of a side that models see.
        train: the samples to learn from; each part has a length and `subset(indices)`.
        val: those that score the student.
        holdout: training samples that are kept from it, to choose by; None where none are.
        skipped: by a part's name, what is wrong with each sample that is left out (on_bad_image).
    """

    @property
    def spec(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def train(self) -> Any: ...
    @property
    def val(self) -> Any: ...
    @property
    def holdout(self) -> Any: ...
    @property
    def skipped(self) -> Mapping[str, Sequence[str]]: ...
    def notes(self) -> list[str]:
        """What a user should know of it before the run."""
        ...


Data = TypeVar("Data", bound=TaskData)
Model = TypeVar("Model", bound=TaskModel)


@dataclass(frozen=True)
class Loaded(Generic[Model]):
    """A model read from a run's folder, in eval mode, with what is needed to use it.

    Attributes:
        model: the model.
        classes: class names.
        image_size: pixels of a side that it was scored with.
    """

    model: Model
    classes: Sequence[str]
    image_size: int


class Task(ABC, Generic[Data, Model]):
    """What models are trained to do.

    A task says seven things: its data, its student, its batches, what two models answer to a batch, what measures a
    model, how a model is saved, and how it is loaded. The rest has defaults.

    Attributes:
        spec: the task as data.
        own: the names of its own terms, whose weights stand beside the method's.
        rows: what a row of logits is about, in messages.
        samples_an_image: rows that an image has in the mean; so many fewer images tell as much.
        measured: what `measure` gives, of what `validation` does; empty for the metrics of `spec`.
        views: how many versions of a sample training shows; None where each epoch may show another.
    """

    spec: TaskSpec
    own: tuple[str, ...]
    rows: str
    samples_an_image = 1
    measured: tuple[str, ...] = ()
    views: int | None = None

    @abstractmethod
    def open(self, recipe: Recipe, *, download: bool) -> Data:
        """Open the recipe's data."""

    def open_validation(self, recipe: Recipe, classes: Sequence[str]) -> Data:
        """Open the recipe's data to score a model of these classes; a task may do without its training part.

        Raises:
            ValueError: for other classes.
        """
        data = self.open(recipe, download=False)
        if tuple(data.classes) != tuple(classes):
            raise ValueError(
                f"data {data.spec!r}: expected the run's {len(classes)} classes ({first(classes)}), "
                f"got {len(data.classes)} ({first(data.classes)})"
            )
        return data

    @abstractmethod
    def student(self, recipe: Recipe, data: Data) -> Model:
        """Build the model that is trained."""

    @abstractmethod
    def loader(self, split: Any, recipe: Recipe, data: Data, place: Placement, *, train: bool) -> Any:
        """Open the batches of a part of the data: to learn from, augmented and in random order, or to be scored on."""

    @abstractmethod
    def pair(self, student: nn.Module, teacher: Ask | None, batch: Any) -> Pair:
        """Ask both models about a batch, in the surrounding autocast."""

    @abstractmethod
    def validation(
        self, loaders: Loaders, data: Data, teacher: Teacher | None, autocast: Autocast
    ) -> Callable[[Model], Figures]:
        """Give what measures a model after an epoch: the metrics of `spec` by name."""

    @abstractmethod
    def save(self, model: Model, folder: Path, data: Data, recipe: Recipe) -> None:
        """Leave the trained model in the run's folder, or the best epoch's in `best/` of it."""

    @abstractmethod
    def load(self, folder: Path) -> Loaded[Model]:
        """Read the model that `save` left, in eval mode.

        Raises:
            ValueError: a missing or damaged file, or a folder of another task.
        """

    def teacher(self, recipe: Recipe, data: Data) -> Teacher | None:
        """Build the recipe's teacher: by default from the folder of a run of this task.

        Raises:
            ValueError: for another teacher, or one whose classes are not the data's.
        """
        if recipe.teacher is None:
            return None
        loaded = self.load(Path(recipe.teacher))
        if tuple(loaded.classes) != tuple(data.classes):
            raise ValueError(f"teacher {recipe.teacher!r}: expected the data's classes, got {first(loaded.classes)}")
        return LiveTeacher(loaded.model, image_size=loaded.image_size)

    def reading(self, folder: Path) -> Self:
        """The task with what a finished run's model asks for of its data; most models ask for nothing."""
        return self

    def appearance(self, recipe: Recipe, data: Data) -> dict[str, Any]:
        """How training shows its samples beside their order, as plain data: what a teacher cache's answers are about.

        Raises:
            ValueError: in a task whose teachers' answers cannot be stored.
        """
        raise ValueError(f"teacher_cache: expected a task whose teachers' answers can be stored, got {recipe.task}")

    def in_order(self, split: Any, recipe: Recipe, data: Data, place: Placement, *, train: bool) -> Any:
        """Open the batches of a part in its own order, as training shows its samples, or as they are scored."""
        raise NotImplementedError  # a task with an `appearance` has it

    def stand_in(self, recipe: Recipe) -> Data | None:
        """Data like the recipe's without reading it, to time steps on: as many images, of noise.

        None where only the files tell how many there are. Raises ValueError for options that the source has not.
        """
        return None

    def columns(self, data: Data) -> int:
        """The number of logits in a row."""
        return len(data.classes)

    def marks(self, data: Data) -> dict[str, str]:
        """What the data is, by its parts, for a run that goes on to be told from one on other data; may be empty."""
        return {}

    def rows_a_sample(self, data: Data) -> int:
        """The rows of logits that every sample has."""
        return 1

    def loaders(self, recipe: Recipe, data: Data, place: Placement) -> Loaders:
        """Open the run's batches."""
        parts = {"train": data.train, "val": data.val, "holdout": data.holdout}
        return Loaders(
            **{
                name: None if part is None else self.loader(part, recipe, data, place, train=name == "train")
                for name, part in parts.items()
            }
        )

    def answers(self, teacher: Teacher, batch: Any) -> tuple[Tensor, Tensor]:
        """What a teacher says of labelled samples: logits `(N, C)` and their labels `(N,)`, before any training."""
        return teacher(batch).logits, batch.labels

    def sample(
        self, recipe: Recipe, data: Data, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        """Ask the teacher about up to `most` labelled training samples as the first epoch shows them.

        Gives its logits `(N, C)`, float32, and the labels `(N,)`, on the CPU; None in a task that does not say.
        """
        return None

    def show(self, model: Model, teacher: Teacher | None, run: RunRecord, data: Data) -> None:
        """Leave in the run's folder what is to be looked at beside the figures; in most tasks nothing."""
        return

    def predict(self, folder: Path, images: Sequence[Path | str]) -> list[list[dict[str, Any]]]:
        """What the model of a finished run says of each image, the surest first, as plain data; in float32 on the CPU.

        Raises:
            ValueError: for an image that is missing or cannot be read, and in a task without predictions.
        """
        raise ValueError(f"predict: expected a task whose runs predict, got {type(self).__name__}")

    def describe(self, data: Data) -> str:
        """Say what was found, in a line: how many of what, of how many classes, how large."""
        parts = ((data.train, "training"), (data.holdout, "held-out"), (data.val, "validation"))
        numbers = ", ".join(f"{len(part):,} {what}" for part, what in parts if part is not None)
        return f"{numbers} images, {len(data.classes)} classes, {data.image_size} pixels"

    def examine(
        self, recipe: Recipe, data: Data, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[int, Tensor]:
        """Ask the teacher about up to `most` validation images, the same in each process: its hits, labels `(N,)`."""
        logits, labels = self.validation_answers(recipe, data, teacher, most, place, autocast)
        return int((logits.argmax(dim=1) == labels).sum()), labels

    def validation_answers(
        self, recipe: Recipe, data: Data, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor]:
        """A teacher's logits `(N, C)` for up to `most` validation images, and their labels `(N,)`, on the CPU."""
        some = data.val.subset(evenly(len(data.val), max(1, most // self.samples_an_image)).tolist())
        settings = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(some))})
        answers = []
        for batch in self.loader(some, settings, data, place.alone(), train=False).epoch(0):
            with autocast():
                logits, labels = self.answers(teacher, batch)
            answers.append((logits.cpu(), labels.cpu()))
        logits, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
        return logits, labels

    def choice(self, data: Data) -> str:
        """The figure of an epoch's row that tells the best epoch: the score on the held-out samples where some are.

        These choose without a look at those that score the run. Otherwise it is the score on the validation split.
        """
        return self.spec.score if data.holdout is None else f"holdout_{self.spec.score}"

    def best_row(self, rows: Sequence[Mapping[str, Any]], data: Data) -> Mapping[str, Any]:
        """The row of the best epoch so far; of several that are as good the first.

        Raises:
            ValueError: for a row of metrics.jsonl without the figure that chooses, or without the task's score.
        """
        for row in rows:
            for name in {self.choice(data): None, self.spec.score: None}:
                if name not in row:
                    raise ValueError(f"metrics.jsonl: expected {name!r} in the row of epoch {row['epoch']}, got none")
        choice, way = self.choice(data), -1 if self.spec.metrics[self.spec.score].lower else 1
        return max(rows, key=lambda row: way * (row[choice] or 0.0))

    def result(self, rows: Sequence[Mapping[str, Any]], data: Data) -> Figures:
        """Give the task's part of result.json, from the rows of all epochs: the last epoch's, and the best score."""
        score, last, best, choice = self.spec.score, rows[-1], self.best_row(rows, data), self.choice(data)
        held = {} if data.holdout is None else {"holdout_last": last[choice], "holdout_best": best[choice]}
        return {
            **{self.spec.result_key(name): last.get(name) for name in self.spec.metrics},
            f"{score}_best": best[score],
            "best_epoch": best["epoch"],
            "best_by": choice,
            **held,
            f"teacher_{score}": last.get(f"teacher_{score}"),
        }

    def measure(
        self, folder: Path, recipe: Recipe, spec: str | None, batch_size: int, place: Placement, autocast: Autocast
    ) -> Figures:
        """Measure the model in a finished run's folder on the validation split of `spec`, by default the run's.

        Raises:
            ValueError: for data of a class that the model does not know.
        """
        self = self.reading(folder)
        loaded = self.load(folder)
        known = {"data": spec or recipe.data, "image_size": loaded.image_size, "unlabelled": None}
        settings = recipe.model_copy(update={**known, "batch_size": batch_size})

        def open_() -> Data:
            return self.open_validation(settings, loaded.classes)

        data = distributed.run_on_all(open_)
        batches = Loaders(None, self.loader(data.val, settings, data, place, train=False))
        figures = self.validation(batches, data, None, autocast)(loaded.model.to(place.device))
        measured = {name: figures[name] for name in self.measured or self.spec.metrics}
        return {**measured, "images": len(data.val), "notes": data.notes()}


def matched(data: TaskData, classes: Sequence[str]) -> list[int]:
    """The place of each of the data's classes among a model's, by its name.

    Raises:
        ValueError: for a class that the model does not know, with the near ones; for names that stand twice.
    """
    places = {name: place for place, name in enumerate(classes)}
    for name in data.classes:
        if name not in places:
            raise ValueError(
                f"data {data.spec!r}: expected the run's {len(classes)} classes ({first(classes)}) or some of them, "
                f"got {len(data.classes)} ({first(data.classes)}): {unknown('class', name, places)}"
            )
    if len(places) < len(classes):
        raise ValueError(f"data {data.spec!r}: expected the run's own classes, several of which have one name")
    return [places[name] for name in data.classes]


def evenly(total: int, most: int) -> Tensor:
    """Up to `most` of the places from 0 to `total` - 1, evenly taken, the same ones always."""
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
    """Build the recipe's task: what `make` in the module of its spec gives, imported when it is wanted."""
    return importlib.import_module(recipe.task_spec.module).make(recipe)
