"""Image classification: one label an image, cross-entropy, top-1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional

from pldistill import distributed, models
from pldistill.data import (
    Augment,
    Dataset,
    Loader,
    Mixing,
    Split,
    default_augment,
    make_loader,
    open_data,
    with_unlabelled,
)
from pldistill.data.folder import in_words
from pldistill.models import NormalizedModel
from pldistill.recipe import Recipe
from pldistill.tasks import Ask, Autocast, Figures, Loaders, Pair, Placement, Task, evenly, first, float32, mixed
from pldistill.tasks.classification.metrics import Validation
from pldistill.teachers.cache import open_cached
from pldistill.teachers.live import Teacher, open_teacher
from pldistill.types import UNLABELLED, Batch, Outputs


class Classification(Task[Dataset, NormalizedModel]):
    """One label an image; the task's own term is cross-entropy."""

    own = ("task",)
    rows = "images"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def pair(self, student: nn.Module, teacher: Ask | None, batch: Batch) -> Pair:
        """Show both models the same images."""
        answers = None if teacher is None else float32(teacher(batch))
        said = float32(student(batch.images))
        return Pair(
            said,
            answers,
            batch.labels.clamp(min=0),  # a loss leaves rows out whose label is a mark; those without one are to count
            partial(mixed, lambda labels: {"task": self.loss(said, labels)}, batch.labels, batch.mixture),
            self.hits(said, _larger(batch)),
            (batch.labels != UNLABELLED).sum(),
            batch.mixture,
        )

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Cross-entropy, the mean over the images that have a label; 0 where none of the batch has one."""
        some = (labels != UNLABELLED).any()
        loss = functional.cross_entropy(
            outputs.logits,
            labels.where(some, 0),  # a mean over nothing would be NaN
            label_smoothing=self.label_smoothing,
            ignore_index=UNLABELLED,
        )
        return some * loss

    def hits(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Count the images whose label has the largest logit; one without a label is none of them."""
        return (outputs.logits.argmax(dim=1) == labels).sum()

    def open(self, recipe: Recipe, *, download: bool) -> Dataset:
        data = open_data(recipe.data, image_size=recipe.image_size, download=download)
        return data if recipe.unlabelled is None else with_unlabelled(data, recipe.unlabelled, download=download)

    def notes(self, data: Dataset) -> list[str]:
        if not data.ignored:
            return []
        return [f"data {data.spec!r}: files ignored, which are not read as images: {in_words(data.ignored)}"]

    def student(self, recipe: Recipe, data: Dataset) -> NormalizedModel:
        model = models.build(
            recipe.student,
            num_classes=len(data.classes),
            pretrained=recipe.pretrained,
            checkpoint=recipe.student_checkpoint,
            new_head=recipe.new_head,
            image_size=data.image_size,
        )
        if recipe.sync_batchnorm:
            model = convert_sync_batchnorm(model)
        mean, std = models.pretrained_statistics(model) if recipe.pretrained else (data.mean, data.std)
        return NormalizedModel(model, mean=mean, std=std)

    def compile(self, model: NormalizedModel) -> None:
        model.model.compile()

    def teacher(self, recipe: Recipe, data: Dataset) -> Teacher | None:
        stored = recipe.teacher_cache is not None
        return open_cached(recipe, data, augmentation(recipe, data)) if stored else open_teacher(recipe, data)

    def columns(self, data: Dataset) -> int:
        return len(data.classes)

    def stages(self, model: NormalizedModel) -> Sequence[str]:
        return models.stages(model.model)

    def probe(self, model: NormalizedModel, data: Dataset) -> Outputs:
        return models.probe(model, data.image_size)

    def loaders(self, recipe: Recipe, data: Dataset, place: Placement) -> Loaders:
        show = partial(_loader, batch_size=recipe.batch_size, image_size=data.image_size, place=place)
        train = show(
            data.train,
            augment=augmentation(recipe, data),
            seed=recipe.seed,
            augment_seed=recipe.augment_seed,
            views=recipe.views,
            shuffle=True,
            repeats=recipe.repeats,
            mixing=_mixing(recipe),
        )
        return Loaders(train, show(data.val), show(data.holdout) if data.holdout is not None else None)

    def validation(self, loaders: Loaders, data: Dataset, teacher: Teacher | None, autocast: Autocast) -> Validation:
        return Validation(loaders.val, teacher and teacher.at_validation(), autocast, loaders.holdout)

    def examine(
        self, recipe: Recipe, data: Dataset, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[int, Tensor, int]:
        some = data.val.subset(evenly(len(data.val), most))
        alone = make_loader(  # each process looks at all of them
            some,
            batch_size=min(recipe.batch_size, len(some)),
            image_size=data.image_size,
            augment=None,
            seed=0,
            shuffle=False,
            device=place.device,
            workers=place.workers,
        )
        hits = 0
        for batch in alone.epoch(0):
            with autocast():
                answers = teacher(batch).logits
            hits += int((answers.argmax(dim=1) == batch.labels).sum())
        return hits, some.labels, len(data.classes)

    def sample(
        self, recipe: Recipe, data: Dataset, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        labelled = (data.train.labels != UNLABELLED).nonzero()[:, 0]
        some = data.train.subset(labelled[evenly(len(labelled), most)])
        alone = make_loader(
            some,
            batch_size=min(recipe.batch_size, len(some)),
            image_size=data.image_size,
            augment=augmentation(recipe, data),
            seed=recipe.view_seed,
            shuffle=False,
            device=place.device,
            workers=place.workers,
        )
        logits = []
        for batch in alone.epoch(0):
            with autocast():
                logits.append(teacher(batch).logits.float().cpu())
        return torch.cat(logits), some.labels

    def save(self, model: NormalizedModel, folder: Path, data: Dataset, recipe: Recipe) -> None:
        mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
        models.save_folder(model.model, folder, classes=data.classes, mean=mean, std=std, image_size=data.image_size)

    def result(self, rows: Sequence[Mapping[str, Any]], data: Dataset) -> Figures:
        """Give the figures of the last and of the best epoch.

        The best epoch is the best on the held-out images where there are some: chosen without a look at those that
        score it. Otherwise it is the best on the validation split itself.
        """
        choice = "top1" if data.holdout is None else "holdout_top1"
        last, best = rows[-1], max(rows, key=lambda row: row[choice])
        held = {} if data.holdout is None else {"holdout_last": last[choice], "holdout_best": best[choice]}
        return {
            "top1_last": last["top1"],
            "top1_best": best["top1"],
            "best_epoch": best["epoch"],
            **held,
            "top5_last": last["top5"],
            "kl_last": last["kl"],
            # Rows that an earlier version wrote have none of these.
            **{f"{name}_last": last.get(name) for name in ("agreement", "overlap5", "kendall", "ece")},
            "teacher_top1": last.get("teacher_top1"),
        }

    def measure(
        self, folder: Path, recipe: Recipe, spec: str | None, batch_size: int, place: Placement, autocast: Autocast
    ) -> Figures:
        """Give top1 and top5 in percent, val_loss in nats and the number of images."""
        loaded = models.load_folder(folder)

        def open_loader() -> Loader:
            data = open_data(spec or recipe.data, image_size=loaded.image_size)
            if data.classes != tuple(loaded.classes):
                raise ValueError(
                    f"data {data.spec!r}: expected the run's {len(loaded.classes)} classes ({first(loaded.classes)}), "
                    f"got {len(data.classes)} ({first(data.classes)})"
                )
            return _loader(data.val, batch_size=batch_size, image_size=loaded.image_size, place=place)

        loader = distributed.run_on_all(open_loader)
        model = NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std).to(place.device)
        figures = Validation(loader, None, autocast)(model)
        return {**{name: figures[name] for name in ("top1", "top5", "val_loss")}, "images": loader.num_samples}


def _loader(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    place: Placement,
    augment: Augment | None = None,
    seed: int = 0,
    shuffle: bool = False,
    **training: Any,
) -> Loader:
    return make_loader(
        split,
        batch_size=batch_size,
        image_size=image_size,
        augment=augment,
        seed=seed,
        shuffle=shuffle,
        device=place.device,
        workers=place.workers,
        rank=distributed.rank(),
        world=distributed.world_size(),
        **training,
    )


def _larger(batch: Batch) -> Tensor:
    """Give the labels of what there is more of in each image."""
    mixture = batch.mixture
    return batch.labels if mixture is None or mixture.share >= 0.5 else mixture.labels


def _mixing(recipe: Recipe) -> Mixing | None:
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixing(mixup=recipe.mixup, cutmix=recipe.cutmix, probability=recipe.mix_probability)


def augmentation(recipe: Recipe, data: Dataset) -> Augment:
    """What the recipe's run does to a training image before it is mixed with another."""
    augment = default_augment(data)
    return augment if recipe.hflip is None else replace(augment, hflip=recipe.hflip)


def make(recipe: Recipe) -> Classification:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    return Classification(recipe.label_smoothing)
