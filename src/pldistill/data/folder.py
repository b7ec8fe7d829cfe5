"""`folder:PATH`: `train/` and `val/` (or `test/`), a folder a class. Every file is decoded once before training.

`imagenet:PATH` is ImageNet-1k, with a folder for each synset, in the order of timm's heads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from timm.data import ImageNetInfo

from pldistill.data.augment import SMALL, SUFFIXES, open_image
from pldistill.data.dataset import FolderSplit, count_suffixes
from pldistill.files import cache_folder, write_whole

LARGE_SIZE = 224
_CHUNK = 64
_MANY = 5_000  # from here on the check takes long enough for a progress bar
_SHOWN = 5  # bad files named in one message


def folder(root: Path) -> tuple[tuple[str, ...], FolderSplit, FolderSplit, int, Counter[str]]:
    """Class names, training and validation split, the side of the images: theirs if all are alike, else 224.

    Last the files that are no images that can be read, counted by suffix.

    Raises:
        ValueError: no `train/` or no `val/` or `test/`; no classes, or other ones in the two; a class without images;
            files that cannot be read, each named.
    """
    parts = root / "train", _validation(root)
    for part in parts:
        if not part.is_dir():
            raise ValueError(f"folder: expected {part}/ with a folder for each class; there is none")
    classes, val_classes = (class_folders("folder", part) for part in parts)
    if classes != val_classes:
        lone = ", ".join(sorted(set(classes) ^ set(val_classes))[:_SHOWN])
        raise ValueError(f"folder: {parts[0]} and {parts[1]} must hold the same classes; in one alone: {lone}")
    ignored: Counter[str] = Counter()
    train, val = (split_of("folder", part, classes, ignored) for part in parts)
    side = _verify([*train.paths, *val.paths])
    return classes, train, val, side if side is not None and side <= SMALL else LARGE_SIZE, ignored


def _validation(root: Path) -> Path:
    if not root.is_dir():
        raise ValueError(f"folder: expected a folder, got {root}, which is not one")
    for name in ("val", "test"):
        if (root / name).is_dir():
            return root / name
    raise ValueError(
        f"folder: expected {root / 'val'}/ or {root / 'test'}/ with a folder for each class; there is none"
    )


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


def images_below(root: Path) -> list[str]:
    """Every image in a folder and below it, whatever the folders are called, by name; each is decoded once.

    Raises:
        ValueError: no such folder, no image in it, or files that cannot be read.
    """
    if not root.is_dir():
        raise ValueError(f"folder: expected a folder, got {root}, which is not one")
    paths = list(_images(str(root), frozenset()))
    if not paths:
        raise ValueError(f"folder: {root} holds no images ({' '.join(sorted(SUFFIXES))})")
    _verify(paths)
    return paths


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


def _verify(paths: list[str]) -> int | None:
    """Decode every file; the side if all are squares of one size. Remembered until a path, a size or a time changes."""
    record = cache_folder() / "folders" / f"{_fingerprint(paths)}.json"
    if record.is_file():
        return json.loads(record.read_text())["side"]
    chunks = [paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK)]
    sizes: set[tuple[int, int]] = set()
    bad: list[str] = []
    quiet = len(paths) < _MANY
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results, console = pool.map(_sizes, chunks), Console(stderr=True)
        for found, failed in track(results, "Checking images", len(chunks), console=console, disable=quiet):
            sizes |= found
            bad += failed
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for a million files
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ValueError(f"folder: {len(bad)} of {len(paths)} files are bad: {'; '.join(bad[:_SHOWN])}{more}")
    width, height = sizes.pop()
    side = width if width == height and not sizes else None
    write_whole(record, lambda temporary: temporary.write_text(json.dumps({"images": len(paths), "side": side})))
    return side


def _sizes(paths: list[str]) -> tuple[set[tuple[int, int]], list[str]]:
    """The sizes of the images that decode, and a sentence for each that does not."""
    sizes: set[tuple[int, int]] = set()
    bad: list[str] = []
    for path in paths:
        try:
            sizes.add(open_image(path).size)
        except ValueError as error:
            bad.append(str(error))
    return sizes, bad


def _fingerprint(paths: list[str]) -> str:
    """A sum over path, size and time of change of every file; a broken link counts as nothing and fails to decode."""
    total = hashlib.sha256()
    for path in paths:
        file = Path(path)
        known = file.stat() if file.exists() else None
        stamp = (known.st_size, known.st_mtime_ns) if known else None
        total.update(f"{file.absolute()}\0{stamp}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


_SYNSETS_SHOWN = 3  # synsets named in one message
_UNPACK = "torchvision.datasets.ImageNet unpacks the official archives and devkit so"


def imagenet(root: Path) -> tuple[tuple[str, ...], FolderSplit, FolderSplit]:
    """The 1,000 synsets (`n01440764`, ...) as class names, training and validation split.

    Class i is the i-th synset in sorted order, which is timm's for its pretrained heads, and torchvision's. The layout
    is also the one that torchvision leaves; its `meta.bin` is not needed, as the folders are named by synset. Files are
    not decoded beforehand, as `folder:` does: there are 1.3 million. One that cannot be read ends the run by its name.

    Raises:
        ValueError: no `train/` or `val/`; a `val/` that is not sorted into folders; folders other than the 1,000
            synsets; a synset without images.
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
