"""What the ImageNet tables would cost on this machine: python benchmarks/full.py [--out FILE.csv]

A few steps of every model that a row needs are timed, at 224 x 224 with 1000 classes; the rest is arithmetic over
ImageNet's 1,281,167 + 50,000 images, `pldistill.studies.estimate.seconds_of`. What a method's loss, reading and
augmenting the images cost is left out. A run that two tables share counts in the first of them alone.
"""

import argparse
import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pldistill.files import write_atomically
from pldistill.precision import resolve
from pldistill.record import environment
from pldistill.studies import STUDIES
from pldistill.studies.estimate import Job, Work, seconds_of, time_work
from pldistill.studies.study import PlannedRun, plan

TABLES = ("table2", "table3", "table4", "table5", "table6", "table8", "table9", "table10", "table11", "table12")
TRAIN, VAL, CLASSES, SIZE = 1_281_167, 50_000, 1000, 224
FIELDS = ("table", "runs", "epochs", "days", "batch_size", "amp")
MACHINE = ("device", "device_name", "cpu_capability", "cores", "threads", "torch", "timm", "commit", "dirty")


def new_runs() -> dict[str, list[PlannedRun]]:
    """Each table's runs that no earlier one has."""
    seen: set[Path] = set()
    found = {}
    for table in TABLES:
        runs = plan(STUDIES[table], out=Path("imagenet"), data="imagenet:PATH").runs
        found[table] = [cell for cell in runs if cell.folder not in seen]
        seen |= {cell.folder for cell in runs}
    return found


def job(cell: PlannedRun, batch_size: int, device: str) -> Job:
    recipe = cell.recipe
    teacher = None if recipe.teacher is None else cell.models[0]
    return Job(
        student=recipe.student,
        teacher=None if teacher is None else teacher.partition(".")[0],  # the model without its weights
        epochs=recipe.epochs,
        images=TRAIN,
        val_images=VAL,
        batch_size=batch_size,
        classes=CLASSES,
        image_size=SIZE,
        amp=resolve(recipe.amp, torch.device(device)),
        device=device,
    )


def timed(work: Work) -> float:
    seconds = time_work(work)
    print(f"{work.model}: {'learns' if work.learns else 'answers'}, {1000 * seconds:.1f} ms an image", flush=True)
    return seconds


def rows(found: dict[str, list[PlannedRun]], batch_size: int, device: str) -> Iterable[dict[str, Any]]:
    env = {name: environment(device=device, world_size=1)[name] for name in MACHINE}
    cells = [cell for runs in found.values() for cell in runs]
    seconds = iter(seconds_of([job(cell, batch_size, device) for cell in cells], timed))
    for table, runs in found.items():
        days = sum(next(seconds) for _ in runs) / 86_400
        epochs = sum(cell.recipe.epochs for cell in runs)
        amp = resolve(runs[0].recipe.amp, torch.device(device)) if runs else ""
        yield dict(zip(FIELDS, (table, len(runs), epochs, days, batch_size, amp), strict=True)) | env


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate what the ImageNet tables cost on this machine.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("full-cpu.csv"), help="the CSV to write")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a timed step")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIELDS, *MACHINE], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(new_runs(), args.batch_size, args.device))
    write_atomically(args.out, text.getvalue().encode())
    print(text.getvalue() + str(args.out))


if __name__ == "__main__":
    main()
