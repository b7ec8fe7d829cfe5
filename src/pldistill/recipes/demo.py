"""The demo: a teacher and four students on embedded pictures.

Nothing is published for these pictures; the demo shows the whole path, not a ranking of methods.
Cost: under five minutes on two CPU cores. Command: `pldistill demo`.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pldistill.analysis.figures import score_by_epoch
from pldistill.analysis.groups import group_runs
from pldistill.analysis.report import write_report
from pldistill.analysis.tables import rich_table, rows_of
from pldistill.methods import find
from pldistill.progress import Terminal
from pldistill.recipe import Recipe, make_recipe
from pldistill.recipe import smoke as shrink
from pldistill.record import RunRecord, write_atomically
from pldistill.runs import Run, train

DATA = "glyphs:train=5000,val=1000"
# AdamW and small batches: in so few epochs SGD would leave the students near chance.
SETTING = {
    "data": DATA,
    "epochs": 5,
    "batch_size": 24,
    "optimizer": "adamw",
    "lr": 0.002,
    "warmup_epochs": 0.5,
    "weight_decay": 0.05,
}
TEACHER = make_recipe({**SETTING, "student": "resnet20", "method": "ce"})
STUDENTS = ("ce", "kd", "dist", "pld")


def student_recipe(method: str, teacher: Path) -> Recipe:
    """Give a student's row: all of them alike but for the method, each with its published weights."""
    asked = str(teacher) if find(method).needs_teacher else None
    return make_recipe({**SETTING, "student": "resnet8", "method": method, "teacher": asked})


def run_demo(out: Path, *, smoke: bool, device: str, console: Console) -> list[Run]:
    """Train the rows, each in its folder below `out`, and print the table, the report's path and what to try next.

    Rows that are finished in `out` are kept, and one that was interrupted goes on.
    """
    runs = [_train(TEACHER, out / "teacher", smoke, device, console)]
    for method in STUDENTS:
        row = student_recipe(method, out / "teacher")
        runs.append(_train(row, out / f"student-{method}", smoke, device, console))
    records = [run.record for run in runs]
    page = write_report(records, out / "report.html", title="pldistill demo")
    groups = group_runs(records)
    picture = score_by_epoch(groups)
    assert picture is not None  # every row is finished
    write_atomically(out / "accuracy.svg", picture.encode())
    console.print()
    console.print(rich_table(rows_of(groups)))
    console.print(f"report   {page}\npicture  {out / 'accuracy.svg'}", highlight=False, soft_wrap=True)
    student = out / "student-pld"
    console.print(
        f"student  {student}: after `import pldistill`, "
        f'timm.create_model("local-dir:{student}", pretrained=True)\n'
        f"next     pldistill train --data cifar100:PATH --student resnet20 --method ce",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return runs


def _train(row: Recipe, folder: Path, smoke: bool, device: str, console: Console) -> Run:
    if smoke:
        row = shrink(row)
    return train(row, out=folder, resume=RunRecord(folder).begun, device=device, watch=Terminal(console))
