"""What detectors find, as plain data: in images of one's own, and in the first validation images of a run.

A box is a dict: `box` (left, top, right, bottom in pixels of the image after its EXIF orientation), `class`,
and of one that was found `score`. The best come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pldistill.data.images import open_image
from pldistill.record import RunRecord
from pldistill.tasks.detection.coco import files_for
from pldistill.tasks.detection.dataset import BoxAnnotations, BoxData, make_box_loader, resize, resized
from pldistill.tasks.detection.faster_rcnn import Detector
from pldistill.tasks.detection.weights import load_detector
from pldistill.types import Detections

# How many validation images a run leaves with what was found in them.
LEFT = 6


@torch.no_grad()
def detect(folder: Path, images: Sequence[Path | str], *, exif: bool = True) -> list[list[dict[str, Any]]]:
    """Give the boxes that the detector of a finished run finds in each image, in float32 on the CPU.

    `exif` applies the EXIF orientation of images; boxes are in pixels of the result.

    Raises:
        ValueError: for an image that is missing or cannot be read.
    """
    loaded = load_detector(folder)
    found = []
    for file in images:
        image = torch.from_numpy(np.asarray(open_image(str(file), exif=exif)).transpose(2, 0, 1).copy())
        height, width = image.shape[1:]
        shown = resize(image, *resized(height, width, loaded.image_size, loaded.max_side))
        found += [as_boxes(each, loaded.classes) for each in loaded.model.detect([shown], [(height, width)])]
    return found


@torch.no_grad()
def leave_detections(run: RunRecord, data: BoxData, student: Detector, teacher: Detector | None) -> None:
    """Write what lies in the first validation images and what both models find there, and the images themselves."""
    student.eval()
    some = data.val.subset(range(min(LEFT, len(data.val))))
    loader = make_box_loader(
        some,
        batch_size=1,
        short_side=data.image_size,
        max_side=data.max_side,
        hflip=False,
        seed=0,
        shuffle=False,
        device=student.mean.device,
    )
    files = [Path("images", name) for name in files_for(some.names, ".jpg")]
    seen = []
    for place, scene in enumerate(loader.epoch(0)):
        file = run.folder / files[place]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(some.image(place).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=92)
        models = {"student": student, "teacher": teacher}
        found = {
            name: None if model is None else as_boxes(model.detect(scene.images, scene.sizes)[0], data.classes)
            for name, model in models.items()
        }
        truth = _as_truth(some.objects(place), data.classes)
        seen.append({"file": files[place].as_posix(), "truth": truth, **found})
    run.write_detections({"images": seen})


def as_boxes(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """What was found in an image, the best first."""
    rows = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    boxes = [{"score": score, "class": classes[label - 1], "box": box} for score, label, box in rows]
    return sorted(boxes, key=lambda each: -each["score"])


def _as_truth(objects: BoxAnnotations, classes: Sequence[str]) -> list[dict[str, Any]]:
    """What lies in an image, but for crowds."""
    some = objects.at(~objects.crowd)
    rows = zip(some.labels.tolist(), some.boxes.tolist(), strict=True)
    return [{"class": classes[label - 1], "box": box} for label, box in rows]
