"""Run a teacher once: its answers for every view of the training images, and for the validation images, to files.

Whatever ends it, the same call goes on where it was, and leaves the same bytes as one that nothing ended.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from pldistill import launch
from pldistill.files import HOLDER, LOCK, held, is_new, refuse_held
from pldistill.launch import Interrupted, Interrupts
from pldistill.paths import require_new_or_folder
from pldistill.recipe import Recipe
from pldistill.specs import data_label
from pldistill.tasks.base import Placement, make_task
from pldistill.teachers import cache
from pldistill.teachers.cache import CacheMetadata, Header, RecordFormat
from pldistill.teachers.live import Teacher
from pldistill.training.build import make_accelerator, precision_of
from pldistill.training.preflight import Warns, preflight
from pldistill.training.run import open_images

SYNC_EVERY = 10.0  # seconds: what a plug pulled costs


class CacheCallback(Warns, Protocol):
    """Who looks on while a teacher cache is made."""

    def begin(self, about: CacheMetadata, done: int) -> None: ...
    def asked(self, images: int) -> None: ...
    def end(self) -> None: ...


class SilentCacheCallback:
    """Nobody looks on."""

    def warn(self, message: str) -> None:
        """Do nothing."""

    def tell(self, message: str) -> None:
        """Do nothing."""

    def begin(self, about: CacheMetadata, done: int) -> None:
        """Do nothing."""

    def asked(self, images: int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _File:
    """One file to fill: who is in it, as shown in which view of training or in validation, in records of which form."""

    name: str
    split: Any
    view: int
    train: bool
    form: RecordFormat


@dataclass
class _Making:
    """What it takes to fill the files."""

    folder: Path
    about: CacheMetadata
    recipe: Recipe
    data: Any
    teacher: Teacher
    accelerator: Accelerator
    workers: int
    callback: CacheCallback
    interrupts: Interrupts

    def batches(self, file: _File, start: int) -> Iterator[Any]:
        """The file's samples from the `start`-th on, in the order of the split."""
        place = Placement(self.accelerator.device, self.workers)
        loader = make_task(self.recipe).in_order(file.split, self.recipe, self.data, place, train=file.train)
        return loader.epoch(file.view, start=start // self.about.batch_size)

    @torch.no_grad()
    def fill(self, file: _File, header: Header) -> Header:
        """Write a file to its end, and give the header that names it."""
        part, done = self.folder / f".{file.name}.part", header.under_way.get(file.name, 0)
        synced = time.monotonic()
        with part.open("r+b" if done else "wb") as out:
            out.truncate(done * self.about.rows * file.form.dtype.itemsize)
            out.seek(0, os.SEEK_END)
            for batch in self.batches(file, done):
                with self.accelerator.autocast():
                    logits = self.teacher(batch).logits
                out.write(self._encoded(file, batch, logits).tobytes())
                done += len(batch)
                self.callback.asked(len(batch))
                stop = self.interrupts.received
                if stop is not None or time.monotonic() - synced > SYNC_EVERY:
                    _sync(out)
                    Header(self.about, header.whole, {file.name: done}).write(self.folder)
                    synced = time.monotonic()
                if stop is not None:
                    count = f"{done} of {len(file.split)} {self.recipe.task_spec.samples}"
                    raise Interrupted(
                        f"stopped in {file.name} after {count}; nothing is lost: the same line goes on",
                        stop,
                    )
            _sync(out)
        digest = cache.sha256(part)
        part.replace(self.folder / file.name)
        header = Header(self.about, {**header.whole, file.name: digest}, {})
        header.write(self.folder)
        return header

    def _encoded(self, file: _File, batch: Any, logits: torch.Tensor) -> Any:
        try:
            return file.form.encode(logits, batch.labels.flatten())
        except ValueError as error:
            raise ValueError(f"teacher {self.about.teacher!r}, {file.name}: {error}") from None


def cache_teacher(
    recipe: Recipe,
    out: Path,
    *,
    views: int,
    places: int | None = None,
    temperature: float = 4.0,
    device: str = "auto",
    workers: int = 2,
    download: bool = False,
    callback: CacheCallback,
) -> CacheMetadata:
    """Ask the recipe's teacher about `views` views of every training image, and once about the validation images.

    Of the recipe count the data, the teacher, augment_seed, augmentation, image size, amp and batch size; student and
    method have no part in it. What `out` holds of the same teacher cache is kept, if its SHA-256 is right, and gone on
    with.

    Args:
        recipe: a run's.
        out: the teacher cache's folder: new, empty, or the same teacher cache's. No other process can use it until the
            cache is made.
        views: V.
        places: K, how many classes of a training image; None is all.
        temperature: T, at which the mass of the classes that are left out is exact; 1 where none is.
        device, workers, download: as `train`.
        callback: is told what is made and how far it is.

    Raises:
        ValueError: for what does not fit, a disk without room, another teacher cache's folder, one that another process
            uses, and several processes.
        Interrupted: after SIGINT or SIGTERM; the same call goes on.
    """
    if launch.launched() > 1:
        raise ValueError(f"processes: expected one to make a teacher cache, got {launch.launched()}")
    require_new_or_folder(out, "out")
    refuse_held(out)
    accelerator = make_accelerator(recipe.amp, device)
    dataset = open_images(recipe, download)
    task = make_task(recipe)
    appearance = task.appearance(recipe, dataset)
    teacher = task.teacher(recipe.model_copy(update={"teacher_cache": None}), dataset)
    if teacher is None:
        raise ValueError("teacher: expected a run folder or a model's name, got none")
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    teacher.to(accelerator.device, layout)
    places = len(dataset.classes) if places is None else places
    if not 1 <= places <= len(dataset.classes):
        raise ValueError(f"top_k: expected 1 to the data's {len(dataset.classes)} classes, or all, got {places}")
    form = RecordFormat(len(dataset.classes), places, 1.0 if places == len(dataset.classes) else temperature)
    if task.views is not None and views != task.views:
        raise ValueError(f"views: expected {task.views}, for {recipe.task} shows each sample so, got {views}")
    about = _about(recipe, dataset, teacher, form, views, accelerator, appearance, task.rows_a_sample(dataset))
    with held(out):
        _make(out, about, recipe, dataset, teacher, accelerator, workers, callback)
    return about


def _make(
    out: Path,
    about: CacheMetadata,
    recipe: Recipe,
    dataset: Any,
    teacher: Teacher,
    accelerator: Accelerator,
    workers: int,
    callback: CacheCallback,
) -> None:
    """Fill the files that are not there yet, in a folder that this process holds."""
    header = _begin(out, about)
    preflight(recipe, dataset, teacher, accelerator=accelerator, workers=workers, callback=callback)
    files = [_File(cache.view_file(view), dataset.train, view, True, about.form) for view in range(about.views)]
    files.append(_File(cache.VALIDATION, dataset.val, 0, False, about.validation_form))
    callback.begin(about, _done(files, header))
    header.write(out)
    try:
        with Interrupts() as interrupts:
            making = _Making(out, about, recipe, dataset, teacher, accelerator, workers, callback, interrupts)
            for file in files:
                if file.name not in header.whole:
                    header = making.fill(file, header)
    finally:
        callback.end()


def make_teacher_cache(recipe: Recipe, *, callback: CacheCallback, **how: Any) -> None:
    """Make the teacher cache that a run's recipe names, of as many views as the recipe has, unless it is complete.

    Args:
        recipe: a run's, with a teacher, a teacher_cache and views.
        callback, how: as `cache_teacher`.
    """
    assert recipe.teacher_cache is not None
    assert recipe.views is not None
    store = Path(recipe.teacher_cache)
    if cache.is_complete(store):
        return
    # Runs of any seed that have this augmentation read it.
    at_once = recipe.task_spec.scored_at_once
    asked = {"teacher_cache": None, "batch_size": at_once, "seed": 0, "augment_seed": recipe.view_seed}
    cache_teacher(recipe.model_copy(update=asked), store, views=recipe.views, callback=callback, **how)


def _about(
    recipe: Recipe,
    dataset: Any,
    teacher: Teacher,
    form: RecordFormat,
    views: int,
    accelerator: Accelerator,
    appearance: Mapping[str, Any],
    rows: int,
) -> CacheMetadata:
    assert recipe.teacher is not None
    named = recipe.teacher if recipe.teacher_checkpoint is None else f"{recipe.teacher}@{recipe.teacher_checkpoint}"
    return CacheMetadata(
        teacher=named,
        teacher_sha256=teacher.fingerprint(),
        models=[
            {
                "image_size": member.image_size,
                **member.model.statistics(),
            }
            for member in teacher.members
        ],
        parameters=teacher.count_parameters(),
        data=data_label(recipe.data),
        train_sha256=dataset.train.fingerprint(),
        validation_sha256=dataset.val.fingerprint(),
        images=len(dataset.train),
        validation_images=len(dataset.val),
        classes=form.classes,
        image_size=dataset.image_size,
        augment={key: list(value) if isinstance(value, tuple) else value
                 for key, value in appearance.items()},
        seed=recipe.view_seed if appearance else 0,
        views=views,
        places=form.places,
        temperature=form.temperature,
        tail="none" if form.whole else "even",
        amp=precision_of(accelerator),
        device=accelerator.device.type,
        batch_size=recipe.batch_size,
        rows=rows,
    )  # fmt: skip


def _begin(out: Path, about: CacheMetadata) -> Header:
    """The header to go on from: what is whole and sound, and what was begun. Refuses a disk without room."""
    if not is_new(out):
        header = cache.read_header(out)
        for name, ours in about.model_dump().items():
            if (theirs := getattr(header.about, name)) != ours:
                raise ValueError(
                    f"out: {str(out)!r} holds another teacher cache: expected {name} {ours!r}, got {theirs!r}"
                )
        sizes = about.sizes()
        whole = {
            name: digest
            for name, digest in header.whole.items()
            if (path := out / name).is_file() and path.stat().st_size == sizes[name] and cache.sha256(path) == digest
        }
        begun = {
            name: done
            for name, done in header.under_way.items()
            if name in sizes and _holds(out / f".{name}.part", done, sizes[name], about, name)
        }
        header = Header(about, whole, begun)
    else:
        header = Header(about, {}, {})
    written = sum(path.stat().st_size for path in out.iterdir() if path.name not in (LOCK, HOLDER))
    needed, free = sum(about.sizes().values()) - written, shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(f"out: expected {needed:,} bytes free for {str(out)!r}, got {free:,}")
    return header


def _holds(part: Path, done: int, size: int, about: CacheMetadata, name: str) -> bool:
    """Whether a file that was begun has the records that the header says, and is no longer than it will be."""
    form = about.validation_form if name == cache.VALIDATION else about.form
    return part.is_file() and done * about.rows * form.dtype.itemsize <= min(part.stat().st_size, size)


def _done(files: list[_File], header: Header) -> int:
    """Images that were asked about before."""
    return sum(len(file.split) if file.name in header.whole else header.under_way.get(file.name, 0) for file in files)


def _sync(out: Any) -> None:
    out.flush()
    os.fsync(out.fileno())
