"""Loaders: a split becomes batches whose numbers depend on (seed, view) alone; worker processes read for it."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.process
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pldistill.data.augment import Augment, apply_augment, read_batch
from pldistill.data.dataset import LazySplit, Split, TensorSplit
from pldistill.data.mixup import Mixing, mix
from pldistill.data.sampling import Views, order
from pldistill.types import Batch

GRACE = 10  # seconds that a worker goes on after SIGTERM


class Workers:
    """What `reading[key]` gives for each key asked for, in order, from `count` processes; from this one where 0."""

    def __init__(self, reading: torch.utils.data.Dataset, count: int, *, pin: bool) -> None:
        self._keys: list[Any] = []  # what they read next; filled anew for each view
        self._turn = 0
        self._reader = torch.utils.data.DataLoader(
            _Caught(reading),
            batch_size=None,
            sampler=self._keys,
            num_workers=count,
            persistent_workers=count > 0,
            pin_memory=pin,
            worker_init_fn=_outlive_a_signal,
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )

    def read(self, keys: list[Any]) -> Iterator[Any]:
        """Give what is read for each key.

        Raises:
            ValueError: asked for more after a later call has begun.
            ValueError, OSError, MemoryError: as reading raised it, without the worker's traceback in its text.
            RuntimeError: torch's own, where a worker was killed.
        """
        self._turn = turn = self._turn + 1
        self._keys[:] = keys
        before = set(multiprocessing.active_children())
        reader = iter(self._reader)
        _STARTED.update(set(multiprocessing.active_children()) - before)
        for _ in keys:
            if turn != self._turn:
                raise ValueError("epoch: a later epoch of this loader has begun, so this one cannot go on")
            item = next(reader)
            if isinstance(item, Exception):
                raise item
            yield item


_STARTED: set[multiprocessing.process.BaseProcess] = set()


@atexit.register
def _end_workers() -> None:
    """End the workers that are left when Python exits, which would wait out their grace."""
    for worker in _STARTED:
        if worker.pid is not None and worker.is_alive():
            os.kill(worker.pid, signal.SIGALRM)


class _Caught(torch.utils.data.Dataset):
    """Another data set's items, or what reading one raised: torch would put the worker's traceback into its text."""

    def __init__(self, reading: torch.utils.data.Dataset) -> None:
        self._reading = reading

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._reading[key]
        except (ValueError, OSError, MemoryError) as error:  # what data raises; of all else a traceback tells more
            return error


def _outlive_a_signal(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; a worker that died would fail the batch in hand.

    After SIGTERM it dies a while later: Python's own exit sends one to the workers that are left, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def batch_bounds(count: int, batch_size: int, least: int = 1) -> list[tuple[int, int]]:
    """First and one-past-last position of each batch. No image is dropped.

    A last batch of fewer than `least` images joins the one before it.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and one-past-last of the `count` places that are process `rank`'s of `world`: even, to one place."""
    return count * rank // world, count * (rank + 1) // world


def divided(
    count: int, batch_size: int, training: bool, rank: int, world: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Process `rank`'s part of each batch of a view of `count` images, and the images of all parts of each batch.

    A batch of all processes is a stretch of the view's order, and each takes its part of the stretch. In training a
    process gets two images at least, where its batches hold two: BatchNorm cannot train on one.
    """
    least = min(2, batch_size) if training else 1
    joined = batch_bounds(count, world * batch_size, world * least)
    parts = [(start, *share(end - start, rank, world)) for start, end in joined]
    return [(start + low, start + high) for start, low, high in parts], [end - start for start, end in joined]


def check_place(view: int, start: int, batches: int) -> None:
    """Refuse to begin a view outside of it.

    Raises:
        ValueError: a negative view, or a start outside 0 ... batches.
    """
    if view < 0:
        raise ValueError(f"view: expected at least 0, got {view}")
    if not 0 <= start <= batches:
        raise ValueError(f"start: expected 0 to {batches} batches, got {start}")


@dataclass(frozen=True)
class LoaderConfig:
    """How a split is shown, wherever its images are; the arguments of `make_loader`."""

    batch_size: int
    image_size: int
    augment: Augment | None
    seed: int
    shuffle: bool
    device: torch.device
    repeats: int = 1
    mixing: Mixing | None = None
    rank: int = 0
    world: int = 1
    views: int | None = None
    augment_seed: int | None = None

    @property
    def view_seed(self) -> int:
        """The seed of the augmentation."""
        return self.seed if self.augment_seed is None else self.augment_seed

    def bounds(self, count: int) -> tuple[list[tuple[int, int]], list[int]]:
        """This process's part of each batch of a view of `count` images, and the images of all its parts."""
        return divided(count, self.batch_size, self.shuffle, self.rank, self.world)

    def shown(self, turn: Views) -> Views:
        """The view that is shown at this turn: itself, or with `views` what is left of it modulo `views`."""
        return turn if self.views is None else turn % self.views


class Part(NamedTuple):
    """What a batch is made of: positions `at (N,)` in the split, and the view of all or of each `(N,)`.

    `turn` is the view before its number began anew: what concerns the epoch and not the image is drawn from it.
    """

    at: Tensor
    view: Views
    turn: Views


class Loader(ABC):
    """Batches of one split, view after view. Made by `make_loader`.

    Attributes:
        num_samples: images in a view, over all processes.
        joined: images in each batch, over all processes.
    """

    def __init__(self, split: Split, show: LoaderConfig) -> None:
        self.num_samples = len(split)
        self._ids, self._show = split.ids, show
        self._bounds, self.joined = show.bounds(len(split))

    def __len__(self) -> int:
        """Batches in a view."""
        return len(self._bounds)

    def epoch(self, view: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this view from the `start`-th on: what an uninterrupted epoch gives after `start` batches.

        With `views` the images are those of the view modulo `views`, in an order that is the epoch's own.

        Raises:
            ValueError: a negative view, or a start outside 0 ... len(loader).
        """
        check_place(view, start, len(self))
        parts = self._parts(view, self._bounds[start:])
        batches = self._batches(view, parts)
        return batches if self._show.mixing is None else self._mixed(batches, parts, self._show.mixing)

    def _parts(self, view: int, bounds: list[tuple[int, int]]) -> list[Part]:
        """The view's order cut into batches; the `repeats` copies of an image follow one another."""
        show, count = self._show, self.num_samples
        places = order(show.seed, view, self._ids) if show.shuffle else torch.arange(count)
        if show.repeats == 1:
            return [Part(places[first:last], show.shown(view), view) for first, last in bounds]
        places = places.repeat_interleave(show.repeats)[:count]
        turns = view * show.repeats + np.arange(count) % show.repeats
        return [Part(places[first:last], show.shown(turns[first:last]), turns[first:last]) for first, last in bounds]

    def _mixed(self, batches: Iterator[Batch], parts: list[Part], mixing: Mixing) -> Iterator[Batch]:
        for batch, part in zip(batches, parts, strict=True):
            drawn = mixing.draw(self._show.seed, part.turn, self._ids[part.at].numpy(), self._show.image_size)
            yield batch if drawn is None else mix(batch, drawn)

    def _batch(self, view: int, part: Part, images: Tensor, labels: Tensor) -> Batch:
        device = self._show.device
        views = torch.from_numpy(part.view).to(device) if isinstance(part.view, np.ndarray) else None
        return Batch(images, labels, self._ids[part.at].to(device), int(self._show.shown(view)), views)

    @abstractmethod
    def _batches(self, view: int, parts: list[Part]) -> Iterator[Batch]:
        """One batch for each part."""


class ResidentLoader(Loader):
    """Images stay in the device's memory and are augmented there, a whole batch at a time."""

    def __init__(self, split: TensorSplit, show: LoaderConfig) -> None:
        super().__init__(split, show)
        self._images, self._labels = split.images.to(show.device), split.labels.to(show.device)

    def _batches(self, view: int, parts: list[Part]) -> Iterator[Batch]:
        show = self._show
        for part in parts:
            on_device = part.at.to(show.device)
            images = self._images.index_select(0, on_device)
            ids = self._ids[part.at].numpy()
            images = apply_augment(images, show.augment, show.image_size, show.view_seed, part.view, ids)
            yield self._batch(view, part, images, self._labels[on_device])


class _Images(torch.utils.data.Dataset):
    """What a worker does: (view or views, positions) in, the augmented images `(N, 3, size, size)` uint8 out."""

    def __init__(self, split: LazySplit, show: LoaderConfig) -> None:
        self._split, self._ids, self._show = split, split.ids.numpy(), show

    def __getitem__(self, key: tuple[Views, np.ndarray]) -> Tensor:
        view, at = key
        show, files = self._show, [self._split.encoded(place) for place in at.tolist()]
        return read_batch(files, self._ids[at], show.augment, show.image_size, show.view_seed, view)


class StoredLoader(Loader):
    """Images are read, cut and augmented in worker processes that live as long as the loader."""

    def __init__(self, split: LazySplit, show: LoaderConfig, workers: int) -> None:
        super().__init__(split, show)
        self._labels = split.labels
        self._workers = Workers(_Images(split, show), workers, pin=show.device.type == "cuda")

    def _batches(self, view: int, parts: list[Part]) -> Iterator[Batch]:
        device = self._show.device
        read = self._workers.read([(part.view, part.at.numpy()) for part in parts])
        for part, images in zip(parts, read, strict=True):
            yield self._batch(view, part, images.to(device, non_blocking=True), self._labels[part.at].to(device))


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
    repeats: int = 1,
    mixing: Mixing | None = None,
    rank: int = 0,
    world: int = 1,
    views: int | None = None,
    augment_seed: int | None = None,
) -> Loader:
    """A loader over `split`. `augment=None` is evaluation: short side resized, center cut.

    `seed` is of the order and the mixing, `augment_seed` of the augmentation; None is the seed.

    The last batch is never dropped; with `shuffle` (training) a last batch of exactly one image joins the batch
    before it. `workers` are processes that read files; they change no number, and images in memory need none.
    `repeats` shows an image as often within a view, each time augmented anew, and 1/repeats of the images: the first
    in the view's order (Hoffer et al. 2020, "Augment your batch"; timm's RepeatAugSampler). `mixing` mixes whole
    batches, on the device, after all else. With `views` there are so many augmented versions of an image and no more:
    views, and the copies of `repeats`, are counted modulo `views`, while order and mixing go on being the epoch's own.

    Process `rank` of `world` gets its part of each batch of `world * batch_size` images: together they see what one
    process would with that batch size, each image once, the last batch shared out evenly. A last batch in which one
    of them would have no image (in training: fewer than two) joins the batch before it.

    Raises:
        ValueError: a split with fewer images than processes; a batch size, image size, worker count or number of
            repeats that is too small; repeats without `shuffle`, which would leave the same images out forever;
            fewer views than repeats, whose copies would be the same.
    """
    least = (("batch_size", batch_size, 1), ("image_size", image_size, 1), ("workers", workers, 0))
    for name, value, bound in (*least, ("repeats", repeats, 1)):
        if value < bound:
            raise ValueError(f"{name}: expected at least {bound}, got {value}")
    if repeats > 1 and not shuffle:
        raise ValueError(f"repeats: expected 1 without shuffle, got {repeats}")
    if views is not None and views < repeats:
        raise ValueError(f"views: expected at least {repeats}, one for each of an image's copies, got {views}")
    if len(split) == 0:
        raise ValueError("split: expected at least one image, got none")
    if len(split) < world:
        raise ValueError(f"split: expected at least {world} images, one for each process, got {len(split)}")
    show = LoaderConfig(
        batch_size, image_size, augment, seed, shuffle, device, repeats, mixing, rank, world, views, augment_seed
    )
    if isinstance(split, TensorSplit):
        return ResidentLoader(split, show)
    if isinstance(split, LazySplit):
        return StoredLoader(split, show, workers)
    raise ValueError(f"split: expected a TensorSplit or a LazySplit, got {type(split).__name__}")
