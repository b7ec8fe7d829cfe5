"""`shapes`: disks, squares, triangles and crosses on textured canvases, with a class for each pixel; no download.

A shape's class shows in its outline alone: colors say nothing. Every image follows from (seed, split, index), and no
two splits share a draw. A pixel that an outline cuts is of no class (`IGNORED`), as in Pascal VOC.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pldistill.data.sampling import uniform
from pldistill.files import cache_folder, cached_tensors
from pldistill.tasks.segmentation.dataset import DrawnMasks
from pldistill.types import IGNORED

VERSION = 1  # part of the cache file's name: raise it when an image changes
SIZE = 64
MEAN = (0.5, 0.5, 0.5)
STD = (0.2, 0.2, 0.2)
CLASSES = ("background", "disk", "square", "triangle", "cross")
MOST = 100_000  # images that are drawn, and seeds

_FINE = 4  # points a side of a pixel at which it is looked whose they are
_FEWEST, _SHAPES = 2, 5  # of an image
_LEAST, _LARGEST = 11.0, 24.0  # a shape's radius, in pixels


def shapes(train: int = 600, val: int = 150, seed: int = 0) -> tuple[DrawnMasks, DrawnMasks]:
    """Training and validation split of `train` and `val` images, from the cache where they were made before.

    Raises:
        ValueError: a split without images, a negative seed, or a damaged cache file.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if not least <= value <= MOST:
            raise ValueError(f"shapes: {name}: expected {least} to {MOST:,}, got {value:,}")
    first, second = (_cached(count, seed, split) for count, split in ((train, "train"), (val, "val")))
    return first, second


def _cached(count: int, seed: int, split: str) -> DrawnMasks:
    file = cache_folder() / "shapes" / f"v{VERSION}-{split}{count}-seed{seed}.safetensors"
    drawn = cached_tensors(file, lambda: draw(count, seed, split))
    return DrawnMasks(drawn["images"], drawn["masks"])


def draw(count: int, seed: int, split: str) -> dict[str, torch.Tensor]:
    """The images 0 ... count - 1 of a split: `images (N, 3, 64, 64)` and `masks (N, 64, 64)`, uint8."""
    sheet = _Sheet(np.arange(count), seed, split)
    drawn = [sheet.scene(place) for place in range(count)]
    images, masks = (torch.from_numpy(np.stack(part)).contiguous() for part in zip(*drawn, strict=True))
    return {"images": images, "masks": masks}


class _Sheet:
    """The draws of some images."""

    def __init__(self, ids: np.ndarray, seed: int, split: str) -> None:
        self._ids, self._seed, self._split = ids, seed, split
        self.count = np.floor(self._between(_FEWEST, _SHAPES + 1, "count")).astype(np.int64)
        self.kind = np.floor(self._table(1, len(CLASSES), "kind", _SHAPES)).astype(np.int64)
        self.radius = np.exp(self._table(math.log(_LEAST), math.log(_LARGEST), "radius", _SHAPES))
        self.angle = self._table(0, 2 * math.pi, "angle", _SHAPES)
        self.x, self.y = (self._table(0, SIZE, name, _SHAPES) for name in "xy")
        self.color = self._table(0.15, 0.85, "color", 3 * _SHAPES).reshape(-1, _SHAPES, 3)
        self.middle = self._table(0.25, 0.75, "middle", 3)
        self.waves = self._table(0, 1, "waves", 2 * 4).reshape(-1, 2, 4)
        self.noise = self._between(0.05, 0.2, "noise")

    def _between(self, low: float, high: float, name: str) -> np.ndarray:
        """`(N,)` float64, uniform in [low, high)."""
        return low + (high - low) * uniform(self._seed, 0, self._ids, f"shapes/{self._split}/{name}")

    def _table(self, low: float, high: float, name: str, columns: int) -> np.ndarray:
        """`(N, columns)` float64, uniform in [low, high)."""
        return np.stack([self._between(low, high, f"{name}{k}") for k in range(columns)], axis=1)

    def scene(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """An image `(3, 64, 64)` and its mask `(64, 64)`, uint8: the later shapes lie over the earlier."""
        down, across = (np.mgrid[0 : SIZE * _FINE, 0 : SIZE * _FINE] + 0.5) / _FINE
        canvas, whose = self._canvas(place, down, across), np.zeros(down.shape, np.uint8)
        for slot in range(self.count[place]):
            kind, radius, angle = (part[place, slot] for part in (self.kind, self.radius, self.angle))
            x, y = (across - self.x[place, slot]) / radius, (down - self.y[place, slot]) / radius
            u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
            inside = _inside(CLASSES[kind], u, v)
            canvas[inside], whose[inside] = self.color[place, slot], kind
        points = whose.reshape(SIZE, _FINE, SIZE, _FINE)
        least, most = points.min((1, 3)), points.max((1, 3))
        pixels = canvas.reshape(SIZE, _FINE, SIZE, _FINE, 3).mean((1, 3))
        grain = uniform(self._seed, int(self._ids[place]), np.arange(pixels.size), f"shapes/{self._split}/grain")
        pixels = pixels + self.noise[place] * (grain.reshape(pixels.shape) - 0.5)
        image = np.rint(pixels * 255).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
        return image, np.where(least == most, least, IGNORED).astype(np.uint8)

    def _canvas(self, place: int, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        """A color with two waves across it, a slow change of light and a weave."""
        canvas = np.tile(self.middle[place], (*down.shape, 1))
        for wave, cycles, height in zip(self.waves[place], (1, 6), (0.2, 0.12), strict=True):
            angle, phase = 2 * math.pi * wave[:2]
            along = (math.cos(angle) * across + math.sin(angle) * down) / SIZE * cycles * (0.5 + wave[2])
            canvas += (height * wave[3] * np.sin(2 * math.pi * along + phase))[..., None]
        return canvas


def _inside(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points lie in the shape of this kind, of radius 1 about the origin."""
    if kind == "disk":
        return u**2 + v**2 <= 0.7
    if kind == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.7
    if kind == "triangle":
        return np.maximum(v, math.sqrt(3) / 2 * np.abs(u) - v / 2) <= 0.5
    thin, long = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (thin <= 0.28) & (long <= 0.95)
