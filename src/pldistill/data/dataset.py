"""A data set: splits of labelled images, and what a model must know to read them; fixed parts of it."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pldistill.data.sampling import uniform

Triple = tuple[float, float, float]
Images = TypeVar("Images", bound="Split")

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Encoded(NamedTuple):
    """An image before it is decoded: `content`, or the file named `name` where it is None; messages say `name`.

    With `exif` it is turned as its EXIF orientation says.
    """

    name: str
    content: IO[bytes] | None = None
    exif: bool = True


class Split(ABC):
    """Labelled images, in memory or as files.

    Attributes:
        labels: `(N,)` int64 class indices.
        ids: `(N,)` int64, what names an image forever: its index in the whole split, kept by `subset`.
    """

    labels: Tensor
    ids: Tensor

    def _set_labels(self, labels: Tensor, ids: Tensor | None, count: int) -> None:
        self.labels = labels
        self.ids = torch.arange(count) if ids is None else ids
        for name, column in (("labels", self.labels), ("ids", self.ids)):
            if column.dtype != torch.int64 or column.shape != (count,):
                raise ValueError(
                    f"{name}: expected int64 of shape ({count},), got {column.dtype} {tuple(column.shape)}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """A SHA-256 over ids, labels and images: the pixels in memory, of files and archives what names them."""
        digest = hashlib.sha256()
        for part in (self.ids.numpy().tobytes(), self.labels.numpy().tobytes(), *self._marks()):
            digest.update(part)
        return digest.hexdigest()

    def _marks(self) -> Iterable[bytes]:
        """What tells these images from others, as far as it costs no reading of files."""
        return ()

    def relabelled(self: Images, labels: Tensor) -> Images:
        """The same images under other labels `(N,)` int64."""
        split = copy.copy(self)
        split._set_labels(labels, self.ids, len(self))
        return split

    @abstractmethod
    def subset(self, indices: Sequence[int] | Tensor) -> Split:
        """The images at these positions, in this order; their ids stay what they were.

        Raises:
            ValueError: an index outside the split.
        """

    def _positions(self, indices: Sequence[int] | Tensor) -> Tensor:
        positions = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            found = f"{int(positions.min())} to {int(positions.max())}"
            raise ValueError(f"indices: expected 0 to {len(self) - 1}, got {found}")
        return positions


class TensorSplit(Split):
    """Images that live in memory: `images (N, 3, H, W)` uint8."""

    def __init__(self, images: Tensor, labels: Tensor, ids: Tensor | None = None) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        self.images = images
        self._set_labels(labels, ids, len(images))

    def _marks(self) -> Iterable[bytes]:
        yield str(tuple(self.images.shape)).encode()
        yield self.images.numpy().tobytes()

    def subset(self, indices: Sequence[int] | Tensor) -> TensorSplit:
        positions = self._positions(indices)
        return TensorSplit(self.images[positions], self.labels[positions], self.ids[positions])


class LazySplit(Split):
    """Images that are read when they are needed, in any order, by whichever worker.

    Attributes:
        exif: whether they are turned as their EXIF orientation says.
    """

    exif: bool = True

    @abstractmethod
    def encoded(self, place: int) -> Encoded:
        """The image at this position, not yet decoded."""

    @abstractmethod
    def stamps(self) -> Iterable[bytes]:
        """What changes when one of the images does, as far as it costs no reading of them: paths, sizes and times."""

    def _marks(self) -> Iterable[bytes]:
        return (b"upright",) if self.exif else ()


class FolderSplit(LazySplit):
    """Images that are read when they are needed: `paths`, one file each."""

    def __init__(self, paths: Sequence[str], labels: Tensor, ids: Tensor | None = None, *, exif: bool = True) -> None:
        self.paths, self.exif = tuple(str(path) for path in paths), exif
        self._set_labels(labels, ids, len(self.paths))

    def encoded(self, place: int) -> Encoded:
        return Encoded(self.paths[place], exif=self.exif)

    def stamps(self) -> Iterable[bytes]:
        return (file_stamp(Path(path)) for path in self.paths)

    def _marks(self) -> Iterable[bytes]:
        yield from super()._marks()
        # A file's name and its folder's, which is its class: the same wherever the tree lies.
        for path in self.paths:
            yield "/".join(Path(path).parts[-2:]).encode(errors="surrogateescape") + b"\n"

    def subset(self, indices: Sequence[int] | Tensor) -> FolderSplit:
        at = self._positions(indices)
        return FolderSplit([self.paths[i] for i in at.tolist()], self.labels[at], self.ids[at], exif=self.exif)


def file_stamp(file: Path) -> bytes:
    """A file's path, size and time of change; of a broken link the path alone."""
    known = file.stat() if file.exists() else None
    stamp = (known.st_size, known.st_mtime_ns) if known else None
    return f"{file.absolute()}\0{stamp}\n".encode(errors="surrogateescape")


@dataclass(frozen=True)
class Dataset:
    """A training and a validation split with one set of classes.

    Attributes:
        spec: the text that opened it.
        classes: class names; label i is `classes[i]`.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        image_size: side in pixels of the square images that models see.
        hflip: whether a mirrored image keeps its class.
        train: what the student learns from.
        val: what scores it.
        holdout: training images that are kept from it, to choose an epoch or a setting by; None where none are.
        ignored: files beside the images that are not read as images, counted by suffix.
        skipped: by the part's name, what is wrong with each of its images that are left out (on_bad_image).
    """

    spec: str
    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    image_size: int
    hflip: bool
    train: Split
    val: Split
    holdout: Split | None = None
    ignored: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What a user should know of the data before the run."""
        counted = count_suffixes(self.ignored)
        notes = [f"data {self.spec!r}: files ignored, which are not read as images: {counted}"] if counted else []
        return notes + [
            f"data {self.spec!r}: {len(bad)} images of {part} are left out, which cannot be read: {first_few(bad)}"
            for part, bad in self.skipped.items()
            if bad
        ]


_SHOWN = 5  # bad files named in one message


def first_few(messages: Sequence[str]) -> str:
    """The first five of them, and how many more there are."""
    more = f"; and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more


def count_suffixes(ignored: Mapping[str, int]) -> str:
    """Counted suffixes, the commonest first: `12 .heic, 1 .txt`."""
    ordered = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in ordered)


def normalize(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """`(x / 255 - mean) / std` as float32, for `images (N, 3, H, W)` uint8 and statistics of pixels in [0, 1].

    Raises:
        ValueError: `images` is not uint8 with three channels.
    """
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"images: expected uint8 (..., 3, H, W), got {images.dtype} {tuple(images.shape)}")
    center = torch.as_tensor(mean, dtype=torch.float32, device=images.device).view(3, 1, 1)
    spread = torch.as_tensor(std, dtype=torch.float32, device=images.device).view(3, 1, 1)
    return images.float().div_(255).sub_(center).div_(spread)


def divide(dataset: Dataset, *, train: int | None = None, validation: int | None = None) -> Dataset:
    """Hold `validation` training images out as `Dataset.holdout`, then keep `train` of the rest; None leaves it be.

    Each part has as many images of every class, to within one, and is the same forever: a hash of the ids, under
    seed 0, puts the images of a class in order; those held out come from its end and those kept from its front. So
    holding some out does not change which `train` images are kept, while there are enough. Ids stay what they were.

    Raises:
        ValueError: a part with fewer images than classes, or with more of a class than the smallest class can give.
    """
    if validation is not None:
        _check(dataset, "validation", validation, spare=1)
        rest, held = _part(dataset.train, validation, from_end=True)
        dataset = replace(dataset, train=rest, holdout=held)
    if train is not None:
        _check(dataset, "train", train, spare=0)
        _, kept = _part(dataset.train, train, from_end=False)
        dataset = replace(dataset, train=kept)
    return dataset


def _check(dataset: Dataset, name: str, count: int, spare: int) -> None:
    """Refuse a part that cannot be taken and leave `spare` images of each class."""
    classes = len(dataset.classes)
    least = int(torch.bincount(dataset.train.labels, minlength=classes).min())
    most = classes * (least - spare)
    if not classes <= count <= most:
        held = f" beside validation={len(dataset.holdout)}" if dataset.holdout is not None else ""
        raise ValueError(
            f"{dataset.spec}: {name}: expected {classes} to {most} images{held}, as many of each of the {classes} "
            f"classes, the smallest of which has {least}, got {count}"
        )


def _part(split: Split, count: int, *, from_end: bool) -> tuple[Split, Split]:
    """What is left, and the `count` images that come first or last in their classes' orders."""
    draw, labels = uniform(0, 0, split.ids.numpy(), "part"), split.labels.numpy()
    if from_end:
        draw = 1 - draw
    place = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members[np.argsort(draw[members], kind="stable")]] = np.arange(len(members))
    taken = np.zeros(len(labels), dtype=bool)
    taken[np.lexsort((draw, place))[:count]] = True
    left, part = (split.subset(torch.from_numpy(np.flatnonzero(mask))) for mask in (~taken, taken))
    return left, part
