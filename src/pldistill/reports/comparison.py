"""A study's table: what was measured beside what was published, in any layout, in four forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from pldistill.reports.entries import Comparison, Entry, measured
from pldistill.reports.grids import FittedGrid, escaped, html_grid, markdown_grid, markdown_list
from pldistill.reports.html import through_html
from pldistill.reports.layouts import Facts, Layout, Pairs, Panels, Variants, Verdicts
from pldistill.reports.pairs import pairs_csv, pairs_notes, pairs_sheets
from pldistill.reports.panels import panels_csv, panels_notes, panels_sheets
from pldistill.reports.sheets import Sheet
from pldistill.reports.variants import variants_csv, variants_notes, variants_sheets
from pldistill.reports.verdicts import verdicts_csv, verdicts_notes, verdicts_sheets

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "Comparison",
    "Entry",
    "Facts",
    "Layout",
    "Pairs",
    "Panels",
    "Variants",
    "Verdicts",
    "comparison_csv",
    "comparison_html",
    "comparison_markdown",
    "comparison_rich",
    "measured",
]


class Drawing(NamedTuple):
    """How entries in one layout are shown; each takes the comparison and its layout."""

    sheets: Callable[[Comparison, Any], list[Sheet]]
    notes: Callable[[Comparison, Any], list[str]]
    csv: Callable[[Comparison, Any], str]


_DRAWINGS: Mapping[type, Drawing] = {
    Panels: Drawing(panels_sheets, panels_notes, panels_csv),
    Pairs: Drawing(pairs_sheets, pairs_notes, pairs_csv),
    Variants: Drawing(variants_sheets, variants_notes, variants_csv),
    Verdicts: Drawing(verdicts_sheets, verdicts_notes, verdicts_csv),
}


def comparison_markdown(comparison: Comparison) -> str:
    """A heading, what was run, and GitHub tables with teacher and footnotes; then how to read them."""
    parts = [f"## {escaped(comparison.title)}", *map(escaped, above(comparison))]
    for sheet in _sheets(comparison):
        parts += [f"### {escaped(sheet.title)}"] if sheet.title else []
        parts += [escaped(sheet.said)] if sheet.said else []
        parts += [markdown_grid(grid, comparison.mark) for grid in sheet.grids]
        parts += [markdown_list(sheet.footnotes)] if sheet.footnotes else []
    return "\n\n".join([*parts, "How to read it:", markdown_list(_notes(comparison))]) + "\n"


def comparison_csv(comparison: Comparison) -> str:
    """In full precision, the label in every line; what is not known is empty.

    Of `Panels` a line an entry (`seconds_mean` is a whole run's, empty also where the runs were made on different
    machines), of the other layouts a line for each entry and metric.
    """
    return _DRAWINGS[type(comparison.layout)].csv(comparison, comparison.layout)


def comparison_rich(comparison: Comparison) -> Group:
    """The tables for a terminal; where a variant stands beside the default, without best: 80 columns hold no more."""
    from rich.console import Group
    from rich.text import Text

    swept = isinstance(comparison.layout, Panels) and any(each.variant for each in comparison.entries)
    without = "best" if swept else None
    parts = [Text(comparison.title, style="bold"), *map(Text, above(comparison))]
    for sheet in _sheets(comparison):
        parts += [Text("")]
        parts += [Text(sheet.title, style="bold")] if sheet.title else []
        parts += [Text(sheet.said)] if sheet.said else []
        parts += [FittedGrid(grid, comparison.mark, without) for grid in sheet.grids]
        parts += map(Text, sheet.footnotes)
    notes = [note for note in _notes(comparison) if not note.startswith(f"{without}:")]
    return Group(*parts, Text(""), *(Text(note, style="dim") for note in notes))


def comparison_html(comparison: Comparison) -> str:
    """A `<section>` for the report page (`write_report(..., sections=[...])`), in the page's own style."""
    parts = [Markup("<h2>{}</h2>").format(comparison.title)]
    parts += [Markup("<p>{}</p>").format(line) for line in above(comparison)]
    for sheet in _sheets(comparison):
        parts += [Markup("<h3>{}</h3>").format(sheet.title)] if sheet.title else []
        parts += [Markup('<p class="soft">{}</p>').format(sheet.said)] if sheet.said else []
        parts += [html_grid(grid, comparison.mark) for grid in sheet.grids]
        parts += [Markup('<p class="soft">{}</p>').format(note) for note in sheet.footnotes]
    parts += through_html(comparison)
    notes = Markup("").join(Markup("<li>{}</li>").format(note) for note in _notes(comparison))
    parts.append(Markup('<ul class="soft">{}</ul>').format(notes))
    return str(Markup("<section>\n{}\n</section>\n").format(Markup("\n").join(parts)))


def _sheets(comparison: Comparison) -> list[Sheet]:
    return _DRAWINGS[type(comparison.layout)].sheets(comparison, comparison.layout)


def _notes(comparison: Comparison) -> list[str]:
    """How to read the tables."""
    return _DRAWINGS[type(comparison.layout)].notes(comparison, comparison.layout)


def above(comparison: Comparison) -> list[str]:
    """What stands above the tables: the label, if there is one, first."""
    published = any(each.published for each in comparison.entries)
    searched = isinstance(comparison.layout, Verdicts)  # no repeat of a published table
    less = "" if searched else "Not the published protocol, so no repeat of published figures: "
    lines = [f"{less}{comparison.label}."] if comparison.label else []
    source = [f"Paper: {comparison.published_source}."] if published else []
    return [*lines, f"Protocol: {comparison.protocol}", *source]
