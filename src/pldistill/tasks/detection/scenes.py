"""`scenes`: characters of many sizes, faces and colors scattered on textured canvases; made in seconds, no download.

Other characters lie among them and belong to no class. Every image follows from (seed, split, index), and no two
splits share a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pldistill.data.embedded import FACES, large
from pldistill.data.sampling import uniform
from pldistill.files import cache_folder, cached_tensors
from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, DrawnBoxes

VERSION = 1  # part of the cache file's name: raise it when an image changes
SIZE = 96
MEAN = (0.5, 0.5, 0.5)  # of the default training split
STD = (0.2, 0.2, 0.2)

CLASSES = tuple("ABEFHKMRS248")  # some alike: E and F, B and 8, H and K, S and 2
OTHERS = tuple("CDJLTUVX57?&+")  # scattered among them, of no class

_LEAST, _LARGEST = 16, 46  # a character's longest side, in pixels
_MOST, _OTHERS = 5, 2  # characters in an image, of a class and of none
_FAINT = 64  # gray that is not yet part of a character
_TRIES = 12  # at a place where a character hides little
_HIDDEN = 0.08  # share of the smaller of two boxes that may lie in the other


MOST = 1_000_000  # images that are drawn, and seeds


def scenes(train: int = 3_000, val: int = 500, seed: int = 0) -> tuple[DrawnBoxes, DrawnBoxes]:
    """Training and validation split of `train` and `val` images, from the cache where they were made before.

    Raises:
        ValueError: a split without images, a negative seed, or a damaged cache file.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"scenes: {name}: expected at least {least}, got {value}")
        if value > MOST:
            raise ValueError(f"scenes: {name}: expected at most {MOST:,}, got {value:,}")
    first, second = (_cached(count, seed, split) for count, split in ((train, "train"), (val, "val")))
    return first, second


def _cached(count: int, seed: int, split: str) -> DrawnBoxes:
    file = cache_folder() / "scenes" / f"v{VERSION}-{split}{count}-seed{seed}.safetensors"

    def make() -> dict[str, torch.Tensor]:
        drawn = draw(count, seed, split)
        objects, counts = drawn.annotations.objects, drawn.annotations.counts
        return {"images": drawn.images, "boxes": objects.boxes, "labels": objects.labels, "counts": counts}

    return _split(**cached_tensors(file, make))


def _split(images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> DrawnBoxes:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    objects = BoxAnnotations(boxes, labels, areas, torch.zeros(len(labels), dtype=torch.bool))
    numbers = tuple(range(1, len(images) + 1))
    names = tuple(f"{number:012d}.png" for number in numbers)
    return DrawnBoxes(images, Annotations(torch.full((len(images), 2), SIZE), objects, counts, numbers, names))


def draw(count: int, seed: int, split: str) -> DrawnBoxes:
    """The images 0 ... count - 1 of a split."""
    sheet = _Sheet(np.arange(count), seed, split)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    placed: list[list[_Placed]] = []
    for place in range(count):
        placed.append(sheet.layout(place))
        images[place] = sheet.image(place, placed[-1])
    kept = [[one for one in row if one.label] for row in placed]
    return _split(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([one.box for row in kept for one in row], dtype=torch.float64),
        torch.tensor([one.label for row in kept for one in row]),
        torch.tensor([len(row) for row in kept]),
    )


class _Placed(NamedTuple):
    """A character in an image: its cover in [0, 1], its box, its slot, and its label; 0 where it is of no class."""

    cover: np.ndarray
    box: tuple[int, int, int, int]
    slot: int
    label: int


class _Sheet:
    """The draws of some images; an image has slots for characters, those of a class first."""

    def __init__(self, ids: np.ndarray, seed: int, split: str) -> None:
        self._ids, self._seed, self._split = ids, seed, split
        slots = _MOST + _OTHERS
        self.objects = self.whole(1, _MOST, "objects")
        self.others = self.whole(0, _OTHERS, "others")
        self.kind, self.face = (self.table(0, 1, name, slots) for name in ("kind", "face"))
        self.side = np.exp(self.table(math.log(_LEAST), math.log(_LARGEST), "side", slots))
        self.angle, self.stretch = self.table(-12, 12, "angle", slots), self.table(-0.15, 0.15, "stretch", slots)
        self.x, self.y = (self.table(0, 1, name, slots * _TRIES).reshape(-1, slots, _TRIES) for name in "xy")
        self.polarity, self.contrast = self.table(-1, 1, "polarity", slots), self.table(0.2, 0.6, "contrast", slots)
        self.tint = self.table(-0.12, 0.12, "tint", 3 * slots).reshape(-1, slots, 3)
        self.middle = self.table(0.2, 0.8, "middle", 3)
        self.waves = self.table(0, 1, "waves", 3 * 4).reshape(-1, 3, 4)
        self.noise = self.between(0.02, 0.16, "noise")

    def between(self, low: float, high: float, name: str) -> np.ndarray:
        """`(N,)` float64, uniform in [low, high)."""
        return low + (high - low) * uniform(self._seed, 0, self._ids, f"scenes/{self._split}/{name}")

    def whole(self, low: int, high: int, name: str) -> np.ndarray:
        """`(N,)` int64, uniform over low ... high."""
        return np.floor(self.between(low, high + 1, name)).astype(np.int64)

    def table(self, low: float, high: float, name: str, columns: int) -> np.ndarray:
        """`(N, columns)` float64, uniform in [low, high)."""
        return np.stack([self.between(low, high, f"{name}{k}") for k in range(columns)], axis=1)

    def layout(self, place: int) -> list[_Placed]:
        """The characters of an image, each where it hides little of those before it; else it is left out."""
        placed: list[_Placed] = []
        slots = [*range(self.objects[place]), *range(_MOST, _MOST + self.others[place])]
        for slot in slots:
            names = CLASSES if slot < _MOST else OTHERS
            kind = int(self.kind[place, slot] * len(names))
            cover = self._character(place, slot, names[kind])
            height, width = cover.shape
            for x, y in zip(self.x[place, slot], self.y[place, slot], strict=True):
                left, top = int(x * (SIZE - width + 1)), int(y * (SIZE - height + 1))
                box = (left, top, left + width, top + height)
                if all(_hidden(box, other.box) <= _HIDDEN for other in placed):
                    placed.append(_Placed(cover, box, slot, kind + 1 if slot < _MOST else 0))
                    break
        return placed

    def _character(self, place: int, slot: int, character: str) -> np.ndarray:
        """A character's cover, turned and stretched, cut at its edges, its longest side as drawn."""
        face = FACES[int(self.face[place, slot] * len(FACES))]
        turned = _large(character, face).rotate(float(self.angle[place, slot]), Image.Resampling.BICUBIC, expand=True)
        turned = turned.crop(turned.point([0] * _FAINT + [255] * (256 - _FAINT)).getbbox())
        width, height = np.array(turned.size) * np.exp(self.stretch[place, slot] * np.array([1, -1]))
        scale = self.side[place, slot] / max(width, height)
        size = max(4, round(width * scale)), max(4, round(height * scale))
        return np.asarray(turned.resize(size, Image.Resampling.BOX), dtype=np.float32) / 255

    def image(self, place: int, placed: Sequence[_Placed]) -> np.ndarray:
        """`(96, 96, 3)` uint8: the canvas, the characters on it, noise on all."""
        canvas = self._canvas(place)
        for one in placed:
            left, top, right, bottom = one.box
            part = canvas[top:bottom, left:right]
            contrast = np.copysign(self.contrast[place, one.slot], self.polarity[place, one.slot])
            ink = part.mean((0, 1)) + contrast + self.tint[place, one.slot]
            part += one.cover[..., None] * (ink - part)
        pixels = np.arange(canvas.size)
        noise = uniform(self._seed, int(self._ids[place]), pixels, f"scenes/{self._split}/grain").reshape(canvas.shape)
        return np.rint((canvas + self.noise[place] * (noise - 0.5)) * 255).clip(0, 255).astype(np.uint8)

    def _canvas(self, place: int) -> np.ndarray:
        """A color with three waves across it, from a slow change of light to a weave."""
        down, across = np.mgrid[0:SIZE, 0:SIZE] / SIZE
        canvas = np.tile(self.middle[place], (SIZE, SIZE, 1))
        for wave, cycles, height in zip(self.waves[place], (1, 6, 14), (0.16, 0.08, 0.06), strict=True):
            angle, phase = 2 * np.pi * wave[:2]
            along = (np.cos(angle) * across + np.sin(angle) * down) * cycles * (0.5 + wave[2])
            canvas += (height * wave[3] * np.sin(2 * np.pi * along + phase))[..., None]
        return canvas


_large = lru_cache(maxsize=None)(large)


def _hidden(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The share of the smaller box that lies in the larger one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((right - left) * (bottom - top) for left, top, right, bottom in (box, other))
    return max(0, width) * max(0, height) / smaller
