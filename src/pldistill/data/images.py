"""One image file, as RGB pixels: whatever its mode, and upright as its EXIF orientation says."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
UPRIGHT = 1  # the EXIF orientation of an image that is stored as it is shown


def open_image(path: str, content: IO[bytes] | None = None, exif: bool = True) -> Image.Image:
    """The whole image as RGB: 16-bit gray by its upper byte; transparency ignored, as usual.

    With `exif` it is turned and mirrored as its EXIF orientation says: as it is shown, and as people annotate it.
    Where there is `content` it is read, and closed, in place of the file; `path` is then its name in messages.

    Raises:
        ValueError: the file is missing, empty, damaged, not an image or no regular file; the message names it.
    """
    try:
        with content or _regular(path).open("rb") as file, Image.open(file) as image:
            return _rgb(upright(image) if exif else image)
    except Exception as error:  # decoders of damaged files raise anything: OSError, SyntaxError, EOFError, struct.error
        raise _unreadable(path, error) from error


def check_header(path: str, content: IO[bytes] | None = None, exif: bool = True) -> tuple[int, int]:
    """Width and height in pixels as the file's first bytes give them, as `open_image` would turn it.

    Raises:
        ValueError: as `open_image`, but for what is wrong behind the header.
    """
    try:
        with content or _regular(path).open("rb") as file, Image.open(file) as image:
            if image.format == "TIFF":  # PIL turns it while it decodes it
                image.load()
            width, height = image.size
            return (height, width) if exif and orientation(image, header=True) >= 5 else (width, height)
    except Exception as error:
        raise _unreadable(path, error) from error


def upright(image: Image.Image) -> Image.Image:
    """The image as it is shown: turned and mirrored as its EXIF orientation says."""
    image.load()  # what is wrong with the pixels is raised here, and not while the metadata is read
    if orientation(image) == UPRIGHT:
        return image
    return ImageOps.exif_transpose(image)


def orientation(image: Image.Image, *, header: bool = False) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or EXIF data that cannot be read, as viewers have it.

    With `header` what stands behind the pixels is not looked for: a PNG would be decoded for it.
    """
    try:
        found = (Image.Image.getexif(image) if header else image.getexif()).get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # a parser of damaged metadata raises anything; the pixels are none the worse
        return UPRIGHT
    return found if found in range(1, 9) else UPRIGHT


def _regular(path: str) -> Path:
    """The path of a file; opening a named pipe would wait forever."""
    file = Path(path)
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")
    return file


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(f"{path}: cannot be read as an image ({str(error) or type(error).__name__})")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
