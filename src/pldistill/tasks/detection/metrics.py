"""What a detector finds in the validation images, and COCO's average precision of it, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from pldistill import distributed
from pldistill.tasks.base import Autocast, Figures
from pldistill.tasks.detection.coco import annotation_rows
from pldistill.tasks.detection.dataset import BoxData, BoxLoader, BoxSplit
from pldistill.tasks.detection.faster_rcnn import Detector
from pldistill.types import Detections

Column = dict[str, float | None]

# The library's table of precisions is by IoU (0.50, 0.55 ... 0.95), recall, class, area and number of detections.
_IOUS, _AREAS = {"AP50": 0, "AP75": 5}, {"APs": 1, "APm": 2, "APl": 3}
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class CocoFigures(NamedTuple):
    """Average precision in percent by COLUMNS, None where there is nothing to find.

    Attributes:
        overall: the mean over the classes that have something to find.
        by_class: that of label i + 1 at i.
    """

    overall: Column
    by_class: tuple[Column, ...]


def coco_figures(detections: Mapping[int, Detections], split: BoxSplit, classes: int) -> CocoFigures:
    """Score the detections of each image, by its id, in pixels of the image as it is stored.

    AP is the mean over classes and over IoU 0.50, 0.55 ... 0.95 of the precision at 101 recalls, of the 100 surest
    detections of each class in an image; AP50 and AP75 are at one IoU. APs is of objects below 32^2 pixels of area,
    APm up to 96^2, APl of larger ones; what is found of others, or in a crowd, counts neither for nor against.

    Raises:
        ValueError: not one answer for each image of the split, or labels outside 1..classes.

    Source: Lin et al. 2014, "Microsoft COCO", and its evaluation server's COCOeval.
    """
    ids = split.ids.tolist()
    if set(detections) != set(ids):
        raise ValueError(
            f"detections: expected one entry for each of the {len(ids)} images, got {len(detections)}, "
            f"{len(set(detections) - set(ids))} of other images"
        )
    found = [
        row for image_id, index in zip(split.image_ids, ids, strict=True) for row in _rows(image_id, detections[index])
    ]
    wrong = {int(row["category_id"]) for row in found} - set(range(1, classes + 1))
    if wrong:
        raise ValueError(f"detections: expected labels in 1..{classes}, got {sorted(wrong)}")
    return _figures(_precision(split, found, classes))


def _rows(image: int, detections: Detections) -> list[dict[str, Any]]:
    columns = (detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist())
    return [
        {
            "image_id": image,
            "category_id": label,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "score": score,
        }
        for (left, top, right, bottom), label, score in zip(*columns, strict=True)
    ]


def _precision(split: BoxSplit, found: list[dict[str, Any]], classes: int) -> np.ndarray:
    """`(10, 101, C, 4)`, below 0 where there is nothing to find."""
    labels = range(1, classes + 1)
    sizes = zip(split.image_ids, split.sizes.tolist(), strict=True)
    common = {
        "images": [{"id": image, "height": height, "width": width} for image, (height, width) in sizes],
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }
    # The library's own way to read detections fails in some versions where there are none.
    answers = [row | {"id": number} for number, row in enumerate(found, start=1)]
    truth, answer = (
        COCO(common | {"annotations": annotation_rows(split, labels)}),
        COCO(common | {"annotations": answers}),
    )
    scored = COCOeval_faster(truth, answer, "bbox")
    scored.evaluate()
    scored.accumulate()
    precision = scored.eval["precision"][..., -1]
    assert precision.shape == (10, 101, classes, 4)
    return precision


def _figures(precision: np.ndarray) -> CocoFigures:
    return CocoFigures(
        _columns(precision), tuple(_columns(precision[:, :, [label]]) for label in range(precision.shape[2]))
    )


def _columns(precision: np.ndarray) -> Column:
    everything = precision[..., 0]
    parts = {"AP": everything}
    parts |= {name: everything[place] for name, place in _IOUS.items()}
    parts |= {name: precision[..., place] for name, place in _AREAS.items()}
    return {name: _percent(parts[name]) for name in COLUMNS}


def _percent(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None


def _of_one_shape(images: Sequence[torch.Tensor]) -> list[list[int]]:
    """The positions of the images, those of one shape together.

    In one batch images of other shapes are filled up to the largest, and what fills them up reaches the maps beside it:
    what is found in an image would depend on what is in the batch with it.
    """
    groups: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image.shape, []).append(place)
    return list(groups.values())


class DetectorValidation:
    """Measures a detector on the validation split; the teacher once, and its figure is kept.

    Each of several processes looks at its part of the images, and all have the figures of the whole.
    """

    def __init__(self, loader: BoxLoader, data: BoxData, teacher: Detector | None, autocast: Autocast) -> None:
        self.loader = loader
        self.data = data
        self.teacher = teacher
        self.autocast = autocast
        self._teacher_figure: float | None = None

    def __call__(self, model: Detector) -> Figures:
        """Give AP, AP50, AP75, APs, APm and APl in percent, per_class AP by name, and the teacher's teacher_AP.

        What there is nothing to find of is None, and so is teacher_AP without a teacher.
        """
        if self.teacher is not None and self._teacher_figure is None:
            self._teacher_figure = self._figures(self.teacher).overall["AP"]
        found = self._figures(model)
        names = zip(self.data.classes, found.by_class, strict=True)
        return {
            **found.overall,
            "per_class": {name: columns["AP"] for name, columns in names},
            "teacher_AP": self._teacher_figure,
        }

    @torch.no_grad()
    def _figures(self, model: Detector) -> CocoFigures:
        was_training = model.training
        model.eval()
        found: dict[int, Detections] = {}
        for batch in self.loader.epoch(0):
            for places in _of_one_shape(batch.images):
                some, sizes = [batch.images[place] for place in places], [batch.sizes[place] for place in places]
                with self.autocast():
                    answers = model.detect(some, sizes)
                for place, each in zip(places, answers, strict=True):
                    boxes, scores = each.boxes.float().cpu(), each.scores.float().cpu()
                    found[int(batch.ids[place])] = Detections(boxes, each.labels.cpu(), scores)
        model.train(was_training)
        whole = {number: each for part in distributed.gather(found) for number, each in part.items()}
        return coco_figures(whole, self.data.val, len(self.data.classes))
