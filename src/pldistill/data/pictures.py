"""Picture files: decoded to RGB whatever their mode, resized and cut as `augment` says for pictures in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pldistill.data.augment import SMALL, Augment, boxes, evaluation_resize, move
from pldistill.data.random import Views
from pldistill.data.splits import Encoded

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def open_picture(path: str, content: IO[bytes] | None = None) -> Image.Image:
    """The whole picture as RGB: 16-bit grey by its upper byte; transparency and EXIF rotation ignored, as usual.

    Where there is `content` it is read, and closed, in place of the file; `path` is then its name in messages.

    Raises:
        ValueError: the file is missing, empty, damaged or not a picture; the message names it.
    """
    try:
        with content or Path(path).open("rb") as file, Image.open(file) as image:
            return _rgb(image)
    except Exception as error:  # decoders of damaged files raise anything: OSError, SyntaxError, EOFError, struct.error
        raise ValueError(f"{path}: cannot be read as a picture ({str(error) or type(error).__name__})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def read_picture(path: str, size: int) -> Tensor:
    """What evaluation sees of a file: `(3, size, size)` uint8.

    Raises:
        ValueError: as `open_picture`.
    """
    return _tensor(fit_picture(open_picture(path), size))


def read_batch(
    files: Sequence[Encoded], ids: np.ndarray, augment: Augment | None, size: int, seed: int, view: Views
) -> Tensor:
    """What this view shows of the files: `(N, 3, size, size)` uint8."""
    pictures = [open_picture(*file) for file in files]
    if augment is None:
        return torch.stack([_tensor(fit_picture(picture, size)) for picture in pictures])
    if augment.crop == "resized":
        widths, heights = np.array([picture.size for picture in pictures]).T
        cuts = boxes(augment, heights, widths, seed, view, ids).tolist()
        pictures = [cut_picture(picture, box, size) for picture, box in zip(pictures, cuts, strict=True)]
    else:
        pictures = [fit_picture(picture, size) for picture in pictures]
    return move(torch.stack([_tensor(picture) for picture in pictures]), augment, seed, view, ids)


def fit_picture(image: Image.Image, size: int) -> Image.Image:
    """Short side resized (bicubic), centre cut to size x size; see `augment.fit`, its twin for tensors."""
    if image.size == (size, size) and size <= SMALL:
        return image
    short = evaluation_resize(size)
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def cut_picture(image: Image.Image, box: Sequence[int], size: int) -> Image.Image:
    """The box (top, left, height, width), resized (bicubic) to size x size; see `augment.cut`."""
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
