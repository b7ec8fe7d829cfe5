"""A teacher's answers on disk: what a store says of itself, and the records that its files are made of.

    header.json       whose answers these are, about which pictures, in which form; each whole file with its SHA-256
    view-0000.bin     a record for each training picture as view 0 shows it, in the order of the split; and so on
    validation.bin    the same of the validation pictures, with every class's logit

A record is little-endian and holds, of the C logits t of a picture,

    top               float32     m = max_i t_i
    logsumexp         float32     log Σ_i exp((t_i - m) / T) over all C classes
    logits            K float16   t_i - m, at most 0 and exact to 2^-11 of their size, whatever the size of t
    classes           K integers  which i these are: 1, 2 or 4 bytes by C; left out where K = C

of the label and the K - 1 largest others. Of the classes that are not there, the tail, the logsumexp tells the mass at
the temperature T. They are read as if they shared it evenly: each has the logit f with

    (C - K) exp((f - m) / T) = exp(logsumexp) - Σ_stored exp((t_i - m) / T)

so that at T the softmax of what is read is, in the stored places, the teacher's own to the rounding of the logits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pldistill.files import write_atomically

FORMAT = 1
HEADER, VALIDATION = "header.json", "validation.bin"
_LOWEST = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class Form:
    """What a record holds.

    Attributes:
        classes: C.
        places: K, how many of them are stored.
        temperature: T, of the logsumexp.
    """

    classes: int
    places: int
    temperature: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether every class is stored."""
        return self.places == self.classes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record, packed."""
        columns: list[Any] = [("top", "<f4"), ("logsumexp", "<f4"), ("logits", "<f2", (self.places,))]
        if not self.whole:
            index = "u1" if self.classes <= 1 << 8 else "<u2" if self.classes <= 1 << 16 else "<u4"
            columns.append(("classes", index, (self.places,)))
        return np.dtype(columns)

    def encode(self, logits: Tensor, labels: Tensor) -> np.ndarray:
        """`(N,)` records of `logits (N, C)`; a label below 0 is none, and the first K classes are stored.

        Raises:
            ValueError: for logits that are not finite.
        """
        if not bool(logits.isfinite().all()):
            raise ValueError("expected finite logits of the teacher, got NaN or an infinity")
        logits = logits.float()
        top = logits.amax(1, keepdim=True)
        below = logits - top
        records = np.empty(len(logits), self.dtype)
        records["top"] = top[:, 0].cpu().numpy()
        records["logsumexp"] = below.double().div(self.temperature).logsumexp(1).cpu().numpy()
        if not self.whole:
            rows = torch.arange(len(labels), device=labels.device)[labels >= 0]
            keys = below.index_put((rows, labels[rows]), below.new_tensor(math.inf))
            first = keys.sort(dim=1, descending=True, stable=True).indices[:, : self.places]
            records["classes"] = first.cpu().numpy()
            below = below.gather(1, first)
        records["logits"] = below.clamp(min=_LOWEST).half().cpu().numpy()
        return records

    def decode(self, records: Tensor) -> Tensor:
        """`(N, C)` float32 logits of `(N, bytes of a record)` uint8, on the same device."""
        top, logsumexp = (_column(records, at, 1, torch.float32) for at in (0, 4))
        below = _column(records, 8, self.places, torch.float16).float()
        if self.whole:
            return below + top
        tail = self._tail(below, logsumexp).expand(-1, self.classes)
        return tail.scatter(1, self._classes(records), below) + top

    def _tail(self, below: Tensor, logsumexp: Tensor) -> Tensor:
        """`(N, 1)`, f - m: at most the least of the K - 1 largest, which rounding must not put behind the tail."""
        mass = logsumexp.double().exp() - below.double().div(self.temperature).exp().sum(1, keepdim=True)
        each = mass.clamp(min=1e-30) / (self.classes - self.places)
        least = below[:, -1:] if self.places > 1 else torch.zeros_like(below)
        return (self.temperature * each.log()).float().minimum(least)

    def _classes(self, records: Tensor) -> Tensor:
        start, index = 8 + 2 * self.places, self.dtype["classes"].base
        if index.itemsize == 1:
            return records[:, start:].long()
        signed = torch.int16 if index.itemsize == 2 else torch.int32
        return _column(records, start, self.places, signed).long() & (2 ** (8 * index.itemsize) - 1)


def _column(records: Tensor, start: int, count: int, dtype: torch.dtype) -> Tensor:
    # A copy, for torch reads a number only where a number of its size may begin.
    column = records[:, start : start + count * dtype.itemsize].clone(memory_format=torch.contiguous_format)
    return column.view(dtype)


@dataclass(frozen=True)
class About:
    """What a store says of itself: all that its answers depend on.

    Attributes:
        teacher: its text, as the recipe named it.
        teacher_sha256: its fingerprint.
        nets: of each of its nets the side of the pictures it was trained on, and its input's mean and std.
        parameters: of all its nets.
        data: the data, without its path.
        train_sha256: the training pictures' fingerprint.
        validation_sha256: the validation pictures'.
        pictures: how many training pictures.
        validation_pictures: how many validation pictures.
        classes: C.
        image_size: the side of the pictures as they were shown.
        augment: how they were augmented.
        seed: of the augmentation: a crop follows from (seed, view, id).
        views: V, how many augmented versions of each picture.
        places: K, how many classes of a training picture are stored.
        temperature: T, at which the mass of the others is exact.
        tail: what the classes that are not stored are read as: `even`, or `none` where all are stored.
        amp: the precision that the teacher computed in.
        device: the kind of device.
        batch_size: pictures asked about at a time.
    """

    teacher: str
    teacher_sha256: str
    nets: list[dict[str, Any]]
    parameters: int
    data: str
    train_sha256: str
    validation_sha256: str
    pictures: int
    validation_pictures: int
    classes: int
    image_size: int
    augment: dict[str, Any]
    seed: int
    views: int
    places: int
    temperature: float
    tail: str
    amp: str
    device: str
    batch_size: int

    @property
    def form(self) -> Form:
        """The training pictures' records."""
        return Form(self.classes, self.places, self.temperature)

    @property
    def validation_form(self) -> Form:
        """The validation pictures' records."""
        return Form(self.classes, self.classes)

    def sizes(self) -> dict[str, int]:
        """Every file with its bytes."""
        view, validation = self.form.dtype.itemsize, self.validation_form.dtype.itemsize
        files = {view_file(number): self.pictures * view for number in range(self.views)}
        return {**files, VALIDATION: self.validation_pictures * validation}


def view_file(view: int) -> str:
    """A view's file."""
    return f"view-{view:04d}.bin"


@dataclass(frozen=True)
class Header:
    """A store's header: what it is about, the SHA-256 of each file that is whole, and the one that is being written."""

    about: About
    whole: Mapping[str, str]
    under_way: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Put it in place, atomically."""
        whole = {name: self.whole[name] for name in self.about.sizes() if name in self.whole}
        content = {"format": FORMAT, "about": asdict(self.about), "whole": whole, "under_way": self.under_way}
        write_atomically(folder / HEADER, (json.dumps(content, indent=2) + "\n").encode())


def read_header(folder: Path) -> Header:
    """The header of a store, finished or not.

    Raises:
        ValueError: where there is none, or one of another format.
    """
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"teacher_cache: expected a store that `pldistill cache` made, got {str(folder)!r}")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise KeyError(content["format"])
        return Header(About(**content["about"]), dict(content["whole"]), dict(content["under_way"]))
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path}: expected a header of format {FORMAT}; make the store anew") from None


def is_whole(folder: Path) -> bool:
    """Whether a store is there and finished; its files are not read."""
    if not (folder / HEADER).is_file():
        return False
    header = read_header(folder)
    return set(header.about.sizes()) <= set(header.whole)


def open_store(folder: Path) -> About:
    """Check every file of a store, reading it whole once, and say what it is about.

    Raises:
        ValueError: for a store that is not finished, and for a file that is missing or damaged.
    """
    header = read_header(folder)
    for name, size in header.about.sizes().items():
        if name not in header.whole:
            raise ValueError(
                f"teacher_cache {str(folder)!r} is not finished: the line of `pldistill cache` that began it goes on"
            )
        path = folder / name
        if not path.is_file():
            raise ValueError(f"teacher_cache: expected {str(path)!r}, which is missing")
        if path.stat().st_size != size or (found := sha256(path)) != header.whole[name]:
            found = f"{path.stat().st_size} bytes" if path.stat().st_size != size else found
            expected = f"{size} bytes" if found.endswith("bytes") else f"SHA-256 {header.whole[name]}"
            raise ValueError(f"teacher_cache: {str(path)!r} is damaged: expected {expected}, got {found}")
    return header.about


def sha256(path: Path) -> str:
    """A file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()


def map_records(path: Path, form: Form) -> Tensor:
    """`(N, bytes of a record)` uint8, read from the disk as it is asked for."""
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(-1, form.dtype.itemsize)
