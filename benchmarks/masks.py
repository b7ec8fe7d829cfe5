"""Segmentation on real images: a teacher, and students of every method of the demo, three seeds each.

    pip download --no-deps nilearn==0.14.1 stardist==0.9.2
    python examples/prepare_masks.py atlas nilearn-0.14.1-py3-none-any.whl data/atlas
    python examples/prepare_masks.py nuclei stardist-0.9.2-*.whl data/nuclei
    python benchmarks/masks.py atlas
    python benchmarks/masks.py nuclei

Ten minutes each on two cores, or less. The models are the demo's. Teacher and students see the same images, and have
the task's defaults but for what stands in `SETS`: nothing was chosen on the validation images, and for the nuclei the
batch alone on two held-out ones, by the teacher. docs/records/segmentation-atlas and -nuclei are made by these lines:
each run's folder without weights, checkpoints and overlays. docs/segmentation.md has the tables.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pldistill.reports.html import write_report
from pldistill.reports.render import FittedTable
from pldistill.studies.demo import Amount, train_all
from pldistill.studies.segmentation_demo import SETTING, STUDENT, TEACHER, demo_table, student_jobs, teacher_recipe
from pldistill.studies.study import Fields

SEEDS = 3


@dataclass(frozen=True)
class Size:
    """How a set is learned: fields of every run, and its epochs."""

    shown: Fields
    epochs: int


SETS = {
    "atlas": Size({"batch_size": 8, "task_options": {"crop": 128}, "warmup_epochs": 1.0}, 40),
    "nuclei": Size({"batch_size": 4, "task_options": {"crop": 96}, "warmup_epochs": 5.0}, 100),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--data", type=Path, help="default data/NAME")
    parser.add_argument("--out", type=Path, help="default runs/segmentation-NAME")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    size, out = SETS[given.name], given.out or Path("runs") / f"segmentation-{given.name}"
    data = f"masks:{given.data or Path('data') / given.name}"
    amount, shown = Amount(data, data, SEEDS, {}), {**SETTING, **size.shown}
    teacher, student = ({**shown, "student": model["student"], "epochs": size.epochs} for model in (TEACHER, STUDENT))
    console = Console()
    jobs = student_jobs(out, amount, student)
    runs = train_all(teacher_recipe(amount, {**teacher, "method": "ce"}), jobs, out, given.device, console)
    write_report([run.record for run in runs], out / "report.html", title=f"Segmentation: {given.name}")
    console.print(FittedTable(demo_table(out, SEEDS)))


if __name__ == "__main__":
    main()
