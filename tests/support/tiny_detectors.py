"""Detectors of a moment on the CPU, and scenes for them."""

import torch

from pldistill.recipe import make_recipe
from pldistill.tasks.detection.faster_rcnn import Detector, build_detector
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.types import DetectionBatch, DetectionTargets

SMALL = {
    "fpn_channels": 16,
    "head_width": 32,
    "anchor": 12,
    "rois_per_image": 16,
    "rpn_per_image": 32,
    "pre_nms": 100,
    "post_nms": 40,
    "pre_nms_eval": 60,
    "post_nms_eval": 20,
}
NET = "fasterrcnn:test_resnet"
CE = {
    "task": "detection",
    "task_options": SMALL,
    "data": "scenes:train=6,val=4",
    "student": NET,
    "method": "ce",
    "epochs": 2,
    "batch_size": 3,
    "trust_teacher": True,
}
GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def recipe(**change):
    return make_recipe({**CE, **change})


def distilled(method="pld", **change):
    return recipe(method=method, teacher=f"random:{NET}", **change)


def detector(seed=0, columns=4, options=None, **about):
    torch.manual_seed(seed)
    given = DetectionOptions(**{**SMALL, **(options or {})})
    model = build_detector("test_resnet", columns=columns, options=given)
    return Detector(model, **{**GREY, **about})


def scenes(sizes=((64, 64), (64, 96)), labels=((1, 3), (2,)), regions=None):
    generator = torch.Generator().manual_seed(1)
    images, targets = [], []
    for (height, width), own in zip(sizes, labels, strict=True):
        images.append(torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator))
        corners = torch.rand(len(own), 2, generator=generator) * 30
        boxes = torch.cat([corners, corners + 12 + 12 * torch.rand(len(own), 2, generator=generator)], dim=1)
        targets.append(DetectionTargets(boxes, torch.tensor(own, dtype=torch.int64)))
    return DetectionBatch(tuple(images), tuple(targets), torch.arange(len(images)), 0, tuple(sizes), regions)
