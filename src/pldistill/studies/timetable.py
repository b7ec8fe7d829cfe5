"""Table 13: minutes a run from the records of another study, and seconds per step from a benchmark. Trains nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from rich.console import Group
from rich.text import Text

from pldistill.files import write_atomically
from pldistill.reports.comparison import Comparison
from pldistill.reports.steps import read_steps, steps_markdown, steps_rich
from pldistill.reports.times import machines, times_csv, times_markdown, times_rich
from pldistill.studies.paper import published
from pldistill.studies.runner import compare
from pldistill.studies.study import Plan

_SOURCE = "PLD paper, Table 13: total training minutes, on a machine that it does not name"


def timetable(plan: Plan, out: Path) -> Group:
    """Write `table13.md` and `table13.csv` in `out`, the folder of the plan's study, and give them for a terminal.

    Seconds per step come from `steps.csv` there; where there is none, the command that makes it is shown.

    Raises:
        ValueError: where `out` holds no finished run of the plan, or a `steps.csv` that is not the benchmark's.
    """
    comparison = times_of(plan, out)
    if not machines(comparison):
        raise ValueError(
            f"table13: expected finished runs in {str(out)!r}, got none of these; make them first: "
            f"pldistill reproduce {plan.study.name} --out {shlex.quote(str(out))}, with the same options"
        )
    steps, text = out / "steps.csv", times_markdown(comparison)
    shown = _line(f"seconds per step: python benchmarks/steps.py --out {shlex.quote(str(steps))}")
    if steps.exists():
        found = read_steps(steps)
        text, shown = f"{text}\n{steps_markdown(found)}", steps_rich(found)
    write_atomically(out / "table13.md", text.encode())
    write_atomically(out / "table13.csv", times_csv(comparison).encode())
    files = _line(f"table   {out / 'table13.md'}, {out / 'table13.csv'}")
    return Group(times_rich(comparison), Text(""), shown, Text(""), files)


def _line(text: str) -> Text:
    """A line that is not broken, so that it can be copied."""
    return Text(text, no_wrap=True, overflow="ignore")


def times_of(plan: Plan, out: Path) -> Comparison:
    """The study's runs with the paper's minutes as what was published."""
    figures = published("table13")

    def known(column: str, row: str) -> dict[str, tuple[float, None]]:
        if row not in figures["columns"] or column not in figures["rows"]:
            return {}
        return {"minutes": (figures["rows"][column][figures["columns"].index(row)], None)}

    comparison = compare(plan, out)
    entries = [
        replace(each, published={} if each.variant else known(each.column, each.row)) for each in comparison.entries
    ]
    title = comparison.title.partition(":")[0] + ": minutes a run"
    return replace(comparison, title=title, entries=tuple(entries), published_source=_SOURCE)
