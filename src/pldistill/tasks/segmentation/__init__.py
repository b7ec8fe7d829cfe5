"""Semantic segmentation as data: its options, its defaults, its metrics; `task` has the rest."""

from __future__ import annotations

from typing import Any

from pldistill.specs import ENSEMBLE, RANDOM
from pldistill.tasks.segmentation.methods import SPECS
from pldistill.tasks.segmentation.options import SegmentationOptions
from pldistill.tasks.spec import Metric, TaskSpec

_MANY = "a pixel has one label, and an image many"


def _check(recipe: Any) -> None:
    """Refuse teachers that are no folder of a run, and relations over processes."""
    teacher = recipe.teacher or ""
    if teacher.startswith((ENSEMBLE, RANDOM)):
        raise ValueError(f"teacher: expected the folder of one segmentation run, got {teacher!r}")
    if recipe.relation == "global":
        raise ValueError("relation: expected local in segmentation, for a process may have no pixel of a class")


SPEC = TaskSpec(
    module="pldistill.tasks.segmentation.task",
    methods=SPECS,
    metrics={
        "miou": Metric(
            "mIoU",
            "intersection over union of a class's pixels, from one confusion matrix of the whole validation set, the "
            "mean over the classes that have a pixel there, in percent",
            title="mIoU",
            in_progress=True,
        ),
        "pixel_accuracy": Metric(
            "pixel accuracy", "validation pixels of a class that are given it, in percent", title="Pixel accuracy"
        ),
    },
    score="miou",
    options=SegmentationOptions,
    defaults={"batch_size": 16, "lr": 5e-3, "optimizer": "adamw", "weight_decay": 0.01, "epochs": 30},
    refused={
        "mixup": _MANY,
        "cutmix": _MANY,
        "mix_probability": _MANY,
        "repeats": "the loader shows an image once an epoch",
        "views": "the loader shows another view each epoch",
        "unlabelled": "the masks are the labels",
        "class_map": "teacher and student name the same classes",
        "teacher_checkpoint": "a teacher's folder has its weights",
        "teacher_cache": "of maps none is made yet",
        "pretrained": "no weights are fetched; student_checkpoint takes a file",
    },
    check=_check,
    sources="pldistill.tasks.segmentation.sources:MASK_SOURCES",
    own_sources=("masks", "shapes"),
    models="lraspp_mobilenet_v3_large, deeplabv3_mobilenet_v3_large, deeplabv3_resnet50 and fcn_resnet50 of "
    "torchvision, without weights; lraspp:BACKBONE, the LR-ASPP head on any model of timm that gives maps",
    scored_at_once=16,
    predictions="masks",
)
