"""A comparison that is fair to every method: each one's options and scale are chosen on held-out images, then seeds.

For each teacher (a column) and each row the axes are searched one after the other with seed 0: every value of the first
axis, then, at its best one, every value of the second, and so on. While the best value is at an edge of an axis that
grows, the next one beyond is tried. What is best on the held-out images is then run with the other seeds; the test
images have no say. Every teacher runs once: all runs, of all seeds, read one teacher cache of its answers and see the
same augmented views of the images, so that what differs is the loss.

Several processes may work on one search at the same time: each takes rows that no other one has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pldistill.recipe import make_recipe
from pldistill.reports.comparison import Comparison, Entry, Verdicts
from pldistill.specs import unknown
from pldistill.studies.study import Fields, PlannedRun, narrowed, recipe_hash, scaled
from pldistill.tasks.registry import find_method

if TYPE_CHECKING:
    from pldistill.training.cache_teacher import CacheCallback
    from pldistill.training.progress import StudyProgress


SCALE = "scale"  # an axis: the factor on all of a method's weights, the task's too
TERM = "term"  # an axis: the factor on the method's own terms alone
_WAIT = 2.0  # seconds between two looks at what other processes have


@dataclass(frozen=True)
class Axis:
    """What is varied: an option of the method, the scale of its whole loss, or the weight of its own terms.

    Attributes:
        name: of the option, or `SCALE`, or `TERM`.
        values: tried in any case, ascending.
        grow: the factor by which the next value beyond an edge differs, 0 for none.
        least, most: how far it grows.
    """

    name: str
    values: tuple[float, ...]
    grow: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def beyond(self, tried: Sequence[float], best: float) -> float | None:
        """The next value to try, None where the best is no edge or the axis ends there."""
        if not self.grow:
            return None
        if best == max(tried) and best * self.grow <= self.most:
            return best * self.grow
        if best == min(tried) and best / self.grow >= self.least:
            return best / self.grow
        return None


WHOLE_LOSS = Axis(SCALE, (1.0, 4.0), grow=4.0, most=64.0)
OWN_TERMS = Axis(TERM, (1.0, 4.0), grow=4.0, most=64.0)


@dataclass(frozen=True)
class Row:
    """A method with what is fixed of it and what is searched."""

    fields: Fields
    axes: tuple[Axis, ...] = (WHOLE_LOSS,)


@dataclass(frozen=True)
class Size:
    """How much of a search is done.

    Attributes:
        label: what every table of it must say; empty for the whole.
        data: of the students, None where the user names it.
        setting: fields of the students' recipes, over the search's own.
        teachers: column to fields of its teacher's recipe.
        views: augmented versions of each image.
        seeds: runs of what was chosen.
        first: whether of each axis the first two values are tried, and no others.
    """

    data: str | None
    teachers: Mapping[str, Fields]
    views: int
    label: str = ""
    setting: Fields = field(default_factory=dict)
    seeds: int = 3
    first: bool = False


@dataclass(frozen=True)
class Search:
    """Methods, each at its best, from each of several teachers."""

    name: str
    title: str
    protocol: str
    data: str
    student: str
    rows: Mapping[str, Row]
    setting: Fields
    sizes: Mapping[str, Size]
    reference: str = "kd"
    validation: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A search with what the user chose, and where it lies."""

    search: Search
    size: Size
    out: Path
    data: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: int

    def teacher(self, column: str) -> PlannedRun:
        """The run of a column's teacher."""
        fields = {"data": self.data, "method": "ce", "seed": 0, **self.size.teachers[column]}
        recipe = make_recipe(fields)
        folder = self.out / "teachers" / f"{column}-{recipe_hash(recipe)}"
        return PlannedRun("teacher", column, 1.0, (None, recipe.student), recipe, folder)

    def store(self, column: str) -> Path:
        """The folder of a column's cached outputs."""
        return self.out / "stores" / f"{self.teacher(column).folder.name}-views{self.size.views}"

    def cell(self, column: str, row: str, values: Mapping[str, float], seed: int) -> PlannedRun:
        """One run: a row with a value on each of its axes."""
        own = self.search.rows[row].fields
        chosen = {name: value for name, value in values.items() if name not in (SCALE, TERM)}
        fields = {**self.search.setting, **self.size.setting, **own}
        fields |= {"options": {**own.get("options", {}), **chosen}, "data": self.data, "student": self.search.student}
        fields |= {"seed": seed, "augment_seed": 0, "views": self.size.views}
        teacher = self.teacher(column)
        needs = find_method(fields["method"]).needs_teacher
        if needs:
            fields |= {"teacher": str(teacher.folder), "teacher_cache": str(self.store(column))}
        recipe = make_recipe(fields)
        factor = values.get(SCALE, 1.0)
        recipe = scaled(scaled(recipe, factor), values.get(TERM, 1.0), task=False)
        name = "-".join([row, *(f"{axis}{value:g}" for axis, value in values.items()), f"seed{seed}"])
        # What asks no teacher is the same from every one, and run once.
        place = column if needs else "no-teacher"
        folder = self.out / "cells" / place / f"{name}-{recipe_hash(recipe, teacher.recipe if needs else None)}"
        return PlannedRun(
            row, column, factor, (teacher.models[1], recipe.student), recipe, folder, teacher if needs else None
        )

    def axes(self, row: str) -> tuple[Axis, ...]:
        """A row's axes, as far as this size goes."""
        axes = self.search.rows[row].axes
        return tuple(replace(axis, values=axis.values[:2], grow=0.0) for axis in axes) if self.size.first else axes

    def searched(self, column: str, row: str) -> tuple[list[dict[str, float]], dict[str, float] | None]:
        """What was tried of a row with seed 0 as far as records tell, and what is next.

        The second is None where the search is at its end; then the first begins with what was chosen.
        """
        axes, tried = self.axes(row), []
        best = {axis.name: axis.values[0] for axis in axes}
        if not axes:
            return ([], best) if self._score(column, row, best) is None else ([best], None)
        for axis in axes:
            values = list(axis.values)
            while True:
                for value in values:
                    point = {**best, axis.name: value}
                    if point not in tried:
                        if self._score(column, row, point) is None:
                            return tried, point
                        tried.append(point)
                score = {value: self._score(column, row, {**best, axis.name: value}) or 0.0 for value in values}
                top = max(values, key=lambda value: score[value])
                further = axis.beyond(values, top)
                if further is None:
                    break
                values.append(further)
            best[axis.name] = top
        return [best, *(point for point in tried if point != best)], None

    def _score(self, column: str, row: str, point: Mapping[str, float]) -> float | None:
        """Top-1 on the held-out images, below any other for a run that failed; None for one to be made."""
        cell = self.cell(column, row, point, 0)
        result = cell.record.read_result()
        if result is None:
            return -1.0 if self.mark(cell).is_file() else None
        return result["holdout_last"]

    def mark(self, cell: PlannedRun) -> Path:
        """Where it is written why a run failed."""
        return self.out / "failures" / f"{cell.folder.name}.txt"

    def left(self, column: str, row: str) -> PlannedRun | None:
        """The next run of a row, None where all are done."""
        tried, point = self.searched(column, row)
        if point is not None:
            return self.cell(column, row, point, 0)
        for seed in range(1, self.seeds):
            cell = self.cell(column, row, tried[0], seed)
            if not cell.record.finished and not self.mark(cell).is_file():
                return cell
        return None


def lay_out(
    search: Search,
    *,
    out: Path,
    scale: str = "full",
    data: str | None = None,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: int | None = None,
) -> Job:
    """Fix what a search is run on. Nothing is read or written.

    Raises:
        ValueError: for a name that the search has not, or data that nobody named.
    """
    if scale not in search.sizes:
        raise ValueError(unknown("scale", scale, search.sizes))
    size = search.sizes[scale]
    for kind, names, known in (("pair", columns, size.teachers), ("method", rows, search.rows)):
        for name in names:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
    spec = data or size.data
    if spec is None:
        raise ValueError(f"data: expected the images for scale {scale!r}, as {search.data}:PATH, got none")
    if data is not None:
        spec = narrowed(spec, validation=search.validation)
    whole = tuple(name for name in search.rows if not rows or name in rows)
    return Job(search, size, out, spec, tuple(columns) or tuple(size.teachers), whole, seeds or size.seeds)


def run_search(
    job: Job,
    *,
    callback: StudyProgress,
    cache_callback: CacheCallback,
    device: str = "auto",
    workers: int = 2,
    download: bool = False,
) -> Comparison:
    """Make every run that is not finished, then write the table and the page.

    Raises:
        Interrupted: after SIGINT or SIGTERM, with the state saved; the same call goes on.
    """
    from filelock import FileLock, Timeout

    how = {"device": device, "workers": workers, "download": download}
    locks = job.out / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    for column in job.columns:
        with FileLock(locks / f"{column}.lock"):
            _prepare(job, column, callback=callback, cache_callback=cache_callback, **how)
    for mark in (job.out / "failures").glob("*.txt"):
        mark.unlink(missing_ok=True)  # what failed before is tried again
    callback.open(sum(len(axis.values) for _, row in _pairs(job) for axis in job.axes(row)))
    try:
        waiting = list(_pairs(job))
        while waiting:
            begun = len(waiting)
            for column, row in list(waiting):
                # What needs no teacher is one run for all columns, so its row is taken whole.
                lock = FileLock(locks / f"{_place(job, column, row)}.lock", blocking=False)
                try:
                    with lock:
                        while (cell := job.left(column, row)) is not None:
                            _make(job, cell, callback, how)
                except Timeout:
                    continue  # another process has it
                waiting.remove((column, row))
            if len(waiting) == begun:
                time.sleep(_WAIT)
    finally:
        callback.close()
    return write(job, page=True)


def _pairs(job: Job) -> Iterator[tuple[str, str]]:
    return ((column, row) for row in job.rows for column in job.columns)


def _place(job: Job, column: str, row: str) -> str:
    return job.cell(column, row, {}, 0).folder.parent.name + "-" + row


def _prepare(job: Job, column: str, *, callback: StudyProgress, cache_callback: CacheCallback, **how: Any) -> None:
    """Train a column's teacher and ask it once."""
    from pldistill.training.cache_teacher import make_teacher_cache
    from pldistill.training.run import train

    teacher = job.teacher(column)
    if not teacher.record.finished:
        callback.open(1)
        try:
            train(
                teacher.recipe, out=teacher.folder, resume=teacher.record.begun, callback=callback, keep="last", **how
            )
            callback.close_cell(f"{column} {teacher.name}", teacher.record.read_result(), None)
        finally:
            callback.close()
    cells = [job.cell(column, row, {}, 0) for row in job.rows]
    for cell in [cell for cell in cells if cell.recipe.teacher_cache is not None][:1]:
        make_teacher_cache(cell.recipe, callback=cache_callback, **how)


def _make(job: Job, cell: PlannedRun, callback: StudyProgress, how: Mapping[str, Any]) -> None:
    from pldistill.studies.runner import FAILURES, mark_failure
    from pldistill.training.run import train

    failure = None
    try:
        train(cell.recipe, out=cell.folder, resume=cell.record.begun, callback=callback, keep="last", **how)
    except FAILURES as error:
        failure = mark_failure(job.mark(cell), error)
    callback.close_cell(cell.folder.name.rpartition("-")[0], cell.record.read_result(), failure)
    write(job)


def compare(job: Job) -> Comparison:
    """The table from the records that are there."""
    entries, chosen = [], {}
    for column in job.columns:
        for row in job.rows:
            tried, ahead = job.searched(column, row)
            if tried and ahead is None:
                chosen[column, row] = variant(job, row, tried[0])
            for point in tried:
                seeds = range(job.seeds) if ahead is None and point is tried[0] else range(1)
                cells = [job.cell(column, row, point, seed) for seed in seeds]
                marks = {cell.recipe.seed: job.mark(cell) for cell in cells if not cell.record.finished}
                failed = tuple(
                    f"seed {seed}: {mark.read_text(encoding='utf-8')}" for seed, mark in marks.items() if mark.is_file()
                )
                records = tuple(cell.record for cell in cells if cell.record.begun)
                entries.append(Entry(row, column, records, len(cells), failed, variant=variant(job, row, point)))
    if not entries:
        entries = [Entry(row, column, (), job.seeds) for column in job.columns for row in job.rows]
    teachers = {column: job.teacher(column).record for column in job.columns}
    return Comparison(
        title=job.search.title,
        entries=tuple(entries),
        teachers={column: record if record.begun else None for column, record in teachers.items()},
        label=job.size.label,
        protocol=job.search.protocol,
        published_source="",
        notes=job.search.notes,
        layout=Verdicts(job.search.reference, chosen),
    )


def variant(job: Job, row: str, point: Mapping[str, float]) -> str:
    """How a table calls a point: the values of its axes."""
    named = {SCALE: "x", TERM: "term x", "temperature": "tau ", "label_weight": "floor "}
    return ", ".join(f"{named.get(axis.name, axis.name + ' ')}{point[axis.name]:g}" for axis in job.axes(row))


def write(job: Job, *, page: bool = False) -> Comparison:
    """Write the table, and with `page` the report, while no other process that works on the search does."""
    from filelock import FileLock

    (job.out / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(job.out / "locks" / "table.lock"):
        return _write(job, page)


def _write(job: Job, page: bool) -> Comparison:
    from pldistill.studies.runner import write_reports

    comparison = compare(job)
    records = [record for entry in comparison.entries for record in entry.records] if page else []
    teachers = [record for record in comparison.teachers.values() if record is not None] if page else []
    write_reports(comparison, job.out, job.search.name, [*teachers, *dict.fromkeys(records)])
    return comparison


def outline(job: Job) -> str:
    """What a search will run at least, and what is done of it."""
    lines = []
    for column, row in _pairs(job):
        tried, ahead = job.searched(column, row)
        axes = "; ".join(f"{axis.name} {', '.join(f'{value:g}' for value in axis.values)}" for axis in job.axes(row))
        state = "searching" if ahead is not None else f"chosen: {variant(job, row, tried[0]) or 'as it is'}"
        lines.append(f"{column}  {row}: {axes or 'as it is'}; then {job.seeds} seeds; {len(tried)} tried, {state}")
    return "\n".join(lines)


def least_runs(job: Job) -> list[PlannedRun]:
    """The runs that are made whatever the search finds: teachers, all first values with seed 0, one with each seed."""
    runs = {run.folder: run for run in map(job.teacher, job.columns)}
    for column, row in _pairs(job):
        tried, ahead = job.searched(column, row)
        axes = job.axes(row)
        best = tried[0] if ahead is None else {axis.name: axis.values[0] for axis in axes}
        values = [{**best, axis.name: value} for axis in axes for value in axis.values]
        points = [(point, 0) for point in [best, *tried, *values]] + [(best, seed) for seed in range(1, job.seeds)]
        for point, seed in points:
            run = job.cell(column, row, point, seed)
            named = f"{row} ({variant(job, row, point)})" if axes else row
            runs.setdefault(run.folder, replace(run, row=named, scale=1.0))
    return list(runs.values())
