"""Pictures with boxes: splits of them, and what a detector must know to read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pldistill.data.augment import open_picture
from pldistill.data.dataset import Triple


class Objects(NamedTuple):
    """What is known of a picture's objects.

    Attributes:
        boxes: `(M, 4)` float64, left, top, right and bottom in pixels of the picture as it is stored, and within it.
        labels: `(M,)` int64 in 1..C; 0 is the background.
        areas: `(M,)` float64, in such pixels: of the object's mask where there is one, by which COCO calls it small.
        crowd: `(M,)` bool, many objects in one box: nothing to learn from, and finding it or not changes no figure.
    """

    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowd: Tensor

    def at(self, which: Tensor | slice) -> Objects:
        """Some of them: at these positions, where this mask is true, or in this stretch."""
        return Objects(*(column[which] for column in self))


@dataclass(frozen=True)
class Annotations:
    """What is known of each picture of a split.

    Attributes:
        sizes: `(N, 2)` int64, height and width as stored.
        objects: those of all pictures, picture by picture.
        counts: `(N,)` int64, how many of them are each picture's.
        image_ids: COCO's ids.
        names: COCO's file names.
    """

    sizes: Tensor
    objects: Objects
    counts: Tensor
    image_ids: tuple[int, ...]
    names: tuple[str, ...]

    def subset(self, places: Sequence[int]) -> Annotations:
        """What is known of the pictures at these places, in this order."""
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
    """Pictures with boxes, in memory or as files.

    Attributes:
        annotations: what is known of them; `sizes`, `image_ids` and `names` are its columns.
        ids: `(N,)` int64, what names a picture for ever: its index in the whole split, kept by `subset`.
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

    def objects(self, place: int) -> Objects:
        """Give the objects of the picture at this position."""
        first = self._ends[place - 1] if place else 0
        return self.annotations.objects.at(slice(first, self._ends[place]))

    @abstractmethod
    def picture(self, place: int) -> Tensor:
        """Read the picture at this position, `(3, H, W)` uint8.

        Raises:
            ValueError: a file that is missing or damaged, or has another size than its record says.
        """

    @abstractmethod
    def subset(self, places: Sequence[int]) -> BoxSplit:
        """Give the pictures at these positions, in this order; their ids stay what they were."""


class DrawnBoxes(BoxSplit):
    """Pictures that live in memory: `images (N, 3, H, W)` uint8."""

    def __init__(self, images: Tensor, annotations: Annotations, ids: Tensor | None = None) -> None:
        super().__init__(annotations, ids)
        self.images = images

    def picture(self, place: int) -> Tensor:
        return self.images[place]

    def subset(self, places: Sequence[int]) -> DrawnBoxes:
        at = torch.tensor(places, dtype=torch.int64)
        return DrawnBoxes(self.images[at], self.annotations.subset(places), self.ids[at])


class StoredBoxes(BoxSplit):
    """Pictures that are read when they are needed: `paths`, one file each."""

    def __init__(self, paths: Sequence[str], annotations: Annotations, ids: Tensor | None = None) -> None:
        super().__init__(annotations, ids)
        self.paths = tuple(paths)

    def picture(self, place: int) -> Tensor:
        image = open_picture(self.paths[place])
        height, width = self.sizes[place].tolist()
        if image.size != (width, height):
            raise ValueError(
                f"{self.paths[place]}: expected {width}x{height} pixels, as its record says, "
                f"got {image.width}x{image.height}"
            )
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def subset(self, places: Sequence[int]) -> StoredBoxes:
        at = torch.tensor(places, dtype=torch.int64)
        return StoredBoxes([self.paths[place] for place in places], self.annotations.subset(places), self.ids[at])


@dataclass(frozen=True)
class BoxData:
    """A training and a validation split of pictures with boxes, and one set of classes.

    Attributes:
        spec: the text that opened it.
        classes: class names; label i + 1 is `classes[i]`, and 0 the background.
        category_ids: COCO's id of each class, rising.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        image_size: the short side in pixels that nets see in evaluation.
        max_side: what the long side may have at most; a picture that is longer gets a smaller short side.
        hflip: whether a mirrored picture keeps its classes.
        train: what the student learns from.
        val: what scores it.
        oddities: how often something was found that is left out or put right, by what it is; only what was found.
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
    oddities: Mapping[str, int]
