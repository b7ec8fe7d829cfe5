"""Images without labels beside the labelled ones: a longer training split, in which their label is `UNLABELLED`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pldistill.data.augment import read_image
from pldistill.data.dataset import Dataset, Encoded, FolderSplit, LazySplit, Split, TensorSplit
from pldistill.data.folder import images_below
from pldistill.data.registry import open_data
from pldistill.data.verify import verify, without_bad
from pldistill.specs import split_spec
from pldistill.types import UNLABELLED

# Their ids follow upon these, out of the way of any labelled image's, so that no part of those moves them.
FIRST_ID = 1 << 32


def with_unlabelled(
    dataset: Dataset, spec: str, *, download: bool = False, exif: bool = True, on_bad_image: str = "stop"
) -> Dataset:
    """Add the images of `spec` to the training split: all below PATH for `folder:PATH`, else a source's own split.

    `exif` and `on_bad_image` are those of `open_data`.

    Labelled images in memory bring the others there, cut to their size. What scores the student stays as it is.

    Raises:
        ValueError: for a folder without images, what `open_data` refuses, images in memory of another size, or
            images in memory beside labelled ones in files.
    """
    name, path, options = split_spec(spec)
    if name != "folder":
        opened = open_data(spec, download=download, exif=exif, on_bad_image=on_bad_image)
        more, bad = opened.train, opened.skipped.get("train", ())
    elif options or not path:
        raise ValueError(f"unlabelled: expected folder:PATH, got {spec!r}")
    else:
        images = images_below(Path(path).expanduser())
        images.exif = exif
        verified = verify(images, decode=True)
        more, bad = (
            without_bad("folder", {"unlabelled": (images, verified)}, on_bad_image)["unlabelled"],
            tuple(verified.bad.values()),
        )
    skipped = {**dataset.skipped, **({"unlabelled": bad} if bad else {})}
    return replace(dataset, train=_join(dataset.train, more, spec), skipped=skipped)


class JoinedSplit(LazySplit):
    """Splits of stored images, one after the other, or those of their positions that `places` names."""

    def __init__(self, parts: Sequence[LazySplit], labels: Tensor, ids: Tensor, places: Tensor | None = None) -> None:
        self.parts = tuple(parts)
        self.places = torch.arange(len(labels)) if places is None else places
        self._set_labels(labels, ids, len(self.places))

    def encoded(self, place: int) -> Encoded:
        at = int(self.places[place])
        for part in self.parts:
            if at < len(part):
                return part.encoded(at)
            at -= len(part)
        raise AssertionError(f"no image at {place}")

    def stamps(self) -> Iterable[bytes]:
        yield self.places.numpy().tobytes()
        for part in self.parts:
            yield from part.stamps()

    def _marks(self) -> Iterable[bytes]:
        yield self.places.numpy().tobytes()
        for part in self.parts:
            yield part.fingerprint().encode()

    def subset(self, indices: Sequence[int] | Tensor) -> JoinedSplit:
        at = self._positions(indices)
        return JoinedSplit(self.parts, self.labels[at], self.ids[at], self.places[at])


def _join(labelled: Split, more: Split, spec: str) -> Split:
    labels = torch.cat([labelled.labels, torch.full((len(more),), UNLABELLED)])
    ids = torch.cat([labelled.ids, FIRST_ID + torch.arange(len(more))])
    if isinstance(labelled, LazySplit) and isinstance(more, LazySplit):
        return JoinedSplit((labelled, more), labels, ids)
    if not isinstance(labelled, TensorSplit):
        raise ValueError(f"unlabelled: expected images in files, as the labelled ones, got {spec!r}, in memory")
    height, width = labelled.images.shape[2:]
    images = _in_memory(more, min(height, width))
    if images.shape[2:] != labelled.images.shape[2:]:
        raise ValueError(
            f"unlabelled: expected images of {height}x{width} pixels, as the labelled ones, "
            f"got {images.shape[2]}x{images.shape[3]} in {spec!r}"
        )
    return TensorSplit(torch.cat([labelled.images, images]), labels, ids)


def _in_memory(split: Split, size: int) -> Tensor:
    if isinstance(split, TensorSplit):
        return split.images
    if not isinstance(split, FolderSplit):
        raise ValueError("unlabelled: expected folder:PATH or images in memory, as the labelled ones are")
    return torch.stack([read_image(path, size, exif=split.exif) for path in split.paths])
