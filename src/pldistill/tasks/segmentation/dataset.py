"""Images with masks: splits of them, and batches that are cut and mirrored as (seed, view, id) say.

A mask is `(H, W)` uint8 class indices, `IGNORED` (255) where a pixel is of no class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pldistill.data.augment import flips
from pldistill.data.dataset import Triple, first_few
from pldistill.data.images import open_image
from pldistill.data.loader import Workers, check_place, divided
from pldistill.data.sampling import order, uniform
from pldistill.types import IGNORED, MaskBatch

Size = tuple[int, int]  # height and width in pixels
MODES = ("L", "P", "1")  # of a mask's file: an index a pixel


class MaskSplit(ABC):
    """Images with masks, in memory or as files.

    Attributes:
        ids: `(N,)` int64, what names an image forever: its index in the whole split, kept by `subset`.
        names: what each image is called.
    """

    def __init__(self, names: Sequence[str], ids: Tensor | None) -> None:
        self.names = tuple(names)
        self.ids = torch.arange(len(self.names)) if ids is None else ids
        assert len(self.ids) == len(self.names)

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def read(self, place: int) -> tuple[Tensor, Tensor]:
        """The image at this position, `(3, H, W)` uint8, and its mask, `(H, W)` uint8.

        Raises:
            ValueError: a file that is missing or damaged, or a mask that does not fit its image.
        """

    @abstractmethod
    def subset(self, indices: Sequence[int] | Tensor) -> MaskSplit:
        """The images at these positions, in this order; their ids stay what they were."""

    @abstractmethod
    def relabelled(self, labels: Tensor) -> MaskSplit:
        """The same images with class i become `labels[i]`, of `labels (256,)` uint8."""


class DrawnMasks(MaskSplit):
    """Images that live in memory: `images (N, 3, H, W)` and `masks (N, H, W)`, uint8."""

    def __init__(
        self, images: Tensor, masks: Tensor, ids: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(names or [f"{number:06d}" for number in range(len(images))], ids)
        self.images, self.masks = images, masks

    def read(self, place: int) -> tuple[Tensor, Tensor]:
        return self.images[place], self.masks[place]

    def subset(self, indices: Sequence[int] | Tensor) -> DrawnMasks:
        at = torch.as_tensor(indices, dtype=torch.int64)
        names = [self.names[place] for place in at.tolist()]
        return DrawnMasks(self.images[at], self.masks[at], self.ids[at], names)

    def relabelled(self, labels: Tensor) -> DrawnMasks:
        return DrawnMasks(self.images, labels[self.masks.long()], self.ids, self.names)


class StoredMasks(MaskSplit):
    """Images that are read when they are needed.

    Args:
        files: of each image, its file and its mask's.
        exif: turn images as their EXIF orientation says; masks are as they are stored.
        labels: `(256,)` uint8, what each index of a file is; None where that is itself.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, str]],
        ids: Tensor | None = None,
        *,
        exif: bool = True,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__([_stem(image) for image, _ in files], ids)
        self.files, self.exif, self.labels = tuple(files), exif, labels

    def read(self, place: int) -> tuple[Tensor, Tensor]:
        image, mask = self.files[place]
        pixels, classes = _tensor(open_image(image, exif=self.exif)), read_mask(mask)
        if pixels.shape[1:] != classes.shape:
            sizes = [f"{width}x{height}" for height, width in (pixels.shape[1:], classes.shape)]
            raise ValueError(f"{mask}: expected the size of its image, {sizes[0]} pixels, got {sizes[1]}")
        return pixels, classes if self.labels is None else self.labels[classes.long()]

    def subset(self, indices: Sequence[int] | Tensor) -> StoredMasks:
        at = torch.as_tensor(indices, dtype=torch.int64)
        files = [self.files[place] for place in at.tolist()]
        return StoredMasks(files, self.ids[at], exif=self.exif, labels=self.labels)

    def relabelled(self, labels: Tensor) -> StoredMasks:
        now = labels if self.labels is None else labels[self.labels.long()]
        return StoredMasks(self.files, self.ids, exif=self.exif, labels=now)


def _stem(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def read_mask(path: str) -> Tensor:
    """A mask's file as `(H, W)` uint8 class indices.

    Raises:
        ValueError: a file that is missing or damaged, or has several channels or more than 8 bits.
    """
    try:
        depth = _bits(path)
        with Image.open(path) as image:
            mode, classes = image.mode, np.asarray(image).astype(np.uint8)
    except Exception as error:  # decoders of damaged files raise anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a mask ({reason})") from error
    if depth not in (1, 8):
        found = "no PNG" if depth is None else f"{depth} bits of gray"
        raise ValueError(f"{path}: expected a mask as a PNG of 8 bits, an index a pixel, got {found}")
    if mode not in MODES:
        raise ValueError(f"{path}: expected a mask of one channel of 8 bits, an index a pixel, got mode {mode!r}")
    return torch.from_numpy(classes)


def _bits(path: str) -> int | None:
    """Bits of a gray PNG, by its header: decoders spread 2 or 4 of them over 8. None for another format.

    Of a PNG with a palette, whose indices are read as they are, and of one with several channels it is 8.
    """
    with Path(path).open("rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or len(header) < 26:
        return None
    return header[24] if header[25] == 0 and header[24] < 8 else 8


@dataclass(frozen=True)
class MaskData:
    """A training and a validation split of images with masks, and one set of classes.

    Attributes:
        spec: the text that opened it.
        classes: class names; index i of a mask is `classes[i]`.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        image_size: the short side in pixels of what models see.
        frame: height and width of it: those of all images, else a square.
        hflip: whether a mirrored image keeps its classes.
        train: what the student learns from.
        val: what scores it.
        holdout: training images that are kept from it; None where none are.
        skipped: by a part's name, what is wrong with each of its images that are left out (on_bad_image).
        unseen: by a part's name, the classes of which no pixel of it is.
    """

    spec: str
    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    image_size: int
    frame: Size
    hflip: bool
    train: MaskSplit
    val: MaskSplit
    holdout: MaskSplit | None = None
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unseen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def among(self, classes: Sequence[str], places: Sequence[int]) -> MaskData:
        """The same data with its labels among `classes`: class i of it is `classes[places[i]]`."""
        labels = torch.arange(IGNORED + 1, dtype=torch.uint8)
        labels[: len(places)] = torch.tensor(places, dtype=torch.uint8)
        parts = {"train": self.train.relabelled(labels), "val": self.val.relabelled(labels)}
        return replace(self, classes=tuple(classes), **parts)

    def notes(self) -> list[str]:
        """What a user should know of the data before the run."""
        notes = [
            f"data {self.spec!r}: no pixel of {part} is of {len(names)} of the {len(self.classes)} classes: "
            f"{first_few(names)}"
            for part, names in self.unseen.items()
        ]
        return notes + [
            f"data {self.spec!r}: {len(bad)} images of {part} are left out, which cannot be read: {first_few(bad)}"
            for part, bad in self.skipped.items()
        ]


def fit(image: Tensor, mask: Tensor, frame: Size) -> tuple[Tensor, Tensor]:
    """Image and mask at the size that models see: short side resized, center cut; as they are where they have it."""
    if image.shape[1:] == frame:
        return image, mask
    height, width = image.shape[1:]
    scale = max(frame[0] / height, frame[1] / width)
    size = max(frame[0], round(height * scale)), max(frame[1], round(width * scale))
    image, mask = resize(image, size), resize_labels(mask[None], size)[0]
    top, left = (size[0] - frame[0]) // 2, (size[1] - frame[1]) // 2
    return cut(image, mask, top, left, frame)


def resize(image: Tensor, size: Size) -> Tensor:
    """An image `(3, H, W)` uint8 at another size: bilinear, smoothed beforehand where it gets smaller."""
    if image.shape[1:] == size:
        return image
    pixels = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    return pixels[0].round_().clamp_(0, 255).to(torch.uint8)


def resize_labels(masks: Tensor, size: Size) -> Tensor:
    """Masks `(N, H, W)` at another size: the pixel nearest to each new one's center."""
    if masks.shape[1:] == size:
        return masks
    return functional.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0].to(masks.dtype)


def cut(image: Tensor, mask: Tensor, top: int, left: int, size: Size) -> tuple[Tensor, Tensor]:
    """The rectangle of this height and width whose corner is at (top, left)."""
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return image[:, rows, columns], mask[rows, columns]


@dataclass(frozen=True)
class _Show:
    """How a split is shown; the arguments of `make_mask_loader`."""

    batch_size: int
    frame: Size
    crop: int
    hflip: bool
    seed: int
    view_seed: int
    shuffle: bool
    device: torch.device
    rank: int
    world: int


class _Reading(torch.utils.data.Dataset):
    """What a worker does: (view, positions) in, the images as this view shows them and their masks out."""

    def __init__(self, split: MaskSplit, show: _Show) -> None:
        self._split, self._show, self._ids = split, show, split.ids.numpy()

    def __getitem__(self, key: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        view, at = key
        show, ids = self._show, self._ids[at]
        down, across = (uniform(show.view_seed, view, ids, f"crop {name}") for name in ("top", "left"))
        mirrored = flips(show.view_seed, view, ids) if show.hflip else np.zeros(len(ids), dtype=bool)
        scenes = [
            self._scene(*one)
            for one in zip(at.tolist(), down.tolist(), across.tolist(), mirrored.tolist(), strict=True)
        ]
        images, masks = (torch.stack(part) for part in zip(*scenes, strict=True))
        return images, masks

    def _scene(self, place: int, down: float, across: float, mirrored: bool) -> tuple[Tensor, Tensor]:
        image, mask = fit(*self._split.read(place), self._show.frame)
        if side := self._show.crop:
            height, width = self._show.frame
            top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
            image, mask = cut(image, mask, top, left, (side, side))
        return (image.flip(-1), mask.flip(-1)) if mirrored else (image, mask)


class MaskLoader:
    """Batches of one split, view after view. Made by `make_mask_loader`.

    Attributes:
        num_samples: images in a view, over all processes.
        joined: images in each batch, over all processes.
    """

    def __init__(self, split: MaskSplit, show: _Show, workers: int) -> None:
        self.num_samples = len(split)
        self._ids, self._show = split.ids, show
        self._bounds, self.joined = divided(len(split), show.batch_size, show.shuffle, show.rank, show.world)
        self._workers = Workers(_Reading(split, show), workers, pin=show.device.type == "cuda")

    def __len__(self) -> int:
        """Batches in a view."""
        return len(self._bounds)

    def epoch(self, view: int, start: int = 0) -> Iterator[MaskBatch]:
        """The batches of this view from the `start`-th on: what an uninterrupted epoch gives after `start` batches.

        Raises:
            ValueError: a negative view, or a start outside 0 ... len(loader).
        """
        check_place(view, start, len(self))
        show, count = self._show, self.num_samples
        places = order(show.seed, view, self._ids) if show.shuffle else torch.arange(count)
        return self._batches(view, [places[first:last] for first, last in self._bounds[start:]])

    def _batches(self, view: int, parts: list[Tensor]) -> Iterator[MaskBatch]:
        device = self._show.device
        read = self._workers.read([(view, at.numpy()) for at in parts])
        for at, (images, masks) in zip(parts, read, strict=True):
            images, masks = (part.to(device, non_blocking=True) for part in (images, masks))
            yield MaskBatch(images, masks.long(), self._ids[at].to(device), view)


def make_mask_loader(
    split: MaskSplit,
    *,
    batch_size: int,
    frame: Size,
    crop: int = 0,
    hflip: bool = False,
    seed: int,
    view_seed: int | None = None,
    shuffle: bool,
    device: torch.device,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> MaskLoader:
    """A loader over `split`, whose images come at the size `frame`, or as squares of side `crop` cut out of that.

    `hflip` mirrors half of the images, in each view others. `seed` is of the order, `view_seed` of crops and flips;
    None is the seed. The batches, and the parts of `world` processes, are those of `pldistill.data.make_loader`;
    `workers` are processes that read files, which change no number, and images in memory need none.

    Raises:
        ValueError: a split with fewer images than processes; a batch size or worker count that is too small; a crop
            that is larger than the images.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if crop > min(frame):
        raise ValueError(f"task option crop: expected at most {min(frame)}, the images' short side, got {crop}")
    if len(split) < max(1, world):
        raise ValueError(f"split: expected at least {max(1, world)} images, one for each process, got {len(split)}")
    views = seed if view_seed is None else view_seed
    show = _Show(batch_size, frame, crop, hflip, seed, views, shuffle, device, rank, world)
    return MaskLoader(split, show, 0 if isinstance(split, DrawnMasks) else workers)
