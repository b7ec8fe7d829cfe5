"""Run folders of detectors made by hand: every figure known, and images with what was found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from analysis_runs import make_run
from pldistill.record import RunRecord

BOXES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CAT = {"box": [10.0, 12.0, 60.0, 70.0], "class": "cat"}


def make_detector(folder: Path, ap: float, *, images: bool = True, **given: Any) -> RunRecord:
    """A run whose AP after its only epoch is `ap`, AP50 20 higher, and so on down the columns; no small objects."""
    result = {"AP": ap, "AP50": ap + 20, "AP75": ap + 1, "APs": None, "APm": ap + 2, "APl": ap + 3, "AP_best": ap}
    result |= {"per_class": {"cat": ap + 5, "dog": None}, "top1_last": None, "top1_best": None, "kl_last": None}
    fields = {"data": "scenes", "student": "fasterrcnn:resnet18", "task": "detection"} | given
    run = make_run(folder, top1=[0.0], result=result, **fields)
    if fields.get("finished", True):
        run.truncate(0)
        term = {"raw": 1.0, "weighted": 1.0}
        row = {"epoch": 1, "terms": {"loss_classifier": term}, "loss": 1.0, "seconds": 1.0, "images_per_second": 1.0}
        run.append_epoch({**row, **{n: result[n] for n in BOXES}})
    if images:
        leave_images(run, teacher=fields.get("teacher") is not None)
    return run


def leave_images(run: RunRecord, teacher: bool) -> None:
    """One image of 120 x 90 with a cat, which the student finds, and with a low score a second time."""
    file = run.folder / "images" / "7.jpg"
    file.parent.mkdir()
    Image.new("RGB", (120, 90), "#406080").save(file)
    found = [{**CAT, "score": 0.9}, {**CAT, "box": [0.0, 0.0, 20.0, 20.0], "score": 0.1}]
    seen = {"file": "images/7.jpg", "truth": [CAT], "student": found, "teacher": found[:1] if teacher else None}
    run.write_detections({"images": [seen]})
