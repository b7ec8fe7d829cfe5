"""A study's table: what was measured beside what was published, a table a pair of nets, in four forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from pldistill.analysis.entries import Comparison, Entry, choose, held_out, measured, results, seconds
from pldistill.analysis.grids import Grid, escaped, html_grid, markdown_grid, markdown_list, rich_grid
from pldistill.analysis.tables import Stat
from pldistill.record import RunRecord

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "Comparison",
    "Entry",
    "comparison_csv",
    "comparison_html",
    "comparison_markdown",
    "comparison_rich",
    "measured",
]

_FIGURES = ("last", "best", "n")


@dataclass(frozen=True)
class Panel:
    """All of one pair: its teacher, its table, the figures that a variant was chosen by, and why runs failed."""

    column: str
    teacher: str
    table: Grid
    sweep: Grid | None
    footnotes: tuple[str, ...]

    @property
    def grids(self) -> list[Grid]:
        return [self.table] if self.sweep is None else [self.table, self.sweep]


def comparison_markdown(comparison: Comparison) -> str:
    """A heading, what was run, and GitHub tables pair by pair with teacher and footnotes; then how to read them."""
    parts = [f"## {escaped(comparison.title)}", *map(escaped, above(comparison))]
    for panel in _panels(comparison):
        parts += [f"### {escaped(panel.column)}", escaped(panel.teacher)]
        parts += [markdown_grid(grid, comparison.mark) for grid in panel.grids]
        parts += [markdown_list(panel.footnotes)] if panel.footnotes else []
    return "\n\n".join([*parts, "How to read it:", markdown_list(_notes(comparison))]) + "\n"


def comparison_csv(comparison: Comparison) -> str:
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
        published = each.published or (None, None)
        writer.writerow([*about, *numbers, *published, seconds(each), "; ".join(each.reasons)])
    return out.getvalue()


def comparison_rich(comparison: Comparison) -> Group:
    """The tables for a terminal; where a variant stands beside the default, without best: 80 columns hold no more."""
    from rich.console import Group
    from rich.text import Text

    without = "best" if any(each.variant for each in comparison.entries) else None
    parts = [Text(comparison.title, style="bold"), *map(Text, above(comparison))]
    for panel in _panels(comparison):
        parts += [Text(""), Text(panel.column, style="bold"), Text(panel.teacher)]
        parts += [rich_grid(grid, comparison.mark, without) for grid in panel.grids]
        parts += map(Text, panel.footnotes)
    notes = [note for note in _notes(comparison) if not note.startswith(f"{without}:")]
    return Group(*parts, Text(""), *(Text(note, style="dim") for note in notes))


def comparison_html(comparison: Comparison) -> str:
    """A `<section>` for the report page (`write_report(..., sections=[...])`), in the page's own style."""
    parts = [Markup("<h2>{}</h2>").format(comparison.title)]
    parts += [Markup("<p>{}</p>").format(line) for line in above(comparison)]
    for panel in _panels(comparison):
        parts += [Markup("<h3>{}</h3>").format(panel.column), Markup('<p class="soft">{}</p>').format(panel.teacher)]
        parts += [html_grid(grid, comparison.mark) for grid in panel.grids]
        parts += [Markup('<p class="soft">{}</p>').format(note) for note in panel.footnotes]
    notes = Markup("").join(Markup("<li>{}</li>").format(note) for note in _notes(comparison))
    parts.append(Markup('<ul class="soft">{}</ul>').format(notes))
    return str(Markup("<section>\n{}\n</section>\n").format(Markup("\n").join(parts)))


def _panels(comparison: Comparison) -> list[Panel]:
    columns = dict.fromkeys(each.column for each in comparison.entries)
    return [_panel(comparison, column) for column in columns]


def _panel(comparison: Comparison, column: str) -> Panel:
    rows: dict[str, list[Entry]] = {}
    for each in comparison.entries:
        if each.column == column:
            rows.setdefault(each.row, []).append(each)
    failed = [each for entries in rows.values() for each in entries if each.failures]
    marks = {each: f"({number})" for number, each in enumerate(failed, start=1)}
    chosen = {row: choose(entries) for row, entries in rows.items() if any(each.variant for each in entries)}
    return Panel(
        column,
        teacher=_teacher(comparison.teachers.get(column)),
        table=_table(rows, chosen, marks),
        sweep=_sweep(rows, chosen),
        footnotes=tuple(
            f"{mark} {each.name}: {len(each.failures)} of {each.planned} failed: {'; '.join(each.reasons)}"
            for each, mark in marks.items()
        ),
    )


def _table(rows: Mapping[str, Sequence[Entry]], chosen: Mapping[str, Entry | None], marks: Mapping[Entry, str]) -> Grid:
    """Published figures, the default's, and the chosen variant's, each part only where a row has it."""
    papers = {row: each.published for row, entries in rows.items() for each in entries[::-1] if each.published}
    defaults = _cells([each for entries in rows.values() for each in entries if not each.variant], marks)
    others = _cells([each for each in chosen.values() if each], marks)
    header = [("", "method"), *([("paper", "")] if papers else []), *(("measured", name) for name in _FIGURES)]
    header += [("chosen", name) for name in ("variant", *_FIGURES)] if chosen else []
    blank = [("", False)] * len(_FIGURES)
    lines = []
    for row in rows:
        line = [(row, False)] + ([(Stat(*papers[row], 0).show(2) if row in papers else "", False)] if papers else [])
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
        mark, done = marks.get(each, ""), len(each.finished)
        count = (str(done) if done >= each.planned else f"{done}/{each.planned}") if each.records or mark else ""
        cells[each.row] = [
            (last.show(2) if last else f"failed {mark}" if mark else "", _is_highest(last, means)),
            (best.show(2) if best else "", False),
            (f"{count} {mark}" if last and mark else count, False),
        ]
    return cells


def _is_highest(figure: Stat | None, means: Sequence[float]) -> bool:
    return figure is not None and len(means) > 1 and figure.mean == max(means)


def _sweep(rows: Mapping[str, Sequence[Entry]], chosen: Mapping[str, Entry | None]) -> Grid | None:
    """What the choice rests on: top-1 on held-out pictures by variant, the chosen one bold."""
    variants = list(dict.fromkeys(each.variant for row in chosen for each in rows[row]))
    if not any(held_out(each) for row in chosen for each in rows[row]):
        return None
    lines = []
    for row, pick in chosen.items():
        scores = {each.variant: (score.show(2), each is pick) for each in rows[row] if (score := held_out(each))}
        lines.append(((row, False), *(scores.get(variant, ("", False)) for variant in variants)))
    return Grid((("", "method"), *(("held out", variant or "default") for variant in variants)), tuple(lines))


def _teacher(record: RunRecord | None) -> str:
    if record is None:
        return "Teacher: not trained yet."
    recipe, result = record.read_recipe(), record.read_result()
    if result is None:
        return f"Teacher {recipe['student']}: unfinished, {len(record.epochs())} of {recipe['epochs']} epochs done."
    return (
        f"Teacher {recipe['student']}: {result['top1_last']:.2f} % top-1 after the last of {recipe['epochs']} epochs."
    )


def above(comparison: Comparison) -> list[str]:
    """What stands above the tables: the label, if there is one, first."""
    less = "Not the published protocol, so no repeat of published figures"
    lines = [f"{less}: {comparison.label}."] if comparison.label else []
    published = any(each.published for each in comparison.entries)
    source = [f"Paper: {comparison.published_source}."] if published else []
    return [*lines, f"Protocol: {comparison.protocol}", *source]


def _notes(comparison: Comparison) -> list[str]:
    """How to read the tables."""
    apart = {"holdout_best" in result for each in comparison.entries for result in results(each)}
    flattering = "the epoch that is best on the pictures it is scored on, so it flatters"
    fair = "the epoch that is best on held-out training pictures"
    best = f"{fair} for runs that held some out, else {flattering}" if len(apart) > 1 else flattering
    notes = [
        "Top-1 in percent, mean ± sample standard deviation over n seeds; the highest last mean is bold.",
        "last: after the last epoch. n: finished runs, or finished/planned. Empty: not run.",
        f"best: {fair if apart == {True} else best}.",
    ]
    if any(each.variant for each in comparison.entries):
        by = " with the highest mean on held-out pictures" if True in apart else ""
        notes.append(f"chosen: of a method's default and variants (scale s: its whole loss times s), the one{by}.")
        notes += ["held out: last top-1 on training pictures that were held out."] if True in apart else []
    return [*notes, *comparison.notes]
