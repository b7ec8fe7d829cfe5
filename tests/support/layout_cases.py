"""Entries and comparisons made by hand for the tests of layouts."""

import io

from rich.console import Console

from analysis_runs import make_run
from pldistill.reports.comparison import Comparison, Entry
from pldistill.reports.comparison_frames import comparison_frame
from pldistill.reports.comparison_tables import comparison_document
from pldistill.reports.html import through_html
from pldistill.reports.render import csv_text, html_section, markdown, terminal

SHORT = "short: 2 epochs"
GAINS = (("pld", "dist"), ("pld", "kd"))


def comparison_markdown(comparison):
    return markdown(comparison_document(comparison))


def comparison_csv(comparison):
    return csv_text(comparison_frame(comparison))


def comparison_html(comparison):
    return html_section(comparison_document(comparison), through_html(comparison))


def printed(document, width):
    """What a terminal of so many columns shows."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(terminal(document))
    return console.file.getvalue()


def entry(folder, column, row, *tops, planned=None, paper=None, failures=(), **result):
    """A run a seed; further figures of the result by name; the paper's top-1."""
    records = tuple(
        make_run(folder / column / f"{row}{seed}", method=row, top1=[top], seed=seed, result=result)
        for seed, top in enumerate(tops)
    )
    known = paper if isinstance(paper, dict) else {} if paper is None else {"top1": (paper, None)}
    return Entry(row, column, records, planned or max(1, len(tops)), failures, known)


def study(layout, *entries, label="", teachers=None, facts=None, notes=()):
    return Comparison(
        "Table", entries, teachers or {}, label, "LAMB, 100 epochs.", "PLD paper", notes, layout, facts or {}
    )


def tables(comparison):
    """The Markdown tables as text, one a list of lines."""
    parts = comparison_markdown(comparison).split("\n\n")
    return [part.split("\n") for part in parts if part.startswith("| ")]


def two_pairs(folder, **about):
    """Two pairs by hand: gains of 3 and 1 over DIST, 5 and 6 over KD."""
    return [
        entry(folder, "a < b", "kd", 69.0, 71.0, paper=75.33),
        entry(folder, "a < b", "dist", 72.0, paper=74.91),
        entry(folder, "a < b", "pld", 75.0, paper=75.63),
        entry(folder, "c < d", "kd", 60.0, paper=76.80),
        entry(folder, "c < d", "dist", 65.0, paper=76.60),
        entry(folder, "c < d", "pld", 66.0, paper=77.30),
    ]
