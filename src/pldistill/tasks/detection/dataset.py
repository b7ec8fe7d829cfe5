"""Images with boxes: splits of them, and what a detector must know to read them.

Batches of them are resized and mirrored as (seed, view, id) say, whichever process computes it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pldistill.data.augment import flips
from pldistill.data.dataset import Triple, first_few
from pldistill.data.images import check_header, open_image
from pldistill.data.loader import Workers, check_place, divided
from pldistill.data.sampling import order, uniform
from pldistill.types import DetectionBatch, DetectionTargets


class BoxAnnotations(NamedTuple):
    """What is known of an image's objects.

    Attributes:
        boxes: `(M, 4)` float64, left, top, right and bottom in pixels of the image as it is stored, and within it.
        labels: `(M,)` int64 in 1..C; 0 is the background.
        areas: `(M,)` float64, in such pixels: of the object's mask where there is one, by which COCO calls it small.
        crowd: `(M,)` bool, many objects in one box: nothing to learn from, and finding it or not changes no figure.
    """

    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowd: Tensor

    def at(self, which: Tensor | slice) -> BoxAnnotations:
        """Some of them: at these positions, where this mask is true, or in this stretch."""
        return BoxAnnotations(*(column[which] for column in self))


@dataclass(frozen=True)
class Annotations:
    """What is known of each image of a split.

    Attributes:
        sizes: `(N, 2)` int64, height and width as stored.
        objects: those of all images, image by image.
        counts: `(N,)` int64, how many of them are each image's.
        image_ids: COCO's ids.
        names: COCO's file names.
    """

    sizes: Tensor
    objects: BoxAnnotations
    counts: Tensor
    image_ids: tuple[int, ...]
    names: tuple[str, ...]

    def relabelled(self, labels: Tensor) -> Annotations:
        """The same with label i become `labels[i]`."""
        return replace(self, objects=self.objects._replace(labels=labels[self.objects.labels]))

    def subset(self, places: Sequence[int]) -> Annotations:
        """What is known of the images at these places, in this order."""
        ends = self.counts.cumsum(0)
        starts = ends - self.counts
        rows = [torch.arange(int(starts[place]), int(ends[place])) for place in places]
        at = torch.tensor(places, dtype=torch.int64)
        return Annotations(
            self.sizes[at],
            self.objects.at(torch.cat([torch.empty(0, dtype=torch.int64), *rows])),
            self.counts[at],
            tuple(self.image_ids[place] for place in places),
            tuple(self.names[place] for place in places),
        )


class BoxSplit(ABC):
    """Images with boxes, in memory or as files.

    Attributes:
        annotations: what is known of them; `sizes`, `image_ids` and `names` are its columns.
        ids: `(N,)` int64, what names an image forever: its index in the whole split, kept by `subset`.
    """

    def __init__(self, annotations: Annotations, ids: Tensor | None = None) -> None:
        self.annotations = annotations
        self.sizes, self.image_ids, self.names = annotations.sizes, annotations.image_ids, annotations.names
        self.ids = torch.arange(len(self.sizes)) if ids is None else ids
        self._ends = annotations.counts.cumsum(0).tolist()
        assert len(self.ids) == len(self.sizes) == len(self.image_ids) == len(self.names) == len(self._ends)
        assert len(annotations.objects.labels) == (self._ends[-1] if self._ends else 0)

    def __len__(self) -> int:
        return len(self.ids)

    def objects(self, place: int) -> BoxAnnotations:
        """Give the objects of the image at this position."""
        first = self._ends[place - 1] if place else 0
        return self.annotations.objects.at(slice(first, self._ends[place]))

    @abstractmethod
    def image(self, place: int) -> Tensor:
        """Read the image at this position, `(3, H, W)` uint8.

        Raises:
            ValueError: a file that is missing or damaged, or has another size than its record says.
        """

    @abstractmethod
    def subset(self, places: Sequence[int]) -> BoxSplit:
        """Give the images at these positions, in this order; their ids stay what they were."""

    @abstractmethod
    def relabelled(self, labels: Tensor) -> BoxSplit:
        """Give the same images with label i become `labels[i]`."""


class DrawnBoxes(BoxSplit):
    """Images that live in memory: `images (N, 3, H, W)` uint8."""

    def __init__(self, images: Tensor, annotations: Annotations, ids: Tensor | None = None) -> None:
        super().__init__(annotations, ids)
        self.images = images

    def image(self, place: int) -> Tensor:
        return self.images[place]

    def subset(self, places: Sequence[int]) -> DrawnBoxes:
        at = torch.tensor(places, dtype=torch.int64)
        return DrawnBoxes(self.images[at], self.annotations.subset(places), self.ids[at])

    def relabelled(self, labels: Tensor) -> DrawnBoxes:
        return DrawnBoxes(self.images, self.annotations.relabelled(labels), self.ids)


class StoredBoxes(BoxSplit):
    """Images that are read when they are needed: `paths`, one file each; `exif` applies their EXIF orientation."""

    def __init__(
        self, paths: Sequence[str], annotations: Annotations, ids: Tensor | None = None, *, exif: bool = True
    ) -> None:
        super().__init__(annotations, ids)
        self.paths, self.exif = tuple(paths), exif

    def image(self, place: int) -> Tensor:
        image = open_image(self.paths[place], exif=self.exif)
        if (wrong := self.wrong_size(place, image.size)) is not None:
            raise ValueError(f"{self.paths[place]}: {wrong}")
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def wrong_size(self, place: int, size: tuple[int, int]) -> str | None:
        """What is wrong with the width and height of the image at this position; None where they are its record's.

        The file is looked at once more where its EXIF orientation may be the reason.
        """
        height, width = self.sizes[place].tolist()
        if size == (width, height):
            return None
        wrong = f"expected {width}x{height} pixels, as in its record, got {size[0]}x{size[1]}"
        if check_header(self.paths[place], exif=not self.exif) != (width, height):
            return wrong
        how = "before its EXIF orientation is applied" if self.exif else "after its EXIF orientation is applied"
        return f"{wrong}: its record has the size {how} (exif={str(not self.exif).lower()} reads it so)"

    def subset(self, places: Sequence[int]) -> StoredBoxes:
        at, paths = torch.tensor(places, dtype=torch.int64), [self.paths[place] for place in places]
        return StoredBoxes(paths, self.annotations.subset(places), self.ids[at], exif=self.exif)

    def relabelled(self, labels: Tensor) -> StoredBoxes:
        return StoredBoxes(self.paths, self.annotations.relabelled(labels), self.ids, exif=self.exif)


@dataclass(frozen=True)
class BoxData:
    """A training and a validation split of images with boxes, and one set of classes.

    Attributes:
        spec: the text that opened it.
        classes: class names; label i + 1 is `classes[i]`, and 0 the background.
        category_ids: COCO's id of each class, rising.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        image_size: the short side in pixels that models see in evaluation.
        max_side: what the long side may have at most; an image that is longer gets a smaller short side.
        hflip: whether a mirrored image keeps its classes.
        train: what the student learns from.
        val: what scores it.
        data_warnings: how often something was left out or put right, by what it is; only what there was.
        skipped: by the part's name, what is wrong with each of its images that are left out (on_bad_image).
    """

    spec: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mean: Triple
    std: Triple
    image_size: int
    max_side: int
    hflip: bool
    train: BoxSplit
    val: BoxSplit
    data_warnings: Mapping[str, int]
    holdout: None = None  # COCO's files say which images train
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def among(self, classes: Sequence[str], places: Sequence[int]) -> BoxData:
        """The same data with its labels among `classes`: class i of it is `classes[places[i]]`."""
        labels = torch.tensor([0, *(1 + place for place in places)])
        parts = {"train": self.train.relabelled(labels), "val": self.val.relabelled(labels)}
        # The data's category ids may be other classes' here; the labels stand for all of them.
        ids = tuple(range(1, len(classes) + 1))
        return replace(self, classes=tuple(classes), category_ids=ids, **parts)

    def notes(self) -> list[str]:
        """What a user should know of the data before the run."""
        odd = ", ".join(f"{count} {what}" for what, count in self.data_warnings.items())
        notes = [f"data {self.spec!r}: {odd}"] if odd else []
        return notes + [
            f"data {self.spec!r}: {len(bad)} images of {part} are left out, which cannot be read: {first_few(bad)}"
            for part, bad in self.skipped.items()
        ]


Sides = int | tuple[int, int]


def short_sides(sides: Sides, seed: int, view: int, ids: np.ndarray) -> np.ndarray:
    """`(N,)` int64: the short side in pixels of each image, uniform over the whole numbers of a range."""
    least, most = (sides, sides) if isinstance(sides, int) else sides
    return least + np.floor(uniform(seed, view, ids, "short side") * (most - least + 1)).astype(np.int64)


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """The size that makes the short side `short`, or less where the long side would be more than `longest`.

    Rounded down, as torchvision's GeneralizedRCNNTransform does.
    """
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """An image `(3, H, W)` uint8 at another size: bilinear, without smoothing beforehand, as torchvision does."""
    if image.shape[1:] == (height, width):
        return image
    pixels = image[None].to(torch.float32, memory_format=torch.channels_last)  # twice as fast as planes are
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)[0]
    return pixels.round_().to(torch.uint8, memory_format=torch.contiguous_format)


def targets(
    objects: BoxAnnotations, size: tuple[int, int], shown: tuple[int, int], *, mirrored: bool
) -> DetectionTargets:
    """What there is to learn in an image of `size` (height, width), in pixels of it as `shown`: all but crowds."""
    some = objects.at(~objects.crowd)
    down, across = shown[0] / size[0], shown[1] / size[1]
    boxes = some.boxes * torch.tensor([across, down, across, down], dtype=torch.float64)
    if mirrored:
        boxes = torch.stack([shown[1] - boxes[:, 2], boxes[:, 1], shown[1] - boxes[:, 0], boxes[:, 3]], 1)
    return DetectionTargets(boxes.float(), some.labels)


@dataclass(frozen=True)
class _Show:
    """How a split is shown; the arguments of `make_box_loader`."""

    batch_size: int
    short_side: Sides
    max_side: int
    hflip: bool
    seed: int
    shuffle: bool
    device: torch.device
    rank: int
    world: int


class _Packed(NamedTuple):
    """A batch as it comes from a worker, in three tensors: each one costs a file handle and a copy to the device."""

    pixels: Tensor
    sizes: list[tuple[int, ...]]
    boxes: Tensor
    labels: Tensor
    counts: list[int]

    def unpack(self, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[DetectionTargets, ...]]:
        """The images `(3, H, W)` and what lies in each, on the device."""
        pixels, boxes, labels = (part.to(device, non_blocking=True) for part in (self.pixels, self.boxes, self.labels))
        images = pixels.split([math.prod(size) for size in self.sizes])
        found = zip(boxes.split(self.counts), labels.split(self.counts), strict=True)
        return (
            tuple(image.view(size) for image, size in zip(images, self.sizes, strict=True)),
            tuple(DetectionTargets(*each) for each in found),
        )


class _Reading(torch.utils.data.Dataset):
    """What a worker does: (view, positions) in, the images as this view shows them and what lies in them out."""

    def __init__(self, split: BoxSplit, show: _Show) -> None:
        self._split, self._show, self._ids = split, show, split.ids.numpy()

    def __getitem__(self, key: tuple[int, np.ndarray]) -> _Packed:
        view, at = key
        show, ids = self._show, self._ids[at]
        sides = short_sides(show.short_side, show.seed, view, ids).tolist()
        mirrored = flips(show.seed, view, ids) if show.hflip else np.zeros(len(ids), dtype=bool)
        shown = [self._scene(*each) for each in zip(at.tolist(), sides, mirrored.tolist(), strict=True)]
        return _Packed(
            pixels=torch.cat([image.flatten() for image, _ in shown]),
            sizes=[tuple(image.shape) for image, _ in shown],
            boxes=torch.cat([found.boxes for _, found in shown]),
            labels=torch.cat([found.labels for _, found in shown]),
            counts=[len(found.labels) for _, found in shown],
        )

    def _scene(self, place: int, side: int, mirrored: bool) -> tuple[Tensor, DetectionTargets]:
        image = self._split.image(place)
        height, width = image.shape[1:]
        shown = resized(height, width, side, self._show.max_side)
        image = resize(image, *shown)
        found = targets(self._split.objects(place), (height, width), shown, mirrored=mirrored)
        return image.flip(-1) if mirrored else image, found


class BoxLoader:
    """Batches of one split, view after view. Made by `make_box_loader`.

    Attributes:
        num_samples: images in a view, over all processes.
        joined: images in each batch, over all processes.
    """

    def __init__(self, split: BoxSplit, show: _Show, workers: int) -> None:
        self.num_samples = len(split)
        self._ids, self._sizes, self._show = split.ids, split.sizes, show
        self._bounds, self.joined = divided(len(split), show.batch_size, show.shuffle, show.rank, show.world)
        self._workers = Workers(_Reading(split, show), workers, pin=show.device.type == "cuda")

    def __len__(self) -> int:
        """Batches in a view."""
        return len(self._bounds)

    def epoch(self, view: int, start: int = 0) -> Iterator[DetectionBatch]:
        """The batches of this view from the `start`-th on: what an uninterrupted epoch gives after `start` batches.

        Raises:
            ValueError: a negative view, or a start outside 0 ... len(loader).
        """
        check_place(view, start, len(self))
        show, count = self._show, self.num_samples
        places = order(show.seed, view, self._ids) if show.shuffle else torch.arange(count)
        return self._scenes(view, [places[first:last] for first, last in self._bounds[start:]])

    def _scenes(self, view: int, parts: list[Tensor]) -> Iterator[DetectionBatch]:
        device = self._show.device
        read = self._workers.read([(view, at.numpy()) for at in parts])
        for at, packed in zip(parts, read, strict=True):
            images, found = packed.unpack(device)
            sizes = tuple((height, width) for height, width in self._sizes[at].tolist())
            yield DetectionBatch(images=images, targets=found, ids=self._ids[at].to(device), view=view, sizes=sizes)


def make_box_loader(
    split: BoxSplit,
    *,
    batch_size: int,
    short_side: Sides,
    max_side: int,
    hflip: bool,
    seed: int,
    shuffle: bool,
    device: torch.device,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> BoxLoader:
    """A loader over `split`, whose images come resized: models only normalize and pad them.

    `short_side` is the shorter side in pixels, or the least and the most of a range from which each view draws one for
    each image; the longer one is kept to `max_side`. `hflip` mirrors half of the images, in each view others. The
    batches, and the parts of `world` processes, are those of `make_loader`; `workers` are processes that read files,
    which change no number, and images in memory need none.

    Raises:
        ValueError: a split with fewer images than processes; a batch size or worker count that is too small; sides
            that are no side, no range, or more than `max_side`.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    sides = [short_side] * 2 if isinstance(short_side, int) else list(short_side)
    if len(sides) != 2 or not 1 <= sides[0] <= sides[1]:
        raise ValueError(f"short_side: expected at least 1 pixel, or a least and a most, got {short_side}")
    most = sides[1]
    if most > max_side:
        raise ValueError(f"max_side: expected at least {most}, as the short side, got {max_side}")
    if len(split) == 0:
        raise ValueError("split: expected at least one image, got none")
    if len(split) < world:
        raise ValueError(f"split: expected at least {world} images, one for each process, got {len(split)}")
    show = _Show(batch_size, short_side, max_side, hflip, seed, shuffle, device, rank, world)
    return BoxLoader(split, show, 0 if isinstance(split, DrawnBoxes) else workers)
