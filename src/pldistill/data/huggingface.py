"""`hfds/NAME`: Hugging Face `datasets`, by timm's reader, which can be asked for any image by its number.

timm's readers of streams give images in an order of their own, which hangs on the number of workers and on a buffer.
Nothing could then be replayed by (seed, view, id), so they are refused here, and what serves in their place is named.
The shards of `wds/PATH` are read at random instead: see `shards`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.data.readers import create_reader
from torch import Tensor

from pldistill.data.dataset import Encoded, LazySplit

if TYPE_CHECKING:
    from timm.data.readers.reader_hfds import ReaderHfds

_VALIDATION = ("validation", "val", "test")


class ReaderSplit(LazySplit):
    """Images that a timm reader gives by their number: `numbers (N,)` int64."""

    def __init__(
        self,
        name: str,
        reader: ReaderHfds,
        labels: Tensor,
        ids: Tensor | None = None,
        numbers: Tensor | None = None,
        *,
        exif: bool = True,
    ) -> None:
        self._name, self._reader, self.exif = name, reader, exif
        self.numbers = torch.arange(len(reader)) if numbers is None else numbers
        self._set_labels(labels, ids, len(self.numbers))

    def encoded(self, place: int) -> Encoded:
        number = int(self.numbers[place])
        return Encoded(f"{self._name}, image {number}", self._reader[number][0], self.exif)

    def stamps(self) -> Iterable[bytes]:
        yield f"{self._name}\0{self._reader.dataset._fingerprint}\n".encode()
        yield self.numbers.numpy().tobytes()

    def subset(self, indices: Sequence[int] | Tensor) -> ReaderSplit:
        at = self._positions(indices)
        return ReaderSplit(self._name, self._reader, self.labels[at], self.ids[at], self.numbers[at], exif=self.exif)


def hfds(path: Path, *, evaluation: bool = False) -> tuple[tuple[str, ...], ReaderSplit, ReaderSplit]:
    """Class names, training and validation split of a `datasets` name or folder: `train`, and `validation` or `test`.

    Its columns are `image` and `label`; an image's id is its row. What is not in the cache is fetched from the Hub.
    For `evaluation` the training split is empty.

    Raises:
        ValueError: the package `datasets` is not installed; no such data set, columns or splits; a label that is no
            class.
    """
    name = str(path)
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(f"hfds: expected the package datasets for hfds/{name}; pip install datasets brings it")
    train = _reader(name, "train")
    splits = list(train.dataset.info.splits or ())
    scoring = next((split for split in _VALIDATION if split in splits), None)
    if scoring is None:
        raise ValueError(f"hfds/{name}: expected a split {' or '.join(_VALIDATION)}, got {', '.join(splits)}")
    named = {index: label for label, index in train.class_to_idx.items()}
    count = len(named) or max(_labels(train).tolist()) + 1
    classes = tuple(named.get(index, str(index)) for index in range(count))
    learned = None if evaluation else _split(name, "train", train, classes)
    val = _split(name, scoring, _reader(name, scoring), classes)
    return classes, learned or val.subset([]), val


def _reader(name: str, split: str) -> ReaderHfds:
    try:
        return create_reader(f"hfds/{name}", split=split)  # pyright: ignore[reportReturnType]
    except Exception as error:  # the Hub's client, pyarrow and the reader's own checks raise anything
        about = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"hfds/{name}: expected a data set on this machine or the Hub with a split {split} and columns image and "
            f"label; timm's reader failed ({about})"
        ) from error


def _labels(reader: ReaderHfds) -> Tensor:
    return torch.tensor(list(reader.dataset[reader.label_key]), dtype=torch.int64)


def _split(name: str, split: str, reader: ReaderHfds, classes: Sequence[str]) -> ReaderSplit:
    labels = _labels(reader)
    strange = sorted(set(labels.tolist()) - set(range(len(classes))))
    if strange:
        found = ", ".join(map(str, strange[:5]))
        raise ValueError(f"hfds/{name}: expected labels 0 to {len(classes) - 1} in {split}, got {found}")
    return ReaderSplit(f"hfds/{name} {split}", reader, labels)
