"""The demo: a good teacher runs once, and small students learn from its cached outputs, two seeds a method.

Nothing is published for these images: drawn characters at 16 pixels, 100 classes, of which the teacher has seen three
times as many as the students. Cost: under four minutes on two CPU cores. Command: `pldistill demo`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from pldistill.files import write_atomically
from pldistill.recipe import Recipe, make_recipe
from pldistill.record import RunRecord, score_in
from pldistill.reports.html import write_report
from pldistill.reports.plots import score_by_epoch
from pldistill.reports.render import FittedTable, Table, formatted, signed, spread_texts
from pldistill.reports.runs import group_runs, read_run, run_frame, wide_figures
from pldistill.studies.study import Fields
from pldistill.tasks.registry import METRICS, find_method
from pldistill.training.cache_teacher import make_teacher_cache
from pldistill.training.parallel import Job, SideBySide
from pldistill.training.progress import CacheProgress, ProgressBar
from pldistill.training.run import Run, train

SETTING: Fields = {"image_size": 16, "optimizer": "adamw", "weight_decay": 0.05}
TEACHER: Fields = {
    **SETTING,
    "student": "resnet20",
    "method": "ce",
    "lr": 0.004,
    "epochs": 8,
    "batch_size": 64,
    "warmup_epochs": 0.5,
}
# Small batches: with fewer steps the students end while some seeds are still on their first plateau.
STUDENT: Fields = {**SETTING, "student": "resnet8", "lr": 0.01, "epochs": 9, "batch_size": 32, "warmup_epochs": 1.0}
# The methods with their defaults, PLD at the paper's temperature for small images.
STUDENTS: Mapping[str, Fields] = {
    "CE": {"method": "ce"},
    "KD": {"method": "kd"},
    "DIST": {"method": "dist"},
    "PLD": {"method": "pld", "options": {"temperature": 4.0}},
    "CE + PLD": {"method": "pld", "options": {"temperature": 4.0}, "weights": {"task": 1.0}},
}
ALONE = "CE"  # the student that learns from no teacher


@dataclass(frozen=True)
class Amount:
    """How much the demo does."""

    teacher_data: str
    data: str
    seeds: int
    fields: Fields


WHOLE = Amount("glyphs:train=12000,val=2000", "glyphs:train=4000,val=2000", 2, {})
SMOKE = Amount(
    "glyphs:train=512,val=256",
    "glyphs:train=256,val=256",
    1,
    {"epochs": 2, "warmup_epochs": 0.0, "trust_teacher": True},
)


def teacher_recipe(amount: Amount) -> Recipe:
    """Give the teacher's run."""
    return make_recipe({**TEACHER, "data": amount.teacher_data, **amount.fields})


def student_recipe(name: str, seed: int, teacher: Path, store: Path, amount: Amount) -> Recipe:
    """Give a student's run: all of them alike but for the method and the seed, and shown the same crops."""
    fields = {**STUDENT, "data": amount.data, **STUDENTS[name], **amount.fields, "seed": seed, "augment_seed": 0}
    fields["views"] = fields["epochs"]
    if find_method(fields["method"]).needs_teacher:
        fields |= {"teacher": str(teacher), "teacher_cache": str(store)}
    return make_recipe(fields)


def run_demo(out: Path, *, smoke: bool, device: str, console: Console) -> list[Run]:
    """Train the rows, each in its folder below `out`, and print the table, what it shows, and what to try next.

    Rows that are finished in `out` are kept, and one that was interrupted goes on.
    """
    amount = SMOKE if smoke else WHOLE
    teacher, store = out / "teacher", out / "store"
    jobs = [
        Job(student_recipe(name, seed, teacher, store, amount), folder_of(out, name, seed))
        for name in STUDENTS
        for seed in range(amount.seeds)
    ]
    runs = train_all(teacher_recipe(amount), jobs, out, device, console)
    records = [run.record for run in runs]
    page = write_report(records, out / "report.html", title="pldistill demo")
    write_curves(records, out / "accuracy.svg", "top1")
    console.print(FittedTable(demo_table(out)))
    console.print(demo_sentence(out), highlight=False, markup=False)
    own, teaches = "pldistill train --data folder:PATH --student", "--teacher runs/teacher --method pld"
    for name, text in (
        ("report", str(page)),
        ("image", str(out / "accuracy.svg")),
        ("yours", f"{own} resnet50 --method ce --out runs/teacher"),
        ("", f"{own} resnet18 {teaches} --out runs/student"),
    ):
        console.print(f"{name:<8} {text}", highlight=False, markup=False, soft_wrap=True)
    return runs


def write_curves(records: Sequence[RunRecord], file: Path, metric: str) -> None:
    """Draw the metric by epoch, a line a run."""
    image = score_by_epoch(group_runs(records), metric)
    assert image is not None  # every row is finished
    write_atomically(file, image.encode())


def train_all(
    teacher: Recipe, jobs: Sequence[Job], out: Path, device: str, console: Console, **cache: Any
) -> list[Run]:
    """Train the teacher, make the cache that students name, train these: those alone beside it, if a core is free.

    Args:
        teacher: its run, in `out/teacher`.
        jobs: the students' runs.
        out: the demo's folder.
        cache: places and temperature, as `cache_teacher`.

    Returns:
        The teacher's run and the students', finished.
    """
    waiting = [job for job in jobs if not RunRecord(job.folder).finished]
    alone = [job for job in waiting if job.recipe.teacher is None]
    taught = [job for job in waiting if job.recipe.teacher is not None]
    stored = next((job.recipe for job in jobs if job.recipe.teacher_cache is not None), None)
    console.print(f"students: {len(jobs)} runs", highlight=False)
    for job in jobs:
        if job not in waiting:
            _show(RunRecord(job.folder), console)
    with SideBySide(device) as runs, torch_threads(runs.threads):
        if runs.count > 1 and alone:
            console.print(f"beside the teacher: {len(alone)} students that have none", highlight=False)
            runs.begin(alone, in_turn=True)
        run = _train(teacher, out / "teacher", device, console)
        if stored is not None:
            make_teacher_cache(stored, device=device, callback=CacheProgress(console), **cache)
        runs.begin(taught if runs.count > 1 else [*alone, *taught])
        console.print(f"students: {runs.count} at a time", highlight=False)
        runs.wait(lambda record: _show(record, console))
    return [run, *(Run(RunRecord(job.folder)) for job in jobs)]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads: more than its cores, beside another process, cost it ten times its time."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a student's run lies."""
    return out / f"{name.lower().replace(' ', '')}-seed{seed}"


def _show(record: RunRecord, console: Console) -> None:
    result = record.read_result()
    assert result is not None
    score, value = score_in(result)
    figure = f"{METRICS[score].short} {METRICS[score].show(value, 5)}"
    console.print(f"  {record.folder.name:<24} {figure}  {result['seconds']:.0f} s", highlight=False)


def rows_of(out: Path, names: Iterable[str] = STUDENTS, seeds: int = WHOLE.seeds) -> dict[str, list[RunRecord]]:
    """The students' finished records by row, of the first seeds."""
    found = {}
    for name in names:
        folders = (folder_of(out, name, seed) for seed in range(seeds))
        found[name] = [record for record in map(RunRecord, folders) if record.finished]
    return found


FIGURES = {"top1": "top1_last", "agreement": "agreement_last", "seconds": "seconds"}


def demo_figures(
    out: Path,
    names: Iterable[str] = STUDENTS,
    figures: Mapping[str, str] = FIGURES,
    seeds: int = WHOLE.seeds,
) -> pd.DataFrame:
    """A line for the teacher and each row with finished runs in `out`: their figures' means and deviations, and `n`."""
    records = {"teacher": [RunRecord(out / "teacher")], **rows_of(out, names, seeds)}
    runs = [(name, read_run(record)) for name in records for record in records[name] if record.finished]
    frame = run_frame(run for _, run in runs).assign(row=[name for name, _ in runs])
    lines = wide_figures(frame, "row", figures).assign(n=frame.groupby("row").size())
    return lines.reindex([name for name in records if name in lines.index])


def demo_table(out: Path) -> Table:
    """The demo's table, from the records in `out`."""
    lines = demo_figures(out)
    students = lines.index != "teacher"
    over = (lines["top1_mean"] - lines["top1_mean"].get(ALONE, math.nan)).where(students & (lines.index != ALONE))
    cells = {
        "": ["teacher, ResNet-20" if name == "teacher" else f"ResNet-8, {name}" for name in lines.index],
        "top-1 (%)": spread_texts(lines["top1_mean"], lines["top1_std"], 2),
        f"over {ALONE}": [signed(gain, 2) for gain in over],
        "agrees with the teacher (%)": formatted(lines["agreement_mean"].where(students), ".2f"),
        "seconds": formatted(lines["seconds_mean"], ".0f"),
        "n": [str(n) for n in lines["n"]],
    }
    return Table.of(pd.DataFrame(cells))


def demo_sentence(out: Path) -> str:
    """What the table shows, in a sentence."""
    means = demo_figures(out)["top1_mean"].drop("teacher")
    gains = means.drop(ALONE) - means[ALONE]
    best = gains.idxmax()
    others = "" if best == "PLD" else f" (by PLD {gains['PLD']:.1f})"
    return (
        f"The same small network, shown the same images, gets {gains[best]:.1f} points more right "
        f"when it learns from the teacher by {best}{others} than when it learns from the labels alone."
    )


def _train(row: Recipe, folder: Path, device: str, console: Console) -> Run:
    resume = RunRecord(folder).begun
    bar = ProgressBar(console, row.task_spec.samples)
    return train(row, out=folder, resume=resume, device=device, callback=bar, keep="last")
