"""What each task may be told and what it refuses, as data, so that a recipe knows before any image is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pldistill.methods.spec import Option, fill
from pldistill.specs import unknown


@dataclass(frozen=True)
class TaskSpec:
    """A task by name.

    Attributes:
        options: every option with its default.
        defaults: fields of a recipe whose default is another in this task.
        refused: fields of a recipe that say nothing here, each with why.
        check: looks at the options' values.
    """

    options: Mapping[str, Option] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, Option]], None] = lambda options: None

    def complete(self, given: Mapping[str, Option]) -> dict[str, Option]:
        """Fill `given` up with the defaults; each value takes the type of its default.

        Raises:
            ValueError: for an option that the task has not, or a value that it cannot have.
        """
        filled = fill("task option", self.options, given)
        self.check(filled)
        return filled


NORMS = ("batch", "frozen", "group")
UNUSED = ("drop", "keep")
# RoIs, anchors and box head as torchvision has them; 5 layers, and batch, are torchvision's for a model from
# scratch.
DETECTION: dict[str, Option] = {
    "norm": "batch",
    "trainable_layers": 5,
    "fpn_channels": 256,
    "head_width": 1024,
    "anchor": 32,
    "short_sides": "",
    "max_side": 1333,
    "rois_per_image": 512,
    "positive_fraction": 0.25,
    "background_rows": True,
    "unused_ids": "drop",
    "rpn_per_image": 256,
    "pre_nms": 2000,
    "post_nms": 2000,
    "pre_nms_eval": 1000,
    "post_nms_eval": 1000,
    "score_threshold": 0.05,
    "detections": 100,
}
_LEAST = {"trainable_layers": 0, "max_side": 8, "fpn_channels": 1, "head_width": 1, "anchor": 1, "rois_per_image": 1}
_LEAST |= dict.fromkeys(("rpn_per_image", "pre_nms", "post_nms", "pre_nms_eval", "post_nms_eval", "detections"), 1)
_ONE_IMAGE = "an RoI has one label, and an image many"


def short_sides(options: Mapping[str, Option]) -> tuple[int, int] | None:
    """The least and the largest short side in training of `640-800`; None where every image is as in evaluation.

    Raises:
        ValueError: for another text.
    """
    text = str(options["short_sides"])
    if not text:
        return None
    least, dash, most = text.partition("-")
    if not (dash and least.isdecimal() and most.isdecimal() and 8 <= int(least) <= int(most)):
        raise ValueError(f"task option short_sides: expected LEAST-MOST in pixels, as 640-800, got {text!r}")
    return int(least), int(most)


def _check_detection(options: Mapping[str, Option]) -> None:
    for name, known in (("norm", NORMS), ("unused_ids", UNUSED)):
        if options[name] not in known:
            raise ValueError(unknown(f"task option {name}", str(options[name]), known))
    for name, least in _LEAST.items():
        if int(options[name]) < least:
            raise ValueError(f"task option {name}: expected at least {least}, got {options[name]}")
    if int(options["trainable_layers"]) > 5:
        raise ValueError(f"task option trainable_layers: expected 0 to 5, got {options['trainable_layers']}")
    for name in ("positive_fraction", "score_threshold"):
        if not 0 <= float(options[name]) <= 1:
            raise ValueError(f"task option {name}: expected a number in [0, 1], got {options[name]}")
    short_sides(options)


TASKS: dict[str, TaskSpec] = {
    "classification": TaskSpec(),
    "detection": TaskSpec(
        options=DETECTION,
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
        check=_check_detection,
    ),
}
