"""`wds/PATH`: webdataset's tar shards, indexed once, so that any image can be read by its place in its shard."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pldistill.data.dataset import Encoded, LazySplit, file_stamp
from pldistill.data.images import SUFFIXES
from pldistill.files import cache_folder, write_whole
from pldistill.json_files import read_regular
from pldistill.paths import kind_of, require_file

_MANY = 20  # from here on indexing takes long enough for a progress bar
_LARGEST_CLASS = 10_000_000
_DIGITS = 16  # of a class's number, spaces with it
_VALIDATION = (("val", "validation"), ("test",))


class ShardSplit(LazySplit):
    """Images inside uncompressed tar files.

    Attributes:
        shards: the files.
        members: `(N, 3)` int64: the shard, the image's first byte in it, its bytes.
    """

    def __init__(
        self, shards: Sequence[str], members: Tensor, labels: Tensor, ids: Tensor | None = None, *, exif: bool = True
    ) -> None:
        self.shards, self.members, self.exif = tuple(shards), members, exif
        self._set_labels(labels, ids, len(members))

    def encoded(self, place: int) -> Encoded:
        shard, first, count = self.members[place].tolist()
        with Path(self.shards[shard]).open("rb") as file:
            file.seek(first)
            return Encoded(f"{self.shards[shard]}, byte {first}", io.BytesIO(file.read(count)), self.exif)

    def stamps(self) -> Iterable[bytes]:
        yield from (file_stamp(Path(shard)) for shard in self.shards)
        yield self.members.numpy().tobytes()

    def subset(self, indices: Sequence[int] | Tensor) -> ShardSplit:
        at = self._positions(indices)
        return ShardSplit(self.shards, self.members[at], self.labels[at], self.ids[at], exif=self.exif)


def wds(root: Path, *, evaluation: bool = False) -> tuple[tuple[str, ...], ShardSplit, ShardSplit]:
    """Class names, training and validation split of the shards in and below `root`.

    `train` in a shard's path puts it into the one, `val` or `validation`, or else `test`, into the other. A sample is a
    image and its class's number, as `KEY.jpg` and `KEY.cls`. Its id is its place in the shards, by path. Names of
    classes are the lines of `classes.txt`, or without it their numbers. The package webdataset is not needed. For
    `evaluation` no training shards are needed: the split is empty.

    Raises:
        ValueError: no shards for a split; a file that is no plain tar; a sample without its image or class; a class
            without a name.
    """
    if not root.is_dir():
        raise ValueError(f"wds: expected a folder of tar shards, got {root}, which is not one")
    files = sorted(root.rglob("*.tar"))
    val = _split(_named(root, files, _VALIDATION))
    train = val.subset([]) if evaluation else _split(_named(root, files, [("train",)]))
    count = int(torch.cat([train.labels, val.labels]).max()) + 1
    listed = root / "classes.txt"
    classes = _lines(listed) if kind_of(listed) is not None else [str(i) for i in range(count)]
    if len(classes) < count:
        raise ValueError(f"wds: expected {listed} to name the {count} classes of the shards, got {len(classes)} lines")
    return tuple(classes), train, val


def _lines(file: Path) -> list[str]:
    try:
        return read_regular(file, f"wds: {file}").decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"wds: {file}: expected UTF-8, got {error}") from None


def _label(name: str, content: bytes) -> int:
    """The number of a class, of which there may be ten million."""
    if len(content) > _DIGITS or int(content) > _LARGEST_CLASS:
        raise ValueError(f"{name!r}: expected a class up to {_LARGEST_CLASS:,}, got {content[:_DIGITS]!r}")
    return int(content)


def _named(root: Path, files: Sequence[Path], choices: Sequence[tuple[str, ...]]) -> list[Path]:
    """The shards in whose path one of the first choice's words stands, or else one of the next's."""
    for words in choices:
        found = [file for file in files if set(words) & set(re.findall("[a-z]+", _below(root, file)))]
        if found:
            return found
    wanted = " or ".join(f"*{word}*.tar" for words in choices for word in words)
    raise ValueError(f"wds: expected shards {wanted} in {root}, found {len(files)} tar files, none of that name")


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix().lower()


def _split(files: Sequence[Path]) -> ShardSplit:
    """Index the shards, or remember them as long as no path, size or time of change is another."""
    for file in files:
        require_file(file, "wds")
    stamps = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    record = cache_folder() / "shards" / f"{hashlib.sha256(repr(stamps).encode()).hexdigest()}.npy"
    if not record.is_file():
        shown = track(files, "Indexing shards", console=Console(stderr=True), disable=len(files) < _MANY)
        found = np.array([(at, *row) for at, file in enumerate(shown) for row in _index(file)], dtype=np.int64)
        write_whole(record, lambda temporary: _save(temporary, found))
    try:
        rows = torch.from_numpy(np.load(record))
        members, labels = rows[:, :3].contiguous(), rows[:, 3].contiguous()
    except (ValueError, EOFError, OSError, TypeError, IndexError) as error:
        raise ValueError(f"wds: the index {str(record)!r} is damaged and may be deleted: {error}") from None
    return ShardSplit([str(file) for file in files], members, labels)


def _save(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def _index(file: Path) -> list[tuple[int, int, int]]:
    """First byte, bytes and class of each image of a shard, in the shard's order.

    Nothing is unpacked: an image is read from its place in the tar, so it means nothing where a member's name or a link
    points to. Links and special members are left out, and a member that ends behind the tar's end is refused.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    whole = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in filter(tarfile.TarInfo.isreg, tar):
                if member.offset_data + member.size > whole:
                    raise ValueError(f"{member.name!r} has {member.size:,} bytes, more than are left of the file")
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                key = f"{folder}/{key}"
                if f".{suffix.lower()}" in SUFFIXES:
                    images[key] = member.offset_data, member.size
                elif suffix == "cls":
                    content = tar.extractfile(member)
                    assert content is not None  # it is a regular file
                    labels[key] = _label(member.name, content.read(_DIGITS + 1))
    except (tarfile.TarError, ValueError, OSError) as error:
        raise ValueError(f"wds: {file}: expected a plain tar with a whole number in each .cls ({error})") from error
    lone = sorted(images.keys() ^ labels.keys())
    if lone or not images or min(labels.values()) < 0:
        about = (
            f"{len(lone)} samples without, as {lone[0].strip('/')}"
            if lone
            else f"classes {sorted(labels.values())[:3]}"
        )
        raise ValueError(f"wds: {file}: expected an image and a class from 0 in each sample, got {about}")
    return [(*images[key], labels[key]) for key in images]
