"""Run folders made by hand, so that the tests of reports know every figure in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pldistill.record import RunRecord


def make_run(
    folder: Path,
    *,
    method: str = "ce",
    top1: list[float] | None = None,
    finished: bool = True,
    seconds: float = 60.0,
    env: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    **recipe: Any,
) -> RunRecord:
    """A run whose top-1 by epoch is `top1`; `recipe`, `env` and `result` override what the run says elsewhere."""
    top1 = [10.0, 20.0] if top1 is None else top1
    run = RunRecord(folder)
    asked = {"data": "digits", "student": "resnet8", "method": method, "teacher": None, "options": {}, "seed": 0}
    asked |= {"weights": {"task": 1.0}, "epochs": len(top1), "lr": 0.05} | recipe
    run.write_recipe(asked)
    machine = {"torch": "2.4.0", "device_name": "a CPU", "world_size": 1, "teacher_sha256": None}
    run.write_environment(machine | (env or {}))
    (folder / "metrics.jsonl").unlink(missing_ok=True)  # of one that was made here before
    kl = None if asked["teacher"] is None else 0.5
    for epoch, accuracy in enumerate(top1, start=1):
        term = {"raw": 2.0 / epoch, "weighted": 2.0 / epoch}
        row = {"epoch": epoch, "lr": 0.05, "terms": {method: term}, "loss": 2.0 / epoch, "train_top1": accuracy + 1}
        row |= {"top1": accuracy, "top5": None, "val_loss": 3.0 / epoch, "kl": kl, "images_per_second": 100.0}
        row |= {"seconds": 1.0}
        run.append_epoch(row)
    if finished:
        done = {"method": method, "student": asked["student"], "teacher": asked["teacher"], "data": asked["data"]}
        done |= {"seed": asked["seed"], "epochs": len(top1), "top1_last": top1[-1], "top1_best": max(top1)}
        done |= {"best_epoch": top1.index(max(top1)) + 1, "top5_last": None, "kl_last": kl, "seconds": seconds}
        run.write_result(done | {"images_per_second": 100.0, "parameters": 77_000} | (result or {}))
    return run
