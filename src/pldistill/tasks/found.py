"""What a detector finds in the validation pictures, and COCO's figures of it."""

from __future__ import annotations

import torch

from pldistill import distributed
from pldistill.data import BoxData, BoxLoader
from pldistill.models.detector import Detector
from pldistill.tasks import Autocast, Figures
from pldistill.tasks.coco_metric import CocoFigures, coco_figures
from pldistill.types import Detections


class DetectorValidation:
    """Measures a detector on the validation split; the teacher once, and its figure is kept.

    Each of several processes looks at its part of the pictures, and all have the figures of the whole.
    """

    def __init__(self, loader: BoxLoader, data: BoxData, teacher: Detector | None, autocast: Autocast) -> None:
        self.loader = loader
        self.data = data
        self.teacher = teacher
        self.autocast = autocast
        self._teacher_figure: float | None = None

    def __call__(self, net: Detector) -> Figures:
        """Give AP, AP50, AP75, APs, APm and APl in percent, per_class AP by name, and the teacher's teacher_AP.

        What there is nothing to find of is None, and so is teacher_AP without a teacher.
        """
        if self.teacher is not None and self._teacher_figure is None:
            self._teacher_figure = self._figures(self.teacher).overall["AP"]
        found = self._figures(net)
        names = zip(self.data.classes, found.by_class, strict=True)
        return {
            **found.overall,
            "per_class": {name: columns["AP"] for name, columns in names},
            "teacher_AP": self._teacher_figure,
        }

    @torch.no_grad()
    def _figures(self, net: Detector) -> CocoFigures:
        was_training = net.training
        net.eval()
        found: dict[int, Detections] = {}
        for batch in self.loader.epoch(0):
            with self.autocast():
                answers = net.detect(batch.images, batch.sizes)
            for number, each in zip(batch.ids.tolist(), answers, strict=True):
                found[number] = Detections(each.boxes.float().cpu(), each.labels.cpu(), each.scores.float().cpu())
        net.train(was_training)
        whole = {number: each for part in distributed.gather(found) for number, each in part.items()}
        return coco_figures(whole, self.data.val, len(self.data.classes))
