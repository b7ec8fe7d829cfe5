"""`folder:PATH`: `train/` and `val/` (or `valid/`, `validation/`, `test/`), a folder a class.

`imagenet:PATH` is ImageNet-1k, with a folder for each synset, in the order of timm's heads.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from timm.data import ImageNetInfo

from pldistill.data.dataset import FolderSplit, count_suffixes
from pldistill.data.images import SUFFIXES
from pldistill.types import UNLABELLED

VALIDATION = ("val", "valid", "validation", "test")  # the folder of the images that score, the first that there is
_SHOWN = 5  # classes named in one message


def folder(root: Path, *, evaluation: bool = False) -> tuple[tuple[str, ...], FolderSplit, FolderSplit, Counter[str]]:
    """Class names, training and validation split, and the files that are not read as images, counted by suffix.

    For `evaluation` no training part is needed: the split is empty. Then the folders of classes may also lie in `root`
    itself.

    Raises:
        ValueError: no `train/` or nothing to validate on; no classes, or other ones in the two; a class without images.
    """
    val = _validation(root, evaluation)
    ignored: Counter[str] = Counter()
    if evaluation:
        classes = class_folders("folder", val)
        return classes, _nothing(), split_of("folder", val, classes, ignored), ignored
    parts = root / "train", val
    if not parts[0].is_dir():
        raise ValueError(f"folder: expected {parts[0]}/ with a folder for each class; there is none")
    classes, val_classes = (class_folders("folder", part) for part in parts)
    if classes != val_classes:
        lone = ", ".join(sorted(set(classes) ^ set(val_classes))[:_SHOWN])
        raise ValueError(f"folder: {parts[0]} and {parts[1]} must hold the same classes; in one alone: {lone}")
    train, val_split = (split_of("folder", part, classes, ignored) for part in parts)
    return classes, train, val_split, ignored


def _validation(root: Path, evaluation: bool) -> Path:
    if not root.is_dir():
        raise ValueError(f"folder: expected a folder, got {root}, which is not one")
    for name in VALIDATION:
        if (root / name).is_dir():
            return root / name
    if evaluation and not (root / "train").is_dir():
        return root
    raise ValueError(
        f"folder: expected {root / 'val'}/ (or {', '.join(VALIDATION[1:])}) with a folder for each class; there is none"
    )


def _nothing() -> FolderSplit:
    return FolderSplit([], torch.empty(0, dtype=torch.int64))


def class_folders(source: str, part: Path) -> tuple[str, ...]:
    """The names of the folders in `part`, sorted; `source` begins the message of the ValueError where there is none."""
    names = tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise ValueError(f"{source}: expected a folder for each class in {part}, found none")
    return names


def split_of(source: str, part: Path, classes: Sequence[str], ignored: Counter[str] | None = None) -> FolderSplit:
    """The images of each class's folder in `part`, in the order of `classes` and by name; counts what it ignores.

    Raises:
        ValueError: a class without images; the message begins with `source`.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        skipped: Counter[str] = Counter()
        found = list(_images(str(part / name), frozenset(), skipped))
        if not found:
            known, others = " ".join(sorted(SUFFIXES)), f"; it holds {count_suffixes(skipped)}" if skipped else ""
            raise ValueError(f"{source}: {part / name} holds no images ({known}){others}")
        if ignored is not None:
            ignored.update(skipped)
        paths += found
        labels += [label] * len(found)
    return FolderSplit(paths, torch.tensor(labels))


def images_below(root: Path) -> FolderSplit:
    """Every image in a folder and below it, whatever the folders are called, by name, without labels.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise ValueError(f"folder: expected a folder, got {root}, which is not one")
    paths = list(_images(str(root), frozenset()))
    if not paths:
        raise ValueError(f"folder: {root} holds no images ({' '.join(sorted(SUFFIXES))})")
    return FolderSplit(paths, torch.full((len(paths),), UNLABELLED))


def _images(place: str, above: frozenset[str], ignored: Counter[str] | None = None) -> Iterator[str]:
    """Files with an image's suffix in `place` and below, by name; links are followed, but never in a circle.

    Other files are counted in `ignored` by suffix, hidden ones not.
    """
    real = os.path.realpath(place)
    if real in above:
        return
    with os.scandir(place) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _images(entry.path, above | {real}, ignored)
        elif (suffix := Path(entry.name).suffix.lower()) in SUFFIXES:
            yield entry.path
        elif ignored is not None:
            ignored[suffix] += 1


_SYNSETS_SHOWN = 3  # synsets named in one message
_UNPACK = "torchvision.datasets.ImageNet unpacks the official archives and devkit so"


def imagenet(root: Path, *, evaluation: bool = False) -> tuple[tuple[str, ...], FolderSplit, FolderSplit]:
    """The 1,000 synsets (`n01440764`, ...) as class names, training and validation split.

    Class i is the i-th synset in sorted order, which is timm's for its pretrained heads, and torchvision's. The layout
    is also the one that torchvision leaves; its `meta.bin` is not needed, as the folders are named by synset. For
    `evaluation` no `train/` is needed: the split is empty.

    Raises:
        ValueError: no `train/` or `val/`; a `val/` that is not sorted into folders; folders other than the 1,000
            synsets; a synset without images.
    """
    known: list[str] = ImageNetInfo().label_names()
    parts = [_part(root / name, known) for name in (("val",) if evaluation else ("train", "val"))]
    *train, val = (split_of("imagenet", part, known) for part in parts)
    return tuple(known), train[0] if train else _nothing(), val


def _part(part: Path, known: Sequence[str]) -> Path:
    if not part.is_dir():
        raise ValueError(f"imagenet: expected {part}/ with a folder for each synset; there is none; {_UNPACK}")
    entries = [entry for entry in part.iterdir() if not entry.name.startswith(".")]
    if entries and not any(entry.is_dir() for entry in entries):
        loose = sum(entry.suffix.lower() in SUFFIXES for entry in entries)
        raise ValueError(
            f"imagenet: expected a folder for each synset in {part}, got {loose} images side by side, whose labels "
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
    return " ".join(names[:_SYNSETS_SHOWN]) + (
        f" and {len(names) - _SYNSETS_SHOWN} more" if len(names) > _SYNSETS_SHOWN else ""
    )
