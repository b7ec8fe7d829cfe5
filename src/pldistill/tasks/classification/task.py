"""Image classification: one label an image, cross-entropy, top-1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional

from pldistill import models
from pldistill.data import (
    Dataset,
    Loader,
    Mixing,
    Split,
    make_loader,
    open_data,
    read_image,
    training_augment,
    with_unlabelled,
)
from pldistill.data.augment import evaluation_resize
from pldistill.data.stand_in import stand_in
from pldistill.models import NormalizedModel
from pldistill.recipe import Recipe
from pldistill.tasks.base import Ask, Autocast, Loaded, Loaders, Pair, Placement, Task, evenly, float32, matched, mixed
from pldistill.tasks.calibration import read_temperature
from pldistill.tasks.classification import SPEC
from pldistill.tasks.classification.metrics import Validation
from pldistill.teachers.cache import open_cached
from pldistill.teachers.live import NONE, Teacher, open_teacher
from pldistill.types import UNLABELLED, Batch, Outputs

AT_ONCE = 64  # images of `predict` in memory


class Classification(Task[Dataset, NormalizedModel]):
    """One label an image; the task's own term is cross-entropy."""

    spec = SPEC
    own = ("task",)
    rows = "images"
    measured = ("top1", "top5", "val_loss")

    def __init__(self, label_smoothing: float = 0.0, *, exif: bool = True) -> None:
        self.label_smoothing, self.exif = label_smoothing, exif

    def pair(self, student: nn.Module, teacher: Ask | None, batch: Batch) -> Pair:
        """Show both models the same images."""
        answers = None if teacher is None else float32(teacher(batch))
        said = float32(student(batch.images))
        compared, asked, labels = said, answers, batch.labels.clamp(min=0)  # an image without a label is to count
        known = teacher.known if isinstance(teacher, Teacher) else None
        if known is not None and answers is not None:
            known = known.to(labels.device)
            kept = known[labels] | (batch.labels == UNLABELLED)
            compared, asked = (replace(each, logits=each.logits[kept][:, known]) for each in (said, answers))
            labels = (known.long().cumsum(0) - 1)[labels[kept]].clamp(min=0)
        return Pair(
            compared,
            asked,
            labels,
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
        how = {"download": download, "exif": recipe.exif, "on_bad_image": recipe.on_bad_image}
        data = open_data(recipe.data, image_size=recipe.image_size, **how)
        return data if recipe.unlabelled is None else with_unlabelled(data, recipe.unlabelled, **how)

    def open_validation(self, recipe: Recipe, classes: Sequence[str]) -> Dataset:
        """Open the images that score a model of these classes, which are told by their names: all of them or some."""
        data = open_data(
            recipe.data,
            image_size=recipe.image_size,
            evaluation=True,
            exif=recipe.exif,
            on_bad_image=recipe.on_bad_image,
        )
        if tuple(data.classes) == tuple(classes):
            return data
        labels = torch.tensor(matched(data, classes))
        return replace(data, classes=tuple(classes), val=data.val.relabelled(labels[data.val.labels]))

    def stand_in(self, recipe: Recipe) -> Dataset | None:
        return stand_in(recipe.data, image_size=recipe.image_size) if recipe.unlabelled is None else None

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

    def teacher(self, recipe: Recipe, data: Dataset) -> Teacher | None:
        if recipe.teacher_cache is None:
            teacher = open_teacher(recipe, data)
            if teacher is not None and teacher.known is not None:
                _check_unknown(recipe, teacher.known)
            return teacher
        return open_cached(recipe, data, self.appearance(recipe, data), lambda: open_teacher(recipe, data))

    def marks(self, data: Dataset) -> dict[str, str]:
        return {"train": data.train.fingerprint(), "val": data.val.fingerprint()}

    def appearance(self, recipe: Recipe, data: Dataset) -> dict[str, Any]:
        return asdict(training_augment(data, recipe.hflip))

    def in_order(self, split: Split, recipe: Recipe, data: Dataset, place: Placement, *, train: bool) -> Loader:
        return make_loader(
            split,
            batch_size=recipe.batch_size,
            image_size=data.image_size,
            augment=training_augment(data, recipe.hflip) if train else None,
            seed=recipe.view_seed,
            shuffle=False,
            device=place.device,
            workers=place.workers,
        )

    def loader(self, split: Split, recipe: Recipe, data: Dataset, place: Placement, *, train: bool) -> Loader:
        to_learn = {
            "augment": training_augment(data, recipe.hflip),
            "seed": recipe.seed,
            "augment_seed": recipe.augment_seed,
            "views": recipe.views,
            "shuffle": True,
            "repeats": recipe.repeats,
            "mixing": _mixing(recipe),
        }
        to_score = {"augment": None, "seed": 0, "shuffle": False}
        return make_loader(
            split,
            batch_size=recipe.batch_size,
            image_size=data.image_size,
            device=place.device,
            workers=place.workers,
            rank=place.rank,
            world=place.world,
            **(to_learn if train else to_score),
        )

    def validation(self, loaders: Loaders, data: Dataset, teacher: Teacher | None, autocast: Autocast) -> Validation:
        return Validation(loaders.val, teacher and teacher.at_validation(), autocast, loaders.holdout)

    def sample(
        self, recipe: Recipe, data: Dataset, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        labelled = (data.train.labels != UNLABELLED).nonzero()[:, 0]
        some = data.train.subset(labelled[evenly(len(labelled), most)])
        settings = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(some))})
        logits = []
        for batch in self.in_order(some, settings, data, place, train=True).epoch(0):
            with autocast():
                logits.append(teacher(batch).logits.float().cpu())
        return torch.cat(logits), some.labels

    def save(self, model: NormalizedModel, folder: Path, data: Dataset, recipe: Recipe) -> None:
        mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
        models.save_folder(
            model.model,
            folder,
            classes=data.classes,
            mean=mean,
            std=std,
            image_size=data.image_size,
            resized_to=evaluation_resize(data.image_size),
        )

    def load(self, folder: Path) -> Loaded[NormalizedModel]:
        loaded = models.load_folder(folder)
        model = NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std)
        return Loaded(model.eval(), loaded.classes, loaded.image_size)

    @torch.no_grad()
    def predict(self, folder: Path, images: Sequence[Path | str]) -> list[list[dict[str, Any]]]:
        """All classes of each image with their probabilities, the most probable first: `class` and `probability`.

        Of a model that was calibrated they are those of the logits divided by its temperature.
        """
        loaded, temperature = self.load(folder), read_temperature(folder)
        answers = []
        for first in range(0, len(images), AT_ONCE):
            some = images[first : first + AT_ONCE]
            batch = torch.stack([read_image(str(image), loaded.image_size, exif=self.exif) for image in some])
            logits = loaded.model(batch).logits / temperature
            best = logits.softmax(dim=1).sort(dim=1, descending=True, stable=True)
            answers += [
                [
                    {"class": loaded.classes[index], "probability": probability}
                    for index, probability in zip(indices, values, strict=True)
                ]
                for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        return answers


def _check_unknown(recipe: Recipe, known: Tensor) -> None:
    """Refuse what does not go with classes that the teacher knows nothing of, "(none)" in a class map."""
    beside = f"beside classes of {NONE!r}"
    if int(known.sum()) < 2:
        raise ValueError(f"class_map: expected at least two classes that the teacher knows, got {int(known.sum())}")
    if recipe.mixup or recipe.cutmix:
        raise ValueError(f"class_map: expected neither mixup nor cutmix {beside}, for they mix labels")
    if recipe.method_spec.taps is not None:
        raise ValueError(f"class_map: expected a method of the logits {beside}, got {recipe.method!r}")
    if recipe.relation == "global":
        raise ValueError(f"relation: expected local {beside}, for a process may have no image to compare")
    if recipe.weights.get("task") == 0:
        raise ValueError(
            f"weights: expected a task weight above 0 (--weight task=1) {beside}, whose images learn from their label "
            "alone, got 0"
        )


def _larger(batch: Batch) -> Tensor:
    """Give the labels of what there is more of in each image."""
    mixture = batch.mixture
    return batch.labels if mixture is None or mixture.share >= 0.5 else mixture.labels


def _mixing(recipe: Recipe) -> Mixing | None:
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixing(mixup=recipe.mixup, cutmix=recipe.cutmix, probability=recipe.mix_probability)


def make(recipe: Recipe) -> Classification:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    return Classification(recipe.label_smoothing, exif=recipe.exif)
