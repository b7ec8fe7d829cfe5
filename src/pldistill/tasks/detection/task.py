"""Object detection: the student proposes and samples RoIs once, and both models say what these are.

    1. the student's maps, its proposals and its sample of them with their labels, the background 0
    2. the student's box head on the sample, for its own losses and for the method
    3. the teacher's backbone, pyramid and box head on the same RoIs

as the public code for DKD does it on COCO (mdistiller), but that the student's head runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import fastrcnn_loss

from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.tasks.base import Ask, Autocast, Figures, Loaded, Loaders, Pair, Placement, Task, float32, matched
from pldistill.tasks.detection import SPEC
from pldistill.tasks.detection.dataset import BoxData, BoxLoader, BoxSplit, make_box_loader
from pldistill.tasks.detection.examine import background_boxes, best_look
from pldistill.tasks.detection.faster_rcnn import Detector, build_detector
from pldistill.tasks.detection.methods import OWN
from pldistill.tasks.detection.metrics import DetectorValidation
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.predict import detect, leave_detections
from pldistill.tasks.detection.sources import open_boxes
from pldistill.tasks.detection.stand_in import stand_in_boxes
from pldistill.tasks.detection.teachers import backbone_of, columns_of, open_detector, options_of
from pldistill.tasks.detection.weights import PUBLISHED, from_checkpoint, load_detector, published, save_detector
from pldistill.teachers.live import Teacher
from pldistill.types import DetectionBatch, Outputs


class Detection(Task[BoxData, Detector]):
    """Boxes with labels; a row is an RoI. The own terms are torchvision's four, and rows are RoIs."""

    spec = SPEC
    own = tuple(OWN)
    rows = "RoIs"
    samples_an_image = 16

    def __init__(self, options: DetectionOptions, *, exif: bool = True) -> None:
        self.options, self.exif = options, exif

    def pair(self, student: Detector, teacher: Ask | None, batch: DetectionBatch) -> Pair:
        """Ask the student for RoIs and what they are, and the teacher what it says of the same."""
        images = student.pad(batch.images)
        maps = student.maps(images)
        targets = [{"boxes": each.boxes, "labels": student.columns[each.labels]} for each in batch.targets]
        proposals, proposing = student.model.rpn(images, maps, targets)
        with torch.no_grad():
            regions, _, labels, offsets = student.model.roi_heads.select_training_samples(proposals, targets)
        logits, moved = student.about(maps, regions, images)
        wanted = torch.cat(labels)

        def own() -> dict[str, Tensor]:
            # Where nothing was proposed and nothing lies there the mean over no RoIs would be NaN; the sums are 0.
            losses = fastrcnn_loss(logits, moved, labels, offsets) if len(wanted) else (logits.sum(), moved.sum())
            terms = {"loss_classifier": losses[0], "loss_box_reg": losses[1], **proposing}
            return {name: terms[name] for name in self.own}

        said = Outputs(student.used(logits), student.features(maps))
        answers = None
        if teacher is not None:
            if not self.options.background_rows:
                regions = [some[of > 0] for some, of in zip(regions, labels, strict=True)]
            answers = float32(teacher(replace(batch, regions=tuple(regions))))
        hits = (logits.argmax(dim=1) == wanted).sum()
        said, counted = self._counted(float32(said), wanted)
        return Pair(said, answers, counted, own, hits, torch.tensor(len(wanted), device=wanted.device))

    def _counted(self, said: Outputs, labels: Tensor) -> tuple[Outputs, Tensor]:
        """Give the rows that count in the method's terms."""
        if self.options.background_rows:
            return said, labels
        kept = labels > 0
        return replace(said, logits=said.logits[kept]), labels[kept]

    def open(self, recipe: Recipe, *, download: bool) -> BoxData:
        sides, most = self.options.train_sides, self.options.max_side
        data = self._open(recipe, evaluation=False)
        if sides is not None and sides[1] > most:
            raise ValueError(f"task option short_sides: expected at most max_side, {most}, got {sides[1]}")
        return data

    def _open(self, recipe: Recipe, *, evaluation: bool) -> BoxData:
        return open_boxes(
            recipe.data,
            image_size=recipe.image_size,
            max_side=self.options.max_side,
            evaluation=evaluation,
            exif=recipe.exif,
            on_bad_image=recipe.on_bad_image,
        )

    def open_validation(self, recipe: Recipe, classes: Sequence[str]) -> BoxData:
        """Open the images that score a detector of these classes, matched by name: all of them or some.

        A class of the detector's that the data has not is none that there is anything to find of.
        """
        data = self._open(recipe, evaluation=True)
        return data if data.classes == tuple(classes) else data.among(classes, matched(data, classes))

    def stand_in(self, recipe: Recipe) -> BoxData | None:
        return stand_in_boxes(recipe.data, image_size=recipe.image_size, max_side=self.options.max_side)

    def student(self, recipe: Recipe, data: BoxData) -> Detector:
        name, unused = backbone_of(recipe.student, "student"), self.options.keeps_unused
        columns = columns_of(data, unused)
        width, options, head = columns[-1] + 1, self.options, recipe.new_head
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if recipe.pretrained else (data.mean, data.std)
        if recipe.student_checkpoint is not None:
            model = from_checkpoint(name, recipe.student_checkpoint, columns=width, options=options, new_head=head)
        elif name in PUBLISHED and recipe.pretrained:
            model = published(name, options=options, columns=width, new_head=head)
        else:
            model = build_detector(name, columns=width, options=options, pretrained=recipe.pretrained)
        if recipe.sync_batchnorm:
            model = convert_sync_batchnorm(model)
        assert isinstance(model, FasterRCNN)
        return Detector(model, mean=mean, std=std, columns=columns, unused=unused)

    def teacher(self, recipe: Recipe, data: BoxData) -> Teacher | None:
        return open_detector(recipe, data)

    def columns(self, data: BoxData) -> int:
        return columns_of(data, self.options.keeps_unused)[-1] + 1

    def loader(self, split: BoxSplit, recipe: Recipe, data: BoxData, place: Placement, *, train: bool) -> BoxLoader:
        hflip = data.hflip if recipe.hflip is None else recipe.hflip
        return make_box_loader(
            split,
            batch_size=recipe.batch_size,
            short_side=(train and self.options.train_sides) or data.image_size,
            max_side=data.max_side,
            hflip=train and hflip,
            seed=recipe.seed if train else 0,
            shuffle=train,
            device=place.device,
            workers=place.workers,
            rank=place.rank,
            world=place.world,
        )

    def validation(
        self, loaders: Loaders, data: BoxData, teacher: Teacher | None, autocast: Autocast
    ) -> DetectorValidation:
        asked = None if teacher is None else teacher.members[0].model
        assert asked is None or isinstance(asked, Detector)
        return DetectorValidation(loaders.val, data, asked, autocast)

    def answers(self, teacher: Teacher, batch: DetectionBatch) -> tuple[Tensor, Tensor]:
        """The teacher's logits for the true boxes and for as many boxes of background beside them, and their labels."""
        (asked,) = (member.model for member in teacher.members)
        assert isinstance(asked, Detector)
        regions, labels = [], []
        for number, image, objects in zip(batch.ids.tolist(), batch.images, batch.targets, strict=True):
            nothing = background_boxes(objects.boxes, (image.shape[1], image.shape[2]), number)
            regions.append(torch.cat([objects.boxes, nothing]))
            labels.append(torch.cat([objects.labels, objects.labels.new_zeros(len(nothing))]))
        logits, own = teacher(replace(batch, regions=tuple(regions))).logits, torch.cat(labels)
        return logits, asked.columns[own] if self.options.keeps_unused else own

    def examine(
        self, recipe: Recipe, data: BoxData, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[int, Tensor]:
        """The teacher's hits among RoIs, and their labels, where it does best: see `tasks/detection/examine.py`."""
        return best_look(*self.validation_answers(recipe, data, teacher, most, place, autocast))

    def save(self, model: Detector, folder: Path, data: BoxData, recipe: Recipe) -> None:
        save_detector(
            model,
            folder,
            architecture=recipe.student,
            classes=data.classes,
            category_ids=data.category_ids,
            image_size=data.image_size,
            max_side=data.max_side,
            options=self.options,
        )

    def show(self, model: Detector, teacher: Teacher | None, run: RunRecord, data: BoxData) -> None:
        asked = None if teacher is None else teacher.members[0].model
        assert asked is None or isinstance(asked, Detector)
        leave_detections(run, data, model, asked)

    def load(self, folder: Path) -> Loaded[Detector]:
        loaded = load_detector(folder)
        return Loaded(loaded.model, loaded.classes, loaded.image_size)

    def predict(self, folder: Path, images: Sequence[Path | str]) -> list[list[dict[str, Any]]]:
        """The boxes that the detector finds: `score`, `class`, and `box` (left, top, right, bottom in pixels)."""
        return detect(folder, images, exif=self.exif)

    def result(self, rows: Sequence[Mapping[str, Any]], data: BoxData) -> Figures:
        """Give the columns after the last epoch, also by class, and the best epoch by AP."""
        return {**super().result(rows, data), "per_class": rows[-1]["per_class"]}


def make(recipe: Recipe) -> Detection:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    return Detection(options_of(recipe), exif=recipe.exif)
