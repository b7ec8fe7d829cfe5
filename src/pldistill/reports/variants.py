"""A study's table with a line a row (a variant of a method) and its figures across, a table a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pldistill.record import METRICS
from pldistill.reports.entries import Comparison, Entry
from pldistill.reports.layouts import Variants
from pldistill.reports.sheets import (
    PAPER_DIGITS,
    Board,
    Column,
    Sheet,
    best,
    board,
    counted,
    facts_of,
    failure_marks,
    figures_csv,
    footnotes,
    grid_of,
    less,
    minus,
    plain,
    printed,
    shared_runs,
    signed,
    teacher_line,
)
from pldistill.reports.tables import Stat


def variants_sheets(comparison: Comparison, layout: Variants) -> list[Sheet]:
    """A sheet a column, its teacher above the table."""
    columns = dict.fromkeys(each.column for each in comparison.entries)
    sheets = []
    for column in columns:
        entries = [each for each in comparison.entries if each.column == column]
        marks = failure_marks(entries, "({})")
        table = grid_of(list(_columns(layout, entries, marks)))
        sheets.append(Sheet(column, _teacher(comparison, column), (table,), footnotes(marks)))
    return sheets


def variants_csv(comparison: Comparison, layout: Variants) -> str:
    """A line for each entry and metric; no differences."""
    return figures_csv(comparison, layout.metrics)


def variants_notes(comparison: Comparison, layout: Variants) -> list[str]:
    """How to read the tables."""
    notes = [
        *(f"{METRICS[name].short}: {METRICS[name].meaning}." for name in layout.metrics),
        "After the last epoch, mean ± sample standard deviation over n seeds; the best is bold.",
        "n: finished runs, or finished/planned. Empty: not run, or not measured.",
    ]
    if layout.reference is not None and layout.reference in [each.name for each in comparison.entries]:
        notes.append(
            f"{minus(layout.reference, 'row')}: the difference of the means in {METRICS[layout.metrics[0]].short}."
        )
    names = [minus(*pair) for pair in _differences(layout, comparison.entries)]
    notes += [f"{', '.join(names)}: differences of the means."] if names else []
    return [*notes, *shared_runs(comparison.entries), *comparison.notes]


def _teacher(comparison: Comparison, column: str) -> str:
    """The teacher's run where it was trained here, what is known of it where it was not, and the paper's."""
    facts = facts_of(comparison, column)
    record = comparison.teachers.get(column)
    if record is None and facts.teacher_top1 is not None:
        line = f"Teacher: {facts.teacher_top1:.2f} % top-1."
    else:
        line = teacher_line(record) if column in comparison.teachers else ""
    paper = "" if facts.paper_teacher_top1 is None else f"The paper's teacher: {facts.paper_teacher_top1:.2f} %."
    return f"{line} {paper}".strip()


def _differences(layout: Variants, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Those of which both rows are in the study."""
    return [pair for pair in layout.differences if set(pair) <= {each.name for each in entries}]


def _columns(layout: Variants, entries: Sequence[Entry], marks: Mapping[Entry, str]) -> Iterator[Column]:
    """Each has a cell a row, then a cell a difference."""
    pairs = _differences(layout, entries)
    blank = [""] * len(pairs)
    yield Column(("", "method"), plain([*(each.name for each in entries), *(minus(*pair) for pair in pairs)]))
    boards = {metric: board(entries, metric) for metric in layout.metrics}
    first = layout.metrics[0]
    for metric, figures in boards.items():
        yield from _metric(metric, figures, entries, marks if metric == first else {}, pairs)
    if layout.reference is not None and layout.reference in [each.name for each in entries]:
        for column in _over(layout.reference, METRICS[first].digits, boards[first], entries):
            yield Column(column.header, (*column.cells, *plain(blank)))
    counts = [_count(each, boards[first], marks.get(each, "")) for each in entries]
    yield Column(("measured", "n"), plain([*counts, *blank]))


def _metric(
    metric: str,
    figures: Board,
    entries: Sequence[Entry],
    marks: Mapping[Entry, str],
    pairs: Sequence[tuple[str, str]],
) -> Iterator[Column]:
    """Measured, with the word for what failed in it, and the paper's where it has some; the differences below."""

    def below(known: Mapping[tuple[str, str], Stat], digits: int) -> list[str]:
        column = entries[0].column
        return [signed(less(known, (column, first), (column, second)), digits) for first, second in pairs]

    places = [(each.column, each.name) for each in entries]
    highest = best(figures.measured, places, metric)
    cells = []
    for each, place in zip(entries, places, strict=True):
        stat, mark = figures.measured.get(place), marks.get(each, "")
        failed = f"failed {mark}" if mark and not each.finished else ""
        text = stat.show(METRICS[metric].digits) if stat else failed
        cells.append((text, stat is not None and stat.mean == highest))
    cells += plain(below(figures.measured, METRICS[metric].digits))
    yield Column(("measured", METRICS[metric].short), tuple(cells))
    papers = [figures.paper.get(place) for place in places]
    if any(papers):
        texts = [*printed(papers), *below(figures.paper, PAPER_DIGITS)]
        yield Column(("paper", METRICS[metric].short), plain(texts))


def _over(reference: str, digits: int, figures: Board, entries: Sequence[Entry]) -> Iterator[Column]:
    """The reference's figure less each other's."""
    for whose, known, shown in (("measured", figures.measured, digits), ("paper", figures.paper, PAPER_DIGITS)):
        values = [
            None if each.name == reference else less(known, (each.column, reference), (each.column, each.name))
            for each in entries
        ]
        if whose == "measured" or any(value is not None for value in values):
            yield Column((whose, minus(reference, "row")), plain(signed(value, shown) for value in values))


def _count(entry: Entry, figures: Board, mark: str) -> str:
    """The number of runs, and the mark where a figure hides that some failed."""
    shown = (entry.column, entry.name) in figures.measured or entry.finished
    return f"{counted(entry, mark)} {mark if shown else ''}".strip()
