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

from pldistill import distributed
from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.methods.detection import OWN
from pldistill.methods.spec import Option
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.task_options import short_sides
from pldistill.tasks import Ask, Autocast, Figures, Loaders, Pair, Placement, Task, evenly, first, float32
from pldistill.tasks.detection.dataset import BoxData, BoxLoader, make_box_loader
from pldistill.tasks.detection.faster_rcnn import LEVELS, Detector, build_detector
from pldistill.tasks.detection.metrics import COLUMNS, DetectorValidation
from pldistill.tasks.detection.predict import leave_detections
from pldistill.tasks.detection.sources import open_boxes
from pldistill.tasks.detection.teachers import DetectorTeacher, backbone_of, columns_of, open_detector
from pldistill.tasks.detection.weights import PUBLISHED, from_checkpoint, load_detector, published, save_detector
from pldistill.teachers.live import Teacher
from pldistill.types import DetectionBatch, DetectionTargets, Outputs

_BOXES_A_IMAGE = 16  # so many fewer images do where each has several boxes


class Detection(Task[BoxData, Detector]):
    """Boxes with labels; a row is an RoI. The own terms are torchvision's four, and rows are hits as RoIs are."""

    own = tuple(OWN)
    rows = "boxes"

    def __init__(self, options: Mapping[str, Option]) -> None:
        self.options = options

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
            classifying, moving = fastrcnn_loss(logits, moved, labels, offsets)
            terms = {"loss_classifier": classifying, "loss_box_reg": moving, **proposing}
            return {name: terms[name] for name in self.own}

        said = Outputs(student.used(logits), student.features(maps))
        answers = None
        if teacher is not None:
            if not self.options["background_rows"]:
                regions = [some[of > 0] for some, of in zip(regions, labels, strict=True)]
            answers = float32(teacher(replace(batch, regions=tuple(regions))))
        hits = (logits.argmax(dim=1) == wanted).sum()
        said, counted = self._counted(float32(said), wanted)
        return Pair(said, answers, counted, own, hits, torch.tensor(len(wanted), device=wanted.device))

    def _counted(self, said: Outputs, labels: Tensor) -> tuple[Outputs, Tensor]:
        """Give the rows that count in the method's terms."""
        if self.options["background_rows"]:
            return said, labels
        kept = labels > 0
        return replace(said, logits=said.logits[kept]), labels[kept]

    def open(self, recipe: Recipe, *, download: bool) -> BoxData:
        sides = short_sides(self.options)
        most = int(self.options["max_side"])
        data = open_boxes(recipe.data, image_size=recipe.image_size, max_side=most)
        if sides is not None and sides[1] > most:
            raise ValueError(f"task option short_sides: expected at most max_side, {most}, got {sides[1]}")
        return data

    def notes(self, data: BoxData) -> list[str]:
        odd = ", ".join(f"{count} {what}" for what, count in data.data_warnings.items())
        return [f"data {data.spec!r}: {odd}"] if odd else []

    def student(self, recipe: Recipe, data: BoxData) -> Detector:
        name, unused = backbone_of(recipe.student, "student"), self.options["unused_ids"] == "keep"
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

    def compile(self, model: Detector) -> None:
        model.model.backbone.compile()

    def teacher(self, recipe: Recipe, data: BoxData) -> DetectorTeacher | None:
        return open_detector(recipe, data)

    def columns(self, data: BoxData) -> int:
        return columns_of(data, self.options["unused_ids"] == "keep")[-1] + 1

    def stages(self, model: Detector) -> Sequence[str]:
        return LEVELS

    @torch.no_grad()
    def probe(self, model: Detector, data: BoxData) -> Outputs:
        """Ask about the whole of a black image."""
        training = {module: module.training for module in model.modules()}
        side, device = data.image_size, model.mean.device
        black = torch.zeros(3, side, side, dtype=torch.uint8, device=device)
        whole = torch.tensor([[0.0, 0.0, side, side]], device=device)
        none = DetectionTargets(whole[:0], torch.zeros(0, dtype=torch.int64, device=device))
        scene = DetectionBatch((black,), (none,), torch.zeros(1, dtype=torch.int64), 0, ((side, side),), (whole,))
        try:
            return model.eval().answer(scene)
        finally:
            for module, flag in training.items():
                module.training = flag

    def loaders(self, recipe: Recipe, data: BoxData, place: Placement) -> Loaders:
        sides = short_sides(self.options) or data.image_size
        hflip = data.hflip if recipe.hflip is None else recipe.hflip
        train = make_box_loader(
            data.train,
            batch_size=recipe.batch_size,
            short_side=sides,
            max_side=data.max_side,
            hflip=hflip,
            seed=recipe.seed,
            shuffle=True,
            device=place.device,
            workers=place.workers,
            rank=distributed.rank(),
            world=distributed.world_size(),
        )
        return Loaders(train, _scored(data, recipe.batch_size, place))

    def validation(
        self, loaders: Loaders, data: BoxData, teacher: Teacher | None, autocast: Autocast
    ) -> DetectorValidation:
        asked = None if teacher is None else teacher.members[0].model
        assert asked is None or isinstance(asked, Detector)
        return DetectorValidation(loaders.val, data, asked, autocast)

    def examine(
        self, recipe: Recipe, data: BoxData, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[int, Tensor, int]:
        """Ask the teacher what stands in the true boxes of fewer images, which have several each."""
        some = data.val.subset(evenly(len(data.val), max(1, most // _BOXES_A_IMAGE)).tolist())
        loader = _scored(replace(data, val=some), min(recipe.batch_size, len(some)), place, alone=True)
        (asked,) = (member.model for member in teacher.members)
        assert isinstance(asked, Detector)
        hits, labels = 0, [torch.zeros(0, dtype=torch.int64)]
        for batch in loader.epoch(0):
            with autocast():
                answers = teacher(replace(batch, regions=tuple(each.boxes for each in batch.targets))).logits
            own = torch.cat([each.labels for each in batch.targets])
            wanted = asked.columns[own] if self.options["unused_ids"] == "keep" else own
            hits += int((answers.argmax(dim=1) == wanted).sum())
            labels.append(own.cpu())
        return hits, torch.cat(labels), len(data.classes)

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

    def result(self, rows: Sequence[Mapping[str, Any]], data: BoxData) -> Figures:
        """Give the columns after the last epoch, and the best epoch by AP."""
        last, best = rows[-1], max(rows, key=lambda row: row["AP"] or 0.0)
        return {
            **{name: last[name] for name in COLUMNS},
            "AP_best": best["AP"],
            "best_epoch": best["epoch"],
            "teacher_AP": last["teacher_AP"],
            "per_class": last["per_class"],
        }

    def measure(
        self, folder: Path, recipe: Recipe, spec: str | None, batch_size: int, place: Placement, autocast: Autocast
    ) -> Figures:
        """Give COCO's six columns in percent and the number of images."""
        loaded = load_detector(folder)

        def open_() -> BoxData:
            data = open_boxes(spec or recipe.data, image_size=loaded.image_size, max_side=loaded.max_side)
            if data.classes != loaded.classes:
                raise ValueError(
                    f"data {data.spec!r}: expected the run's {len(loaded.classes)} classes ({first(loaded.classes)}), "
                    f"got {len(data.classes)} ({first(data.classes)})"
                )
            return data

        data = distributed.run_on_all(open_)
        figures = DetectorValidation(_scored(data, batch_size, place), data, None, autocast)(
            loaded.model.to(place.device)
        )
        return {**{name: figures[name] for name in COLUMNS}, "images": len(data.val)}


def _scored(data: BoxData, batch_size: int, place: Placement, *, alone: bool = False) -> BoxLoader:
    """The validation images, each process's part of them, or all for each."""
    return make_box_loader(
        data.val,
        batch_size=batch_size,
        short_side=data.image_size,
        max_side=data.max_side,
        hflip=False,
        seed=0,
        shuffle=False,
        device=place.device,
        workers=place.workers,
        rank=0 if alone else distributed.rank(),
        world=1 if alone else distributed.world_size(),
    )


def make(recipe: Recipe) -> Detection:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    return Detection(recipe.task_options)
