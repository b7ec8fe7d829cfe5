"""A study's table as Table 1 has it: a table a column (a pair of models), in it the methods, last, best and n."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from pldistill.reports.entries import Comparison, Entry, choose, held_out, measured, results, seconds
from pldistill.reports.grids import Grid
from pldistill.reports.layouts import Panels
from pldistill.reports.sheets import Sheet, counted, failure_marks, footnotes, teacher_line
from pldistill.reports.tables import Stat

_FIGURES = ("last", "best", "n")


def panels_sheets(comparison: Comparison, _: Panels) -> list[Sheet]:
    """A sheet a column: its teacher, its table, the figures that a variant was chosen by, and why runs failed."""
    columns = dict.fromkeys(each.column for each in comparison.entries)
    return [_sheet(comparison, column) for column in columns]


def _sheet(comparison: Comparison, column: str) -> Sheet:
    rows: dict[str, list[Entry]] = {}
    for each in comparison.entries:
        if each.column == column:
            rows.setdefault(each.row, []).append(each)
    marks = failure_marks((each for entries in rows.values() for each in entries), "({})")
    chosen = {row: choose(entries) for row, entries in rows.items() if any(each.variant for each in entries)}
    sweep = _sweep(rows, chosen)
    return Sheet(
        column,
        teacher_line(comparison.teachers.get(column)),
        (_table(rows, chosen, marks), *([sweep] if sweep else [])),
        footnotes(marks),
    )


def _table(rows: Mapping[str, Sequence[Entry]], chosen: Mapping[str, Entry | None], marks: Mapping[Entry, str]) -> Grid:
    """Published figures, the default's, and the chosen variant's, each part only where a row has it."""
    papers = {row: found for row, entries in rows.items() for each in entries[::-1] if (found := each.paper("top1"))}
    defaults = _cells([each for entries in rows.values() for each in entries if not each.variant], marks)
    others = _cells([each for each in chosen.values() if each], marks)
    header = [("", "method"), *([("paper", "")] if papers else []), *(("measured", name) for name in _FIGURES)]
    header += [("chosen", name) for name in ("variant", *_FIGURES)] if chosen else []
    blank = [("", False)] * len(_FIGURES)
    lines = []
    for row in rows:
        line = [(row, False)] + ([(papers[row].show(2) if row in papers else "", False)] if papers else [])
        line += defaults.get(row, blank)
        pick = chosen.get(row)
        if chosen:
            line += [((pick.variant or "default") if pick else "", False), *others.get(row, blank)]
        lines.append(tuple(line))
    return Grid(tuple(header), tuple(lines))


def _cells(entries: Sequence[Entry], marks: Mapping[Entry, str]) -> dict[str, list[tuple[str, bool]]]:
    """Last, best and n of one group of columns by row; the highest last is bold where there are two to compare."""
    figures = {each: measured(each) for each in entries}
    means = [last.mean for last, _ in figures.values() if last]
    cells = {}
    for each, (last, best) in figures.items():
        mark = marks.get(each, "")
        count = counted(each, mark)
        cells[each.row] = [
            (last.show(2) if last else f"failed {mark}" if mark else "", _is_highest(last, means)),
            (best.show(2) if best else "", False),
            (f"{count} {mark}" if last and mark else count, False),
        ]
    return cells


def _is_highest(figure: Stat | None, means: Sequence[float]) -> bool:
    return figure is not None and len(means) > 1 and figure.mean == max(means)


def _sweep(rows: Mapping[str, Sequence[Entry]], chosen: Mapping[str, Entry | None]) -> Grid | None:
    """What the choice rests on: top-1 on held-out images by variant, the chosen one bold."""
    variants = list(dict.fromkeys(each.variant for row in chosen for each in rows[row]))
    if not any(held_out(each) for row in chosen for each in rows[row]):
        return None
    lines = []
    for row, pick in chosen.items():
        scores = {each.variant: (score.show(2), each is pick) for each in rows[row] if (score := held_out(each))}
        lines.append(((row, False), *(scores.get(variant, ("", False)) for variant in variants)))
    return Grid((("", "method"), *(("held out", variant or "default") for variant in variants)), tuple(lines))


def panels_csv(comparison: Comparison, _: Panels) -> str:
    """A line for each entry in full precision, the label in every one; what is not known is empty.

    `seconds_mean` is a whole run's, empty also where the entry's runs were made on different machines.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("last", "best", "holdout_last", "published")
    spread = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    writer.writerow(["row", "column", "variant", "label", "n", "planned", *spread, "seconds_mean", "failed"])
    for each in comparison.entries:
        figures = *measured(each), held_out(each)
        numbers = [part for figure in figures for part in ((figure.mean, figure.std) if figure else (None, None))]
        about = [each.row, each.column, each.variant, comparison.label, len(each.finished), each.planned]
        published = each.published.get("top1", (None, None))
        writer.writerow([*about, *numbers, *published, seconds(each), "; ".join(each.reasons)])
    return out.getvalue()


def panels_notes(comparison: Comparison, _: Panels) -> list[str]:
    """How to read the tables."""
    apart = {"holdout_best" in result for each in comparison.entries for result in results(each)}
    flattering = "the epoch that is best on the images it is scored on, so it flatters"
    fair = "the epoch that is best on held-out training images"
    best = f"{fair} for runs that held some out, else {flattering}" if len(apart) > 1 else flattering
    notes = [
        "Top-1 in percent, mean ± sample standard deviation over n seeds; the highest last mean is bold.",
        "last: after the last epoch. n: finished runs, or finished/planned. Empty: not run.",
        f"best: {fair if apart == {True} else best}.",
    ]
    if any(each.variant for each in comparison.entries):
        by = " with the highest mean on held-out images" if True in apart else ""
        notes.append(f"chosen: of a method's default and variants (scale s: its whole loss times s), the one{by}.")
        notes += ["held out: last top-1 on training images that were held out."] if True in apart else []
    return [*notes, *comparison.notes]
