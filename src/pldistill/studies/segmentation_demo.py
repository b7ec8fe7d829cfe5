"""The demo of segmentation: a teacher that has seen twice the images, students of a small network, two seeds a row.

Nothing is published for these images: drawn shapes at 64 pixels, five classes. The teacher is asked about each image as
its student sees it: of maps there is no teacher cache. Models, images and epochs were chosen on other draws
(`shapes:seed=7`) by CE, KD and CWD: 500 images the students learned by heart, and KD gave them next to nothing there.
Command: `pldistill demo --task segmentation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console

from pldistill.recipe import Recipe, make_recipe
from pldistill.reports.html import write_report
from pldistill.reports.render import FittedTable, Table, signed, spread_texts
from pldistill.studies.demo import ALONE, Amount, demo_figures, folder_of, train_all, write_curves
from pldistill.studies.study import Fields
from pldistill.tasks.registry import find_method
from pldistill.training.parallel import Job
from pldistill.training.run import Run

SETTING: Fields = {"task": "segmentation", "amp": "off"}
TEACHER: Fields = {
    **SETTING,
    "student": "lraspp:resnet10t",
    "method": "ce",
    "lr": 0.003,
    "warmup_epochs": 0.5,
    "epochs": 12,
}
STUDENT: Fields = {**SETTING, "student": "lraspp:test_resnet", "warmup_epochs": 1.0, "epochs": 14}
# The methods with the task's defaults: a cross-entropy at full size beside each, with weight 1.
STUDENTS: Mapping[str, Fields] = {
    "CE": {"method": "ce"},
    "CE + KD": {"method": "kd"},
    "CE + CWD": {"method": "cwd"},
    "CE + DIST": {"method": "dist"},
    "CE + PLD": {"method": "pld"},
}
WHOLE = Amount("shapes:train=2000,val=300", "shapes:train=1000,val=300", 2, {})
SMOKE = Amount(
    "shapes:train=32,val=16",
    "shapes:train=16,val=16",
    1,
    {"epochs": 2, "batch_size": 8, "warmup_epochs": 0.0, "trust_teacher": True},
)
FIGURES = {"miou": "miou_last", "accuracy": "pixel_accuracy_last"}


def teacher_recipe(amount: Amount, fields: Fields = TEACHER) -> Recipe:
    """Give the teacher's run."""
    return make_recipe({**fields, "data": amount.teacher_data, **amount.fields})


def student_jobs(out: Path, amount: Amount, fields: Fields = STUDENT) -> list[Job]:
    """The students' runs: all of them alike but for the method and the seed, and shown the same crops and flips."""
    jobs = []
    for name in STUDENTS:
        for seed in range(amount.seeds):
            own = {**fields, "data": amount.data, **STUDENTS[name], **amount.fields, "seed": seed, "augment_seed": 0}
            if find_method(own["method"], "segmentation").needs_teacher:
                own["teacher"] = str(out / "teacher")
            jobs.append(Job(make_recipe(own), folder_of(out, name, seed)))
    return jobs


def run_demo(out: Path, *, smoke: bool, device: str, console: Console) -> list[Run]:
    """Train the rows, each in its folder below `out`, and print the table, what it shows, and what to try next.

    Rows that are finished in `out` are kept, and one that was interrupted goes on.
    """
    amount = SMOKE if smoke else WHOLE
    runs = train_all(teacher_recipe(amount), student_jobs(out, amount), out, device, console)
    records = [run.record for run in runs]
    page = write_report(records, out / "report.html", title="pldistill demo: segmentation")
    write_curves(records, out / "miou.svg", "miou")
    console.print(FittedTable(demo_table(out)))
    console.print(demo_sentence(out), highlight=False, markup=False)
    own = "pldistill train --task segmentation --data masks:PATH --student"
    for name, text in (
        ("report", f"{page} (with what the models say of some images)"),
        ("image", str(out / "miou.svg")),
        ("yours", f"{own} deeplabv3_resnet50 --method ce --out runs/teacher"),
        ("", f"{own} lraspp:mobilenetv3_small_050 --teacher runs/teacher --method kd --out runs/student"),
    ):
        console.print(f"{name:<8} {text}", highlight=False, markup=False, soft_wrap=True)
    return runs


def demo_table(out: Path, seeds: int = WHOLE.seeds) -> Table:
    """The table of the teacher and `STUDENTS`, from the records in `out`."""
    lines = demo_figures(out, STUDENTS, FIGURES, seeds)
    over = (lines["miou_mean"] - lines["miou_mean"].get(ALONE, math.nan)).where(~lines.index.isin(["teacher", ALONE]))
    cells = {
        "": ["teacher" if name == "teacher" else f"student, {name}" for name in lines.index],
        "mIoU (%)": spread_texts(lines["miou_mean"], lines["miou_std"], 2),
        f"over {ALONE}": [signed(gain, 2) for gain in over],
        "pixel accuracy (%)": spread_texts(lines["accuracy_mean"], lines["accuracy_std"], 2),
        "n": [str(n) for n in lines["n"]],
    }
    return Table.of(pd.DataFrame(cells))


def demo_sentence(out: Path) -> str:
    """What the table shows, in a sentence; that no method helped where none did."""
    means = demo_figures(out, STUDENTS, FIGURES)["miou_mean"].drop("teacher")
    gains = (means - means[ALONE]).drop(ALONE)
    best, pld = gains.idxmax(), "CE + PLD"
    if gains[best] <= 0:
        return (
            f"No method helped here: the best, {best}, has {-gains[best]:.1f} points of mIoU less than {ALONE} alone."
        )
    others = "" if best == pld else f" (by {pld} {signed(gains[pld], 1)})"
    return (
        f"The same small network, shown the same images, has {gains[best]:.1f} points of mIoU more when it learns from "
        f"the teacher by {best}{others} than when it learns from the masks alone."
    )
