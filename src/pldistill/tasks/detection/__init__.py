"""Object detection as data: its options, its defaults, its metrics; `task` has the rest."""

from __future__ import annotations

from typing import Any

from pldistill.methods import METHODS
from pldistill.specs import ENSEMBLE
from pldistill.tasks.detection.methods import specs
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.spec import Metric, TaskSpec

_ONE_IMAGE = "an RoI has one label, and an image many"


def _check(recipe: Any) -> None:
    """Refuse what a detector cannot do with its teacher and its rows."""
    if recipe.relation == "global" and not recipe.task_options["background_rows"]:
        raise ValueError("relation: expected local where background_rows is false, for a process may have no row")
    if (recipe.teacher or "").startswith(ENSEMBLE):
        raise ValueError(f"teacher: expected one model in detection, got {recipe.teacher!r}")


def _precision(short: str, meaning: str, *, title: str = "", in_progress: bool = False) -> Metric:
    return Metric(short, meaning, title=title, in_result=short, in_progress=in_progress)


SPEC = TaskSpec(
    module="pldistill.tasks.detection.task",
    methods=specs(METHODS),
    metrics={
        "AP": _precision(
            "AP",
            "COCO's average precision, the mean over IoU 0.50 to 0.95 and over classes, in percent",
            title="AP",
            in_progress=True,
        ),
        "AP50": _precision("AP50", "average precision at IoU 0.50", in_progress=True),
        "AP75": _precision("AP75", "average precision at IoU 0.75"),
        "APs": _precision("APs", "AP of objects below 32² pixels"),
        "APm": _precision("APm", "AP of objects from 32² to 96² pixels"),
        "APl": _precision("APl", "AP of objects above 96² pixels"),
    },
    score="AP",
    options=DetectionOptions,
    defaults={"batch_size": 8, "lr": 0.01, "weight_decay": 1e-4, "epochs": 12},
    refused={
        "mixup": _ONE_IMAGE,
        "cutmix": _ONE_IMAGE,
        "mix_probability": _ONE_IMAGE,
        "label_smoothing": "the detector's own losses have none",
        "repeats": "the loader shows an image once an epoch",
        "unlabelled": "the detector's own losses need boxes",
        "views": "the loader shows another view each epoch",
        "teacher_cache": "the RoIs change from step to step",
        "class_map": "RoIs are asked about in the data's own classes",
    },
    check=_check,
    sources="pldistill.tasks.detection.sources:BOX_SOURCES",
    own_sources=("coco", "scenes"),
    models="fasterrcnn:BACKBONE, Faster R-CNN with FPN on torchvision's ResNets and mobilenet_v2, "
    "or on any model of timm that gives the maps of four stages",
    scored_at_once=8,  # of photographs, at 800 x 1333 pixels, about 3 GB
    predictions="boxes",
)
