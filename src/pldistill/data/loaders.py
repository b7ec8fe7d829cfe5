"""Loaders: a split becomes batches whose numbers depend on (seed, view) alone."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pldistill.contracts import Batch
from pldistill.data.augment import Augment, replay
from pldistill.data.pictures import read_batch
from pldistill.data.random import order
from pldistill.data.splits import FolderSplit, Split, TensorSplit

GRACE = 10  # seconds that a worker goes on after SIGTERM


def batch_bounds(count: int, batch_size: int, join_single: bool) -> list[tuple[int, int]]:
    """First and one-past-last position of each batch. No picture is dropped.

    A last batch of exactly one picture joins the one before it where `join_single`: BatchNorm cannot train on it.
    """
    starts = list(range(0, count, batch_size))
    if join_single and batch_size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


@dataclass(frozen=True)
class Show:
    """How a split is shown, wherever its pictures are; the arguments of `make_loader`."""

    batch_size: int
    image_size: int
    augment: Augment | None
    seed: int
    shuffle: bool
    device: torch.device


class Loader(ABC):
    """Batches of one split, view after view. Made by `make_loader`.

    Attributes:
        num_samples: pictures in a view.
    """

    def __init__(self, split: Split, show: Show) -> None:
        self.num_samples = len(split)
        self._ids, self._show = split.ids, show
        self._bounds = batch_bounds(len(split), show.batch_size, join_single=show.shuffle)

    def __len__(self) -> int:
        """Batches in a view."""
        return len(self._bounds)

    def epoch(self, view: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this view from the `start`-th on: what an uninterrupted epoch gives after `start` batches.

        Raises:
            ValueError: a negative view, or a start outside 0 ... len(loader).
        """
        if view < 0:
            raise ValueError(f"view: expected at least 0, got {view}")
        if not 0 <= start <= len(self):
            raise ValueError(f"start: expected 0 to {len(self)} batches, got {start}")
        places = order(self._show.seed, view, self._ids) if self._show.shuffle else torch.arange(self.num_samples)
        return self._batches(view, [places[first:last] for first, last in self._bounds[start:]])

    @abstractmethod
    def _batches(self, view: int, places: list[Tensor]) -> Iterator[Batch]:
        """One batch for each tensor of positions."""


class ResidentLoader(Loader):
    """Pictures stay in the device's memory and are augmented there, a whole batch at a time."""

    def __init__(self, split: TensorSplit, show: Show) -> None:
        super().__init__(split, show)
        self._images, self._labels = split.images.to(show.device), split.labels.to(show.device)

    def _batches(self, view: int, places: list[Tensor]) -> Iterator[Batch]:
        show = self._show
        for at in places:
            ids, on_device = self._ids[at], at.to(show.device)
            images = self._images.index_select(0, on_device)
            images = replay(images, show.augment, show.image_size, show.seed, view, ids.numpy())
            yield Batch(images, self._labels[on_device], ids.to(show.device), view)


class _Pictures(torch.utils.data.Dataset):
    """What a worker does: (view, positions) in, the augmented pictures `(N, 3, size, size)` uint8 out."""

    def __init__(self, split: FolderSplit, show: Show) -> None:
        self._paths, self._ids, self._show = split.paths, split.ids.numpy(), show

    def __getitem__(self, key: tuple[int, np.ndarray]) -> Tensor:
        view, at = key
        show, paths = self._show, [self._paths[place] for place in at]
        return read_batch(paths, self._ids[at], show.augment, show.image_size, show.seed, view)


class FolderLoader(Loader):
    """Pictures are read, cut and augmented in worker processes that live as long as the loader."""

    def __init__(self, split: FolderSplit, show: Show, workers: int) -> None:
        super().__init__(split, show)
        self._labels = split.labels
        self._keys: list[tuple[int, np.ndarray]] = []  # what the workers read next; filled anew for each view
        self._turn = 0
        self._reader = torch.utils.data.DataLoader(
            _Pictures(split, show),
            batch_size=None,
            sampler=self._keys,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=show.device.type == "cuda",
            worker_init_fn=_outlive_a_signal,
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )

    def _batches(self, view: int, places: list[Tensor]) -> Iterator[Batch]:
        self._turn = turn = self._turn + 1
        self._keys[:] = [(view, at.numpy()) for at in places]
        reader = iter(self._reader)
        for at in places:
            if turn != self._turn:
                raise ValueError("epoch: a later epoch of this loader has begun, so this one cannot go on")
            device = self._show.device
            labels, ids = self._labels[at].to(device), self._ids[at].to(device)
            yield Batch(next(reader).to(device, non_blocking=True), labels, ids, view)


def _outlive_a_signal(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; a worker that died would fail the batch in hand.

    After SIGTERM it dies a while later: Python's own exit sends one to the workers that are left, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def make_loader(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    augment: Augment | None,
    seed: int,
    shuffle: bool,
    device: torch.device,
    workers: int = 0,
) -> Loader:
    """A loader over `split`. `augment=None` is evaluation: short side resized, centre cut.

    The last batch is never dropped; with `shuffle` (training) a last batch of exactly one picture joins the batch
    before it. `workers` are processes that read files; they change no number, and pictures in memory need none.

    Raises:
        ValueError: an empty split, or a batch size, image size or worker count that is too small.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("image_size", image_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if len(split) == 0:
        raise ValueError("split: expected at least one picture, got none")
    show = Show(batch_size, image_size, augment, seed, shuffle, device)
    if isinstance(split, TensorSplit):
        return ResidentLoader(split, show)
    if isinstance(split, FolderSplit):
        return FolderLoader(split, show, workers)
    raise ValueError(f"split: expected a TensorSplit or a FolderSplit, got {type(split).__name__}")
