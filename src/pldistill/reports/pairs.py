"""A study's table with a line a column (a pair of models, a number of epochs, an optimizer) and the methods across."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pldistill.record import METRICS
from pldistill.reports.entries import Comparison, Entry
from pldistill.reports.layouts import Facts, Pairs
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
)
from pldistill.reports.tables import Stat

# A fact's title, what it is, and its unit.
_FACTS = {
    "student_parameters": ("student M", "parameters of the student in millions", 1e6),
    "teacher_parameters": ("teacher M", "parameters of the teacher in millions", 1e6),
    "teacher_top1": ("teacher top-1", "top-1 of the teacher in percent", 1),
}


@dataclass(frozen=True)
class Frame:
    """What all tables of a study have in common: its lines, its methods, and the parts of its layout that apply."""

    layout: Pairs
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    entries: Mapping[tuple[str, str], Entry]
    marks: Mapping[Entry, str]

    @property
    def differences(self) -> list[tuple[str, str]]:
        """Those of which both rows are in the study."""
        return [pair for pair in self.layout.differences if set(pair) <= set(self.rows)]

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Those of which both columns are in the study."""
        return [pair for pair in self.layout.steps if set(pair) <= set(self.columns)]

    @property
    def mean(self) -> bool:
        """Whether there is a line of means."""
        return self.layout.mean and bool(self.differences)

    def fill(self, lines: Sequence[str], steps: Sequence[str] = (), mean: str = "") -> list[str]:
        """The texts of a whole column, empty where it has nothing for a step or the mean."""
        return [*lines, *(steps or [""] * len(self.steps)), *([mean] if self.mean else [])]


def pairs_sheets(comparison: Comparison, layout: Pairs) -> list[Sheet]:
    """A sheet a metric; the facts in the first table, the footnotes under the last."""
    frame = _frame(comparison, layout)
    sheets = []
    for at, metric in enumerate(layout.metrics):
        facts = {column: facts_of(comparison, column) for column in frame.columns} if at == 0 else {}
        titles = frame.fill(frame.columns, [minus(*step) for step in frame.steps], "mean")
        columns = [Column(("", layout.line), plain(titles)), *_facts(frame, facts)]
        columns += _metric(frame, metric, board(comparison.entries, metric))
        title = METRICS[metric].short if len(layout.metrics) > 1 else ""
        notes = footnotes(frame.marks, columns=True) if at == len(layout.metrics) - 1 else ()
        sheets.append(Sheet(title, "", (grid_of(columns),), notes))
    return sheets


def pairs_csv(comparison: Comparison, layout: Pairs) -> str:
    """A line for each entry and metric; no facts and no differences."""
    return figures_csv(comparison, layout.metrics)


def pairs_notes(comparison: Comparison, layout: Pairs) -> list[str]:
    """How to read the tables."""
    frame = _frame(comparison, layout)
    known = [f"{_FACTS[name][0]}: {_FACTS[name][1]}." for name in layout.facts]
    notes = [
        *(f"{METRICS[name].short}: {METRICS[name].meaning}." for name in layout.metrics),
        "After the last epoch, mean ± sample standard deviation (n finished runs, or finished/planned); "
        "the best of a line is bold. Empty: not run, or not measured.",
        *known,
    ]
    if frame.differences:
        names = ", ".join(minus(*pair) for pair in frame.differences)
        notes.append(f"{names}: differences of the means.")
    if frame.mean:
        notes.append(
            "mean: of the differences, measured over the lines that have both figures (lines/all where some have not); "
            "the paper's as it states it, else over its own figures here."
        )
    return [*notes, *shared_runs(comparison.entries), *comparison.notes]


def _frame(comparison: Comparison, layout: Pairs) -> Frame:
    return Frame(
        layout,
        tuple(dict.fromkeys(each.column for each in comparison.entries)),
        tuple(dict.fromkeys(each.name for each in comparison.entries)),
        {(each.column, each.name): each for each in comparison.entries},
        failure_marks(comparison.entries, "[{}]"),
    )


def _facts(frame: Frame, facts: Mapping[str, Facts]) -> Iterator[Column]:
    """A column a fact, measured, and the paper's where it has one."""
    for name in frame.layout.facts if facts else ():
        title, _, unit = _FACTS[name]
        for whose, prefix in (("measured", ""), ("paper", "paper_")):
            values = [getattr(facts[column], prefix + name) for column in frame.columns]
            if whose == "measured" or any(value is not None for value in values):
                texts = ["" if value is None else f"{value / unit:,.2f}" for value in values]
                yield Column((whose, title), plain(frame.fill(texts)))


def _metric(frame: Frame, metric: str, figures: Board) -> Iterator[Column]:
    """The methods' columns, then the differences'; the paper's beside, where it has some."""
    digits = METRICS[metric].digits
    highest = {
        column: best(figures.measured, [(column, row) for row in frame.rows], metric) for column in frame.columns
    }
    for row in frame.rows:
        texts = [_cell(frame, (column, row), figures.measured, digits) for column in frame.columns]
        shown = [figures.measured.get((column, row)) for column in frame.columns]
        bold = [
            stat is not None and stat.mean == highest[column] for column, stat in zip(frame.columns, shown, strict=True)
        ]
        whole = frame.fill(texts, _steps(frame, row, figures.measured, digits))
        bold += [False] * (len(whole) - len(bold))
        yield Column(("measured", row), tuple(zip(whole, bold, strict=True)))
        papers = [figures.paper.get((column, row)) for column in frame.columns]
        if any(papers):
            texts = printed(papers)
            yield Column(("paper", row), plain(frame.fill(texts, _steps(frame, row, figures.paper, PAPER_DIGITS))))
    for pair in frame.differences:
        stated = frame.layout.paper_means.get(pair) if metric == frame.layout.metrics[0] else None
        yield _difference(frame, pair, "measured", figures.measured, digits)
        if any((column, row) in figures.paper for column in frame.columns for row in pair):
            yield _difference(frame, pair, "paper", figures.paper, PAPER_DIGITS, stated)


def _cell(frame: Frame, place: tuple[str, str], figures: Mapping[tuple[str, str], Stat], digits: int) -> str:
    """The figure with the number of its runs; how far it is where there is none yet; `failed` where nothing else is."""
    entry = frame.entries.get(place)
    if entry is None:
        return ""
    mark, stat = frame.marks.get(entry, ""), figures.get(place)
    if stat is None and mark:
        return mark if entry.finished else f"failed {mark}"
    if stat is None:
        return f"({counted(entry, mark)})" if entry.records and not entry.finished else ""
    return f"{stat.show(digits)} ({counted(entry, mark)}) {mark}".rstrip()


def _steps(frame: Frame, row: str, figures: Mapping[tuple[str, str], Stat], digits: int) -> list[str]:
    return [signed(less(figures, (first, row), (second, row)), digits) for first, second in frame.steps]


def _difference(
    frame: Frame,
    pair: tuple[str, str],
    whose: str,
    figures: Mapping[tuple[str, str], Stat],
    digits: int,
    stated: float | None = None,
) -> Column:
    """A difference line by line; its mean is the stated one, else that of the lines that have it."""
    first, second = pair
    values = [less(figures, (column, first), (column, second)) for column in frame.columns]
    known = [value for value in values if value is not None]
    mean = stated if stated is not None else fmean(known) if known else None
    some = f" ({len(known)}/{len(values)})" if stated is None and 0 < len(known) < len(values) else ""
    # A mean of the paper's figures that it does not state itself may end in half of its last digit.
    finer = digits + 1 if whose == "paper" and stated is None else digits
    texts = frame.fill([signed(value, digits) for value in values], mean=signed(mean, finer) + some)
    return Column((whose, minus(*pair)), plain(texts))
