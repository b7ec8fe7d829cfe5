"""`imagenet:PATH`: ImageNet-1k, `train/` and `val/` with a folder for each synset, in the order of timm's heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timm.data import ImageNetInfo

from pldistill.data.folder import class_folders, split_of
from pldistill.data.pictures import SUFFIXES
from pldistill.data.splits import FolderSplit

_SHOWN = 3  # synsets named in one message
_UNPACK = "torchvision.datasets.ImageNet unpacks the official archives and devkit so"


def imagenet(root: Path) -> tuple[tuple[str, ...], FolderSplit, FolderSplit]:
    """The 1,000 synsets (`n01440764`, ...) as class names, training and validation split.

    Class i is the i-th synset in sorted order, which is timm's for its pretrained heads, and torchvision's. The layout
    is also the one that torchvision leaves; its `meta.bin` is not needed, as the folders are named by synset. Files are
    not decoded beforehand, as `folder:` does: there are 1.3 million. One that cannot be read ends the run by its name.

    Raises:
        ValueError: no `train/` or `val/`; a `val/` that is not sorted into folders; folders other than the 1,000
            synsets; a synset without pictures.
    """
    known: list[str] = ImageNetInfo().label_names()
    parts = [_part(root / name, known) for name in ("train", "val")]
    train, val = (split_of("imagenet", part, known) for part in parts)
    return tuple(known), train, val


def _part(part: Path, known: Sequence[str]) -> Path:
    if not part.is_dir():
        raise ValueError(f"imagenet: expected {part}/ with a folder for each synset; there is none; {_UNPACK}")
    entries = [entry for entry in part.iterdir() if not entry.name.startswith(".")]
    if entries and not any(entry.is_dir() for entry in entries):
        loose = sum(entry.suffix.lower() in SUFFIXES for entry in entries)
        raise ValueError(
            f"imagenet: expected a folder for each synset in {part}, got {loose} pictures side by side, whose labels "
            f"are in the devkit; sort them into folders: {_UNPACK}"
        )
    found = class_folders("imagenet", part)
    missing, others = sorted(set(known) - set(found)), sorted(set(found) - set(known))
    if missing or others:
        about = [f"{what} {_few(names)}" for what, names in (("lacking", missing), ("beside them", others)) if names]
        raise ValueError(
            f"imagenet: expected the {len(known)} synsets {known[0]} to {known[-1]} as folders in {part}, got "
            f"{len(found)} folders, {', '.join(about)}; other classes are for folder:{part.parent}"
        )
    return part


def _few(names: Sequence[str]) -> str:
    return " ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
