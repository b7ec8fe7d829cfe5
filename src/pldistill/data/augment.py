"""Augmentation that can be replayed: what happens to an image follows from (seed, view, id) alone.

Images of files are resized and cut in the same way as images in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pldistill.data.dataset import Dataset, Encoded
from pldistill.data.images import open_image
from pldistill.data.sampling import Views, uniform


def read_image(path: str, size: int, *, exif: bool = True) -> Tensor:
    """What evaluation sees of a file: `(3, size, size)` uint8.

    Raises:
        ValueError: as `open_image`.
    """
    return _tensor(fit_image(open_image(path, exif=exif), size))


def read_batch(
    files: Sequence[Encoded], ids: np.ndarray, augment: Augment | None, size: int, seed: int, view: Views
) -> Tensor:
    """What this view shows of the files: `(N, 3, size, size)` uint8."""
    images = [open_image(*file) for file in files]
    if augment is None:
        return torch.stack([_tensor(fit_image(image, size)) for image in images])
    if augment.crop == "resized":
        widths, heights = np.array([image.size for image in images]).T
        cuts = boxes(augment, heights, widths, seed, view, ids).tolist()
        images = [cut_image(image, box, size) for image, box in zip(images, cuts, strict=True)]
    else:
        images = [fit_image(image, size) for image in images]
    return crop_and_flip(torch.stack([_tensor(image) for image in images]), augment, seed, view, ids)


def fit_image(image: Image.Image, size: int) -> Image.Image:
    """Short side resized (bicubic), center cut to size x size; see `resize_center_crop`, its twin for tensors."""
    if image.size == (size, size) and size <= SMALL:
        return image
    short = evaluation_resize(size)
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def cut_image(image: Image.Image, box: Sequence[int], size: int) -> Image.Image:
    """The box (top, left, height, width), resized (bicubic) to size x size; see `augment.cut`."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


SMALL = 64  # up to this side images are small: padded crops in training, no margin in evaluation
EVAL_CROP = 0.95  # above it, evaluation sees the central 95 % of the short side (paper, Section 5.2)
_TRIES = 10


@dataclass(frozen=True)
class Augment:
    """What training does to an image.

    Attributes:
        crop: "pad" shifts the image by up to `padding` pixels into zeros (RandomCrop with padding); "resized" cuts a
            box of random area and aspect and resizes it (RandomResizedCrop); "none" does what evaluation does.
        padding: pixels on each side, for "pad".
        hflip: mirror half of the images.
        scale: the box's share of the image's area, least and most, for "resized".
        ratio: the box's width / height, least and most, for "resized".

    Raises:
        ValueError: an unknown crop, a negative padding, an empty or impossible range.
    """

    crop: Literal["none", "pad", "resized"]
    padding: int = 4
    hflip: bool = True
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.crop not in ("none", "pad", "resized"):
            raise ValueError(f"crop: expected none, pad or resized, got {self.crop!r}")
        if self.padding < 0:
            raise ValueError(f"padding: expected at least 0 pixels, got {self.padding}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: expected 0 < least <= most <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: expected 0 < least <= most, got {self.ratio}")


def default_augment(dataset: Dataset) -> Augment:
    """Padded crop up to 64 pixels, random resized crop above; flip unless a mirrored image is another class."""
    return Augment(crop="pad" if dataset.image_size <= SMALL else "resized", hflip=dataset.hflip)


def training_augment(dataset: Dataset, hflip: bool | None) -> Augment:
    """What a run does to a training image before it is mixed with another; `hflip` None is the data's own choice."""
    augment = default_augment(dataset)
    return augment if hflip is None else replace(augment, hflip=hflip)


def flips(seed: int, view: Views, ids: np.ndarray) -> np.ndarray:
    """`(N,)` bool: which images this view mirrors."""
    return uniform(seed, view, ids, "flip") < 0.5


def shifts(padding: int, seed: int, view: Views, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top and left corner `(N,)` int64 of each crop in its padded image, uniform over 0 ... 2 padding."""
    span = 2 * padding + 1
    top, left = (np.floor(uniform(seed, view, ids, name) * span).astype(np.int64) for name in ("top", "left"))
    return top, left


def boxes(
    augment: Augment, heights: np.ndarray, widths: np.ndarray, seed: int, view: Views, ids: np.ndarray
) -> np.ndarray:
    """`(N, 4)` int64 (top, left, height, width) of random resized crops in images of the given sizes.

    Ten tries at an area share uniform in `scale` and a log-uniform `ratio`, the first that fits the image; if none
    does, the largest central box whose aspect lies in `ratio` (Szegedy et al. 2015; torchvision's RandomResizedCrop).
    """
    heights, widths = np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64)
    area = np.stack([uniform(seed, view, ids, f"area{k}") for k in range(_TRIES)])
    aspect = np.stack([uniform(seed, view, ids, f"aspect{k}") for k in range(_TRIES)])
    low, high = math.log(augment.ratio[0]), math.log(augment.ratio[1])
    aspect = np.exp(low + (high - low) * aspect)
    area = heights * widths * (augment.scale[0] + (augment.scale[1] - augment.scale[0]) * area)
    tall = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    wide = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    fits = (tall > 0) & (wide > 0) & (tall <= heights) & (wide <= widths)
    first, column = fits.argmax(0), np.arange(len(heights))
    central_wide = np.maximum(1, np.minimum(widths, np.rint(heights * augment.ratio[1]))).astype(np.int64)
    central_tall = np.maximum(1, np.minimum(heights, np.rint(widths / augment.ratio[0]))).astype(np.int64)
    found = fits.any(0)
    tall = np.where(found, tall[first, column], central_tall)
    wide = np.where(found, wide[first, column], central_wide)
    top, left = uniform(seed, view, ids, "box top"), uniform(seed, view, ids, "box left")
    top = np.where(found, np.floor(top * (heights - tall + 1)), (heights - tall) // 2)
    left = np.where(found, np.floor(left * (widths - wide + 1)), (widths - wide) // 2)
    return np.stack([top, left, tall, wide], axis=1).astype(np.int64)


def random_crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Each image of `(N, 3, H, W)`, padded with zeros, cut again at its own corner `top, left (N,)`.

    In a padded image that is laid out flat, a crop is one stretch that begins at its corner: one copy an image.
    """
    count, _, height, width = images.shape
    tall, wide = height + 2 * padding, width + 2 * padding
    area, margin = 3 * tall * wide, 2 * padding * (wide + 1)  # the last image's stretch may end beyond its padding
    flat = images.new_zeros(count * area + margin)
    middle = flat[: count * area].view(count, 3, tall, wide)
    middle[:, :, padding : padding + height, padding : padding + width] = images
    stretches = flat.as_strided((len(flat) - area + 1, area), (1, 1))
    corners = torch.arange(count, device=images.device) * area + top * wide + left
    return stretches.index_select(0, corners).view(count, 3, tall, wide)[:, :, :height, :width].contiguous()


def horizontal_flip(images: Tensor, which: Tensor) -> Tensor:
    """`(N, 3, H, W)` with the images at the positions `which` mirrored left to right, in place."""
    return images.index_copy_(0, which, images.index_select(0, which).flip(-1))


def evaluation_resize(size: int) -> int:
    """The short side in pixels before the central `size` x `size` crop: size / 0.95 rounded up above 64, else size."""
    return size if size <= SMALL else math.ceil(size / EVAL_CROP)


def _bicubic(images: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(images.float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def resize_center_crop(images: Tensor, size: int) -> Tensor:
    """What evaluation sees of `(N, 3, H, W)`: short side resized, center cut to `(N, 3, size, size)`.

    An image that is already size x size, up to 64 pixels, is left alone.
    """
    height, width = images.shape[-2:]
    if height == width == size and size <= SMALL:
        return images
    short = evaluation_resize(size)
    scale = short / min(height, width)
    images = _bicubic(images, max(short, round(height * scale)), max(short, round(width * scale)))
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size].contiguous()


def crop(images: Tensor, box: np.ndarray, size: int) -> Tensor:
    """The box `(top, left, height, width)` of each image of `(N, 3, H, W)`, resized to `(N, 3, size, size)`."""
    parts = [
        _bicubic(image[None, :, top : top + height, left : left + width], size, size)
        for image, (top, left, height, width) in zip(images, box.tolist(), strict=True)
    ]
    return torch.cat(parts)


def apply_augment(
    images: Tensor, augment: Augment | None, size: int, seed: int, view: Views, ids: np.ndarray
) -> Tensor:
    """What this view shows of the images `images (N, 3, H, W)`: `(N, 3, size, size)`, on the same device."""
    if augment is None:
        return resize_center_crop(images, size)
    if augment.crop == "resized":
        heights, widths = (np.full(len(ids), side) for side in images.shape[-2:])
        images = crop(images, boxes(augment, heights, widths, seed, view, ids), size)
    else:
        images = resize_center_crop(images, size)
    return crop_and_flip(images, augment, seed, view, ids)


def crop_and_flip(images: Tensor, augment: Augment, seed: int, view: Views, ids: np.ndarray) -> Tensor:
    """The padded crop and the flip of a batch that has its size already, and is no view of a split's own images."""
    if augment.crop == "pad" and augment.padding:
        top, left = (torch.from_numpy(c).to(images.device) for c in shifts(augment.padding, seed, view, ids))
        images = random_crop(images, augment.padding, top, left)
    if augment.hflip:
        images = horizontal_flip(images, torch.from_numpy(np.flatnonzero(flips(seed, view, ids))).to(images.device))
    return images
