"""What every layout's tables are made of: sheets of grids, cells, footnotes, and the figures one by one as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pldistill.record import METRICS, RunRecord, percent, score_in
from pldistill.reports.entries import Comparison, Entry, figure
from pldistill.reports.grids import Grid
from pldistill.reports.layouts import Facts
from pldistill.reports.tables import Stat

PAPER_DIGITS = 2


@dataclass(frozen=True)
class Sheet:
    """Tables that stand together: their title, a sentence above them, and why runs failed below. Texts may be empty."""

    title: str
    said: str
    grids: tuple[Grid, ...]
    footnotes: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One column of a grid before it is turned into lines: its header and its cells of (text, bold)."""

    header: tuple[str, str]
    cells: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Board:
    """One metric's figures by (column, row): of the entries that have one, measured, and the paper's."""

    measured: Mapping[tuple[str, str], Stat]
    paper: Mapping[tuple[str, str], Stat]


def board(entries: Iterable[Entry], metric: str) -> Board:
    """Read a metric of all entries. Raises ValueError where an entry's runs may not be averaged."""
    found = {(each.column, each.name): (figure(each, metric), each.paper(metric)) for each in entries}
    return Board(
        {place: measured for place, (measured, _) in found.items() if measured},
        {place: paper for place, (_, paper) in found.items() if paper},
    )


def printed(papers: Iterable[Stat | None]) -> list[str]:
    """Published figures as the paper prints them, empty where it has none."""
    return [paper.show(PAPER_DIGITS) if paper else "" for paper in papers]


def less(figures: Mapping[tuple[str, str], Stat], first: tuple[str, str], second: tuple[str, str]) -> float | None:
    """The mean of the first place less that of the second, None where one of them has none."""
    return figures[first].mean - figures[second].mean if first in figures and second in figures else None


def signed(value: float | None, digits: int) -> str:
    """A difference with its sign; empty for none."""
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def minus(first: str, second: str) -> str:
    """What heads a difference."""
    return f"{first} \u2212 {second}"


def best(figures: Mapping[tuple[str, str], Stat], places: Sequence[tuple[str, str]], metric: str) -> float | None:
    """The highest of the means at these places, or the lowest where that is better; None unless there are two."""
    means = [figures[place].mean for place in places if place in figures]
    if len(means) < 2:
        return None
    return min(means) if METRICS[metric].lower else max(means)


def grid_of(columns: Sequence[Column]) -> Grid:
    """The columns side by side."""
    lines = tuple(zip(*(column.cells for column in columns), strict=True))
    return Grid(tuple(column.header for column in columns), lines)


def plain(texts: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """Cells without bold ones."""
    return tuple((text, False) for text in texts)


def counted(entry: Entry, mark: str) -> str:
    """Finished runs, or finished/planned; empty where nothing was begun and nothing failed."""
    done = len(entry.finished)
    if not entry.records and not mark:
        return ""
    return str(done) if done >= entry.planned else f"{done}/{entry.planned}"


def failure_marks(entries: Iterable[Entry], form: str) -> dict[Entry, str]:
    """A numbered mark for each entry in which a run failed; `form` is `({})`, say."""
    failed = [each for each in entries if each.failures]
    return {each: form.format(number) for number, each in enumerate(failed, start=1)}


def footnotes(marks: Mapping[Entry, str], *, columns: bool = False) -> tuple[str, ...]:
    """Why runs failed, a line a mark; with the column's name where the marks are of several."""
    return tuple(
        f"{mark} {f'{each.column} ' if columns else ''}{each.name}: "
        f"{len(each.failures)} of {each.planned} failed: {'; '.join(each.reasons)}"
        for each, mark in marks.items()
    )


def shared_runs(entries: Iterable[Entry]) -> list[str]:
    """A sentence for each set of entries that are the same runs under several names."""
    together: dict[tuple[str, ...], list[Entry]] = {}
    for each in entries:
        together.setdefault(tuple(str(record.folder) for record in each.records), []).append(each)
    return [
        f"{', '.join(_among(group))}: the same runs." for folders, group in together.items() if folders and group[1:]
    ]


def _among(group: Sequence[Entry]) -> list[str]:
    """Names that tell the entries of a group apart."""
    one = len({each.column for each in group}) == 1
    return [each.name if one else f"{each.name} ({each.column})" for each in group]


def facts_of(comparison: Comparison, column: str) -> Facts:
    """What the comparison was handed of a column's models; the rest from the records that are finished."""
    given = comparison.facts.get(column, Facts())
    students = [record for each in comparison.entries if each.column == column for record in each.finished[:1]]
    results = [result for record in students if (result := record.read_result())]
    student = next(iter(results), {})
    asked = next((result for result in results if result.get("teacher_parameters") is not None), {})
    record = comparison.teachers.get(column)
    teacher = (record.read_result() if record else None) or {}
    known = {
        "student_parameters": student.get("parameters"),
        "teacher_parameters": teacher.get("parameters", asked.get("teacher_parameters")),
        "teacher_top1": teacher.get("top1_last", asked.get("teacher_top1")),
    }
    return replace(given, **{name: value for name, value in known.items() if getattr(given, name) is None})


def teacher_line(record: RunRecord | None) -> str:
    """How far a teacher's run is, and its top-1 or AP."""
    if record is None:
        return "Teacher: not trained yet."
    recipe, result = record.read_recipe(), record.read_result()
    if result is None:
        return f"Teacher {recipe['student']}: unfinished, {len(record.epochs())} of {recipe['epochs']} epochs done."
    metric, figure = score_in(result)
    scored = f"{percent(figure)} {METRICS[metric].short}"
    return f"Teacher {recipe['student']}: {scored} after the last of {recipe['epochs']} epochs."


def figures_csv(comparison: Comparison, metrics: Sequence[str]) -> str:
    """A line for each entry and metric in full precision, the label in every one; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["row", "column", "variant", "metric", "mean", "std", "n", "planned", "paper", "paper_std", "label", "failed"]
    )
    for each in comparison.entries:
        for metric in metrics:
            measured = figure(each, metric)
            numbers = (measured.mean, measured.std, measured.n) if measured else (None, None, 0)
            about = [each.row, each.column, each.variant, metric]
            paper = each.published.get(metric, (None, None))
            writer.writerow([*about, *numbers, each.planned, *paper, comparison.label, "; ".join(each.reasons)])
    return out.getvalue()
