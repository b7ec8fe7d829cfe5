"""What a segmentation model says of images: masks as plain data, as files, and drawn over the images.

A mask is given class by class: `class` and its `index`, `share` of the image's pixels, and `rle`, COCO's uncompressed
run lengths: `size` (height, width), and `counts` of pixels down the columns, in turn not of the class and of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pldistill.data.images import open_image
from pldistill.files import write_atomically
from pldistill.record import OVERLAYS, RunRecord
from pldistill.tasks.segmentation.dataset import MaskData, fit, resize
from pldistill.tasks.segmentation.segmenter import Segmenter
from pldistill.tasks.segmentation.weights import load_segmenter
from pldistill.types import IGNORED

LEFT = 6  # validation images that a run leaves with what was said of them
_SIDE, _GAP = 192, 6  # pixels
_SEEN = 0.55  # part of a class's color over the image


@torch.no_grad()
def segment(folder: Path, images: Sequence[Path | str], *, exif: bool = True) -> list[list[dict[str, Any]]]:
    """Say which pixels of each image are of which class, the largest first, in float32 on the CPU.

    An image is seen whole, with the short side that the run's images had, and answered at its own size. `exif` applies
    the EXIF orientation of images.

    Raises:
        ValueError: for an image that is missing or cannot be read.
    """
    loaded = load_segmenter(folder)
    answers = []
    for file in images:
        image = torch.from_numpy(np.asarray(open_image(str(file), exif=exif)).transpose(2, 0, 1).copy())
        height, width = image.shape[1:]
        scale = loaded.image_size / min(height, width)
        seen = resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        mask = loaded.model.classes_of(seen[None], (height, width))[0]
        answers.append(as_plain(mask, loaded.classes))
    return answers


def as_plain(mask: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A mask `(H, W)` class by class, the largest first."""
    plain = [
        {"class": classes[index], "index": index, "share": where.double().mean().item(), "rle": _runs(where)}
        for index, where in ((index, mask == index) for index in mask.unique().tolist())
    ]
    return sorted(plain, key=lambda one: -one["share"])


def _runs(where: Tensor) -> dict[str, list[int]]:
    flat = where.T.flatten().numpy()
    edges = (np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist()
    lengths = [last - first for first, last in zip([0, *edges], [*edges, len(flat)], strict=True)]
    return {"size": list(where.shape), "counts": [0, *lengths] if flat[0] else lengths}


def as_mask(plain: Sequence[dict[str, Any]]) -> np.ndarray:
    """`(H, W)` uint8 class indices of what `as_plain` gave."""
    height, width = plain[0]["rle"]["size"]
    mask = np.full(height * width, IGNORED, np.uint8)
    for one in plain:
        ends = np.cumsum(one["rle"]["counts"])
        for first, last in zip(ends[::2], ends[1::2], strict=False):
            mask[first:last] = one["index"]
    return mask.reshape(width, height).T.copy()


def palette() -> np.ndarray:
    """`(256, 3)` uint8, Pascal VOC's colors: the bits of an index, spread over the channels from their highest down."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colors[:, channel] |= (index >> (3 * level + channel) & 1) << (7 - level)
    colors[IGNORED] = 255
    return colors.astype(np.uint8)


def index_image(mask: np.ndarray) -> bytes:
    """A mask as a PNG of class indices, with a palette so that it can be looked at."""
    image = Image.fromarray(mask)
    image.putpalette(palette().flatten().tolist())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def overlay(image: Tensor, mask: Tensor) -> np.ndarray:
    """An image `(3, H, W)` uint8 under the colors of its mask `(H, W)`: `(H, W, 3)` uint8."""
    colors = palette()[mask.numpy()].astype(np.float32)
    mixed = (1 - _SEEN) * image.permute(1, 2, 0).numpy() + _SEEN * colors
    return np.rint(mixed).astype(np.uint8)


@torch.no_grad()
def leave_overlays(run: RunRecord, data: MaskData, student: Segmenter, teacher: Segmenter | None) -> None:
    """Write the first validation images as models see them, each beside its mask and what the models say of it."""
    student.eval()
    for place in range(min(LEFT, len(data.val))):
        image, mask = fit(*data.val.read(place), data.frame)
        panels = [image.permute(1, 2, 0).numpy(), overlay(image, mask)]
        for model in (teacher, student):
            if model is not None:
                said = model.classes_of(image[None].to(model.mean.device), data.frame)[0].cpu()
                panels.append(overlay(image, said))
        file = run.folder / OVERLAYS / f"{place + 1}-{data.val.names[place]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        _abreast(panels).save(out, "PNG")
        write_atomically(file, out.getvalue())


def _abreast(panels: Sequence[np.ndarray]) -> Image.Image:
    """Pictures of one size in a row, enlarged by a whole number where they are small."""
    height, width = panels[0].shape[:2]
    factor = max(1, -(-_SIDE // min(height, width)))
    wide, high = width * factor, height * factor
    row = Image.new("RGB", (len(panels) * (wide + _GAP) - _GAP, high), "#ffffff")
    for place, panel in enumerate(panels):
        row.paste(Image.fromarray(panel).resize((wide, high), Image.Resampling.NEAREST), (place * (wide + _GAP), 0))
    return row
