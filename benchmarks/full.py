"""What the ImageNet tables would cost on this machine: python benchmarks/full.py [--out FILE.csv]

A few steps of each pair of models are timed with each row's method, as `--dry-run` does it, at 224 x 224 with 1000
classes; the rest is arithmetic over ImageNet's 1,281,167 + 50,000 images. Reading and augmenting the images is left
out. A run that two tables share counts in the first of them alone.
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
from pldistill.studies.study import PlannedRun, plan
from pldistill.studies.untrained import in_words, open_or_stand_in, seconds_of, time_untrained, work_of
from pldistill.training.timing import Rates

TABLES = ("table2", "table3", "table4", "table5", "table6", "table8", "table9", "table10", "table11", "table12")
FIELDS = ("table", "runs", "epochs", "days", "budget", "amp")
MACHINE = ("device", "device_name", "cpu_capability", "cores", "threads", "torch", "timm", "commit", "dirty")


def new_runs() -> dict[str, list[PlannedRun]]:
    """Each table's runs that no earlier one has."""
    seen: set[Path] = set()
    found = {}
    for table in TABLES:
        runs = plan(STUDIES[table], out=Path("imagenet"), data="imagenet:imagenet").runs
        found[table] = [cell for cell in runs if cell.folder not in seen]
        seen |= {cell.folder for cell in runs}
    return found


def rows(found: dict[str, list[PlannedRun]], budget: float, device: str) -> Iterable[dict[str, Any]]:
    env = {name: environment(device=device, world_size=1)[name] for name in MACHINE}
    rates: dict[str, Rates] = {}
    data = open_or_stand_in(next(iter(found.values()))[0].recipe)
    for table, runs in found.items():
        for run in runs:
            if work_of(run) not in rates:
                rates[work_of(run)] = timed = time_untrained(run, data, device, budget)
                print(f"{in_words(run)}: {1000 * timed.image:.1f} ms an image", flush=True)
        days = sum(seconds_of(run, data, rates[work_of(run)]) for run in runs) / 86_400
        epochs = sum(run.recipe.epochs for run in runs)
        amp = resolve(runs[0].recipe.amp, torch.device(device)) if runs else ""
        yield dict(zip(FIELDS, (table, len(runs), epochs, days, budget, amp), strict=True)) | env


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate what the ImageNet tables cost on this machine.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("full-cpu.csv"), help="the CSV to write")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of steps of a pair, about a quarter of all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIELDS, *MACHINE], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(new_runs(), args.budget, args.device))
    write_atomically(args.out, text.getvalue().encode())
    print(text.getvalue() + str(args.out))


if __name__ == "__main__":
    main()
