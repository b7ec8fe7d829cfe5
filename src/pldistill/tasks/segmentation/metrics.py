"""What is measured of a segmentation model: one confusion matrix of the whole validation set, at the masks' own size.

    IoU_c = M_cc / (Σ_j M_cj + Σ_i M_ic - M_cc),  M_ij the pixels of class i that are called j

A class of which the set has no pixel is *absent*: it has no IoU, and the mean is over the others. So the classes that
are averaged are the data's and not the model's; a pixel that is called such a class is missing where it belongs.
torchvision's reference gives NaN for a class that nothing is of and nothing is called, and 0 once a pixel is called it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pldistill import distributed
from pldistill.tasks.base import Autocast, Loaders
from pldistill.tasks.segmentation.dataset import MaskLoader
from pldistill.tasks.segmentation.segmenter import LOGITS, Segmenter, upsample
from pldistill.teachers.live import Teacher
from pldistill.types import IGNORED


def confusion(truth: Tensor, answers: Tensor, classes: int) -> Tensor:
    """`(C, C)` int64: how many pixels of class i (row) are called j (column); those of no class are left out."""
    kept = truth != IGNORED
    return torch.bincount(truth[kept] * classes + answers[kept], minlength=classes**2).view(classes, classes)


def figures_of(matrix: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """miou and pixel_accuracy in percent, per_class IoU by name, and the classes that are absent.

    None where there is no pixel to be right about.
    """
    matrix = matrix.double()
    hits, truth = matrix.diagonal(), matrix.sum(1)
    union = truth + matrix.sum(0) - hits
    present = truth > 0
    iou = 100 * hits / union.clamp(min=1)
    values = [value if there else None for value, there in zip(iou.tolist(), present.tolist(), strict=True)]
    return {
        "miou": iou[present].mean().item() if present.any() else None,
        "pixel_accuracy": 100 * (hits.sum() / truth.sum()).item() if present.any() else None,
        "per_class": dict(zip(names, values, strict=True)),
        "absent_classes": [name for name, value in zip(names, values, strict=True) if value is None],
    }


class MaskValidation:
    """Measures a model on the validation images, and on the held-out ones where some are; the teacher once.

    Each of several processes looks at its part of the images, and all have the figures of the whole.
    """

    def __init__(self, loaders: Loaders, names: Sequence[str], teacher: Teacher | None, autocast: Autocast) -> None:
        self.loaders, self.names, self.autocast = loaders, tuple(names), autocast
        self.teacher = None if teacher is None else teacher.members[0].model
        self._teacher_figure: float | None = None

    @torch.no_grad()
    def __call__(self, model: Segmenter) -> dict[str, Any]:
        """Give what `figures_of` gives, val_loss in nats a pixel, teacher_miou and holdout_miou."""
        if self.teacher is not None and self._teacher_figure is None:
            assert isinstance(self.teacher, Segmenter)
            self._teacher_figure = self._measure(self.teacher, self.loaders.val)["miou"]
        figures = {**self._measure(model, self.loaders.val), "teacher_miou": self._teacher_figure}
        if self.loaders.holdout is not None:
            figures["holdout_miou"] = self._measure(model, self.loaders.holdout)["miou"]
        return figures

    def _measure(self, model: Segmenter, loader: MaskLoader) -> dict[str, Any]:
        was_training = model.training
        model.eval()
        count, device = len(self.names), model.mean.device
        matrix = torch.zeros(count, count, dtype=torch.int64, device=device)
        nats = torch.zeros((), dtype=torch.float64, device=device)
        for batch in loader.epoch(0):
            with self.autocast():
                logits = model.maps(batch.images)[LOGITS]
            logits = upsample(logits.float(), (batch.masks.shape[1], batch.masks.shape[2]))
            matrix += confusion(batch.masks, logits.argmax(dim=1), count)
            nats += functional.cross_entropy(logits, batch.masks, reduction="sum", ignore_index=IGNORED)
        model.train(was_training)
        matrix = distributed.all_reduce_sum({"pixels": matrix})["pixels"]
        nats = distributed.all_reduce_sum({"nats": nats})["nats"]
        pixels = int(matrix.sum())
        return {**figures_of(matrix, self.names), "val_loss": nats.item() / pixels if pixels else None}
