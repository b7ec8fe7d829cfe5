"""Semantic segmentation: a class for each pixel. Both models are compared at the student's stride, before upsampling.

    1. the student's map of logits, h x w, at its own stride
    2. the teacher's map, resized (bilinear) where its stride is another
    3. the masks resized to h x w, by the nearest pixel; rows of `IGNORED` are dropped

A row is a pixel of that map. The task's own term is the cross-entropy of the student's map at the images' full size, as
torchvision's reference has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.nn import functional

from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.tasks.base import (
    Ask,
    Autocast,
    Figures,
    Loaded,
    Loaders,
    Pair,
    Placement,
    Task,
    evenly,
    float32,
    matched,
)
from pldistill.tasks.segmentation import SPEC
from pldistill.tasks.segmentation.dataset import MaskData, MaskLoader, MaskSplit, make_mask_loader, resize_labels
from pldistill.tasks.segmentation.metrics import MaskValidation
from pldistill.tasks.segmentation.options import SegmentationOptions
from pldistill.tasks.segmentation.predict import leave_overlays, segment
from pldistill.tasks.segmentation.segmenter import LOGITS, Segmenter, build_segmenter, rows, upsample
from pldistill.tasks.segmentation.sources import open_masks
from pldistill.tasks.segmentation.weights import from_checkpoint, load_segmenter, save_segmenter
from pldistill.teachers.live import Teacher
from pldistill.types import IGNORED, MaskBatch, Outputs

ASKED = 32  # pixels of an image that a teacher is asked about before the first step


class Segmentation(Task[MaskData, Segmenter]):
    """A class for each pixel; a row is a pixel of the map of logits, the own term the cross-entropy at full size."""

    spec = SPEC
    own = ("task",)
    rows = "pixels"
    samples_an_image = ASKED
    measured = ("miou", "pixel_accuracy", "val_loss")

    def __init__(self, options: SegmentationOptions, label_smoothing: float = 0.0, *, exif: bool = True) -> None:
        self.options, self.label_smoothing, self.exif = options, label_smoothing, exif

    def pair(self, student: Segmenter, teacher: Ask | None, batch: MaskBatch) -> Pair:
        """Show both models the same images, and give the pixels that have a class at the student's stride."""
        maps = student.maps(batch.images)
        logits = maps[LOGITS]
        size = logits.shape[2], logits.shape[3]
        labels = resize_labels(batch.masks, size).flatten()
        kept = labels != IGNORED
        answers = None if teacher is None else float32(teacher(replace(batch, size=size)))
        if answers is not None:
            answers = replace(answers, logits=answers.logits[kept])
        said = float32(Outputs(rows(logits), {tap: maps[tap] for tap in student.taps}))
        said, labels = replace(said, logits=said.logits[kept]), labels[kept]
        hits = (said.logits.argmax(dim=1) == labels).sum()
        own = partial(self._own, logits, batch.masks)
        return Pair(said, answers, labels, own, hits, torch.tensor(len(labels), device=labels.device))

    def _own(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The cross-entropy at full size, the mean over the pixels of a class; 0 where none of the batch is of one."""
        some = (masks != IGNORED).any()
        loss = functional.cross_entropy(
            upsample(logits.float(), (masks.shape[1], masks.shape[2])),
            masks.where(some, 0),  # a mean over nothing would be NaN
            label_smoothing=self.label_smoothing,
            ignore_index=IGNORED,
        )
        return {"task": some * loss}

    def open(self, recipe: Recipe, *, download: bool) -> MaskData:
        data = self._open(recipe, evaluation=False)
        if self.options.crop > min(data.frame):
            raise ValueError(
                f"task option crop: expected at most {min(data.frame)}, the images' short side, got {self.options.crop}"
            )
        return data

    def open_validation(self, recipe: Recipe, classes: Sequence[str]) -> MaskData:
        """Open the images that score a model of these classes, matched by name: all of them or some."""
        data = self._open(recipe, evaluation=True)
        return data if data.classes == tuple(classes) else data.among(classes, matched(data, classes))

    def _open(self, recipe: Recipe, *, evaluation: bool) -> MaskData:
        how = {"exif": recipe.exif, "on_bad_image": recipe.on_bad_image}
        return open_masks(recipe.data, image_size=recipe.image_size, evaluation=evaluation, **how)

    def student(self, recipe: Recipe, data: MaskData) -> Segmenter:
        count = len(data.classes)
        if recipe.student_checkpoint is not None:
            model = from_checkpoint(recipe.student, count, recipe.student_checkpoint, new_head=recipe.new_head)
        else:
            model = build_segmenter(recipe.student, count)
        if recipe.sync_batchnorm:
            model = convert_sync_batchnorm(model)
        return Segmenter(model, mean=data.mean, std=data.std)

    def loader(self, split: MaskSplit, recipe: Recipe, data: MaskData, place: Placement, *, train: bool) -> MaskLoader:
        hflip = data.hflip if recipe.hflip is None else recipe.hflip
        return make_mask_loader(
            split,
            batch_size=recipe.batch_size,
            frame=data.frame,
            crop=self.options.crop if train else 0,
            hflip=train and hflip,
            seed=recipe.seed if train else 0,
            view_seed=recipe.view_seed if train else 0,
            shuffle=train,
            device=place.device,
            workers=place.workers,
            rank=place.rank,
            world=place.world,
        )

    def validation(
        self, loaders: Loaders, data: MaskData, teacher: Teacher | None, autocast: Autocast
    ) -> MaskValidation:
        return MaskValidation(loaders, data.classes, teacher, autocast)

    def answers(self, teacher: Teacher, batch: MaskBatch) -> tuple[Tensor, Tensor]:
        """The teacher's logits for some pixels of each image that have a class, evenly taken, and their labels."""
        (asked,) = (member.model for member in teacher.members)
        assert isinstance(asked, Segmenter)
        maps = asked.maps(batch.images)[LOGITS]
        labels = resize_labels(batch.masks, (maps.shape[2], maps.shape[3]))
        picked = []
        for number, mask in enumerate(labels):
            places = (mask.flatten() != IGNORED).nonzero().flatten() + number * mask.numel()
            picked.append(places[evenly(len(places), ASKED).to(places.device)])
        at = torch.cat(picked)
        return rows(maps)[at].float(), labels.flatten()[at]

    def sample(
        self, recipe: Recipe, data: MaskData, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        some = data.train.subset(evenly(len(data.train), max(1, most // ASKED)))
        settings = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(some))})
        asked = []
        for batch in self.loader(some, settings, data, place.alone(), train=False).epoch(0):
            with autocast():
                logits, labels = self.answers(teacher, batch)
            asked.append((logits.cpu(), labels.cpu()))
        logits, labels = (torch.cat(parts)[:most] for parts in zip(*asked, strict=True))
        return logits, labels

    def describe(self, data: MaskData) -> str:
        parts = ((data.train, "training"), (data.holdout, "held-out"), (data.val, "validation"))
        numbers = ", ".join(f"{len(part):,} {what}" for part, what in parts if part is not None)
        height, width = data.frame
        return f"{numbers} images, {len(data.classes)} classes a pixel, {width} x {height} pixels"

    def save(self, model: Segmenter, folder: Path, data: MaskData, recipe: Recipe) -> None:
        save_segmenter(
            model,
            folder,
            architecture=recipe.student,
            classes=data.classes,
            image_size=data.image_size,
            frame=data.frame,
        )

    def load(self, folder: Path) -> Loaded[Segmenter]:
        loaded = load_segmenter(folder)
        return Loaded(loaded.model, loaded.classes, loaded.image_size)

    def show(self, model: Segmenter, teacher: Teacher | None, run: RunRecord, data: MaskData) -> None:
        asked = None if teacher is None else teacher.members[0].model
        assert asked is None or isinstance(asked, Segmenter)
        leave_overlays(run, data, model, asked)

    def predict(self, folder: Path, images: Sequence[Path | str]) -> list[list[dict[str, Any]]]:
        """The classes of an image's pixels, the largest first: `class`, `index`, `share` of the pixels, `rle`."""
        return segment(folder, images, exif=self.exif)

    def result(self, rows: Sequence[Mapping[str, Any]], data: MaskData) -> Figures:
        """Give the figures after the last epoch, IoU by class, and which classes no validation pixel is of."""
        last = rows[-1]
        return {
            **super().result(rows, data),
            "per_class": last["per_class"],
            "absent_classes": last["absent_classes"],
        }


def make(recipe: Recipe) -> Segmentation:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    options = SegmentationOptions.model_validate(recipe.task_options)
    return Segmentation(options, recipe.label_smoothing, exif=recipe.exif)
