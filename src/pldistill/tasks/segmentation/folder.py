"""`masks:PATH`: `train/images`, `train/masks`, `val/images` and `val/masks`, and the names of the classes.

A mask is a PNG of one channel whose name, up to the suffix, is its image's: an index a pixel, 255 of no class. Every
image's header is read, and every mask decoded, before the first step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pldistill.data.dataset import first_few
from pldistill.data.images import SUFFIXES, check_header, open_image
from pldistill.paths import kind_of
from pldistill.tasks.segmentation.dataset import Size, StoredMasks, read_mask
from pldistill.types import IGNORED

CLASSES = "classes.txt"
MASKS = ".png"


@dataclass(frozen=True)
class MaskFolder:
    """What lies in a folder; the attributes are those of `MaskData`, and `sizes` heights and widths of the images."""

    classes: tuple[str, ...]
    train: StoredMasks
    val: StoredMasks
    sizes: set[Size]
    skipped: Mapping[str, tuple[str, ...]]
    unseen: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Part:
    """A part's images that can be read, how many pixels are of each index, the sizes, and what is wrong with others."""

    split: StoredMasks
    counts: np.ndarray
    sizes: set[Size]
    bad: tuple[str, ...]


def read_folder(root: Path, *, evaluation: bool = False, exif: bool = True, on_bad_image: str = "stop") -> MaskFolder:
    """Read what lies in `root`; for `evaluation` the validation part alone, and the training split is empty.

    Without a classes.txt the classes are the numbers up to the largest index of the masks that are read.

    Raises:
        ValueError: a folder that is missing, an image without a mask or a mask without an image, a mask of another
            size than its image's or with an index that no class has, and files that cannot be read, unless these are
            to be skipped.
    """
    if kind_of(root) != "a folder":
        raise ValueError(f"masks: expected a folder with train/ and val/, got {str(root)!r}, which is none")
    names = _names(root / CLASSES)
    parts = {
        part: _read(root / part, names, exif=exif, on_bad_image=on_bad_image)
        for part in (("val",) if evaluation else ("train", "val"))
    }
    if names is None:
        largest = max(int(part.counts.nonzero()[0].max(initial=0)) for part in parts.values())
        names = tuple(str(number) for number in range(largest + 1))
    unseen = {
        name: tuple(label for label, count in zip(names, part.counts, strict=False) if not count)
        for name, part in parts.items()
    }
    return MaskFolder(
        names,
        parts["train"].split if "train" in parts else parts["val"].split.subset([]),
        parts["val"].split,
        set().union(*(part.sizes for part in parts.values())),
        {name: part.bad for name, part in parts.items() if part.bad},
        {name: few for name, few in unseen.items() if few},
    )


def _names(file: Path) -> tuple[str, ...] | None:
    """The classes of classes.txt; None where there is none."""
    if kind_of(file) is None:
        return None
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"masks: expected a name a line, in UTF-8, in {str(file)!r}, got {error}") from None
    if "" in names:
        empty = names.index("") + 1
        raise ValueError(f"masks: expected a name in each line of {str(file)!r}, got none in line {empty}")
    if not 1 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise ValueError(f"masks: expected 1 to {IGNORED} names, each once, in {str(file)!r}, got {len(names)}")
    return names


def _read(part: Path, names: tuple[str, ...] | None, *, exif: bool, on_bad_image: str) -> _Part:
    files = _pairs(part)
    most = IGNORED if names is None else len(names)
    examine = partial(_look, most=most, exif=exif, decode=on_bad_image == "skip")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(pool.map(examine, files))
    bad = [look for look in looks if isinstance(look, str)]
    if bad and on_bad_image == "stop":
        raise ValueError(
            f"masks: {len(bad)} of {len(files)} files of {str(part)!r} are bad: {first_few(bad)}; on_bad_image=skip "
            "leaves them out"
        )
    good = [place for place, look in enumerate(looks) if not isinstance(look, str)]
    if not good:
        raise ValueError(f"masks: no image of {str(part)!r} can be read: {first_few(bad)}")
    counts, sizes = np.zeros(IGNORED + 1, np.int64), set()
    for look in looks:
        if not isinstance(look, str):
            counts += look[1]
            sizes.add(look[0])
    if not counts[:IGNORED].any():
        raise ValueError(f"masks: expected a pixel of a class in the masks of {str(part)!r}, got {IGNORED} alone")
    split = StoredMasks([files[place] for place in good], torch.tensor(good), exif=exif)
    return _Part(split, counts[:IGNORED], sizes, tuple(bad))


def _pairs(part: Path) -> list[tuple[str, str]]:
    """Each image's file and its mask's, in the order of their names."""
    folders = part / "images", part / "masks"
    for folder in folders:
        if kind_of(folder) != "a folder":
            raise ValueError(f"masks: expected the folder {str(folder)!r}, got none")
    images, masks = _by_stem(folders[0], SUFFIXES), _by_stem(folders[1], frozenset({MASKS}))
    if not images:
        raise ValueError(f"masks: expected images in {str(folders[0])!r} ({' '.join(sorted(SUFFIXES))}), got none")
    for have, wanted, what in ((images, masks, "mask"), (masks, images, "image")):
        if lone := sorted(have.keys() - wanted.keys()):
            raise ValueError(
                f"masks: expected a file for each in the other folder of {str(part)!r}, got no {what} for {len(lone)}: "
                f"{first_few([Path(have[stem]).name for stem in lone])}"
            )
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in files:
            raise ValueError(f"masks: expected one file a name in {str(folder)!r}, got {file.stem!r} twice")
        files[file.stem] = str(file)
    return files


def _look(files: tuple[str, str], *, most: int, exif: bool, decode: bool) -> tuple[Size, np.ndarray] | str:
    """Height and width of an image and how many pixels of its mask have each index; or what is wrong with them."""
    image, mask = files
    try:
        width, height = open_image(image, exif=exif).size if decode else check_header(image, exif=exif)
        classes = read_mask(mask)
    except ValueError as error:
        return str(error)
    if tuple(classes.shape) != (height, width):
        got = f"{classes.shape[1]}x{classes.shape[0]}"
        return f"{mask}: expected the size of its image, {width}x{height} pixels, got {got}"
    counts = np.bincount(classes.numpy().ravel(), minlength=IGNORED + 1)
    if (wrong := counts[most:IGNORED].nonzero()[0] + most).size:
        return f"{mask}: expected indices below {most}, one a class, or {IGNORED} of no class, got {int(wrong[0])}"
    return (height, width), counts
