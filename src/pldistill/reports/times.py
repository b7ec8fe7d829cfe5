"""Minutes a run, measured beside published: of each machine alone, for no two machines' clocks can be compared."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pldistill.record import RunRecord
from pldistill.reports.comparison import above
from pldistill.reports.entries import Comparison, Entry, results
from pldistill.reports.grids import Grid, escaped, markdown_grid, markdown_list, rich_grid
from pldistill.reports.tables import Stat, stat

if TYPE_CHECKING:
    from rich.console import Group

_ROUNDING = 2.0  # seconds: a start is recorded in whole ones
_NOTES = (
    "Minutes a run: training and validation of all epochs, images included; mean ± sample standard deviation over n "
    "seeds. Empty: not run on this machine.",
    "What else the machine was doing at the time is not in the records; it makes a run slower.",
)


@dataclass(frozen=True)
class Sheet:
    """The runs of one machine: a table for each pair of models, and what to know of them."""

    machine: str
    tables: Mapping[str, Grid]
    remark: str


def machine_name(env: Mapping[str, Any]) -> str:
    """The machine of an `env.json`, as far as a run's time depends on it.

    Its GPU, then processor and cores; threads where the processor does the work; processes where there are several.
    """
    device, cpu = env.get("device_name"), env.get("cpu")
    parts = [name for name in dict.fromkeys((device, cpu)) if name]
    parts += [str(env["cpu_capability"])] if env.get("cpu_capability") and env.get("device") in ("cpu", None) else []
    parts += [f"{env['cores']} core" + "s" * (str(env["cores"]) != "1")] if env.get("cores") else []
    parts += [f"threads: {env['threads']}"] if env.get("threads") and env.get("device") == "cpu" else []
    parts += [f"processes: {env['world_size']}"] if str(env.get("world_size") or 1) != "1" else []
    return ", ".join(parts) or "unknown machine"


def machine_of(record: RunRecord) -> str | None:
    """The machine that made a run, None where it went on on another than it began on."""
    env = record.read_environment()
    names = {machine_name(each) for each in (env, *env.get("resumed", []))}
    return names.pop() if len(names) == 1 else None


def minutes(entry: Entry, machine: str) -> Stat | None:
    """Minutes of a whole run, over the finished runs that `machine` made; None where there is none.

    Raises ValueError where those repeat a seed or differ in more than the seed.
    """
    seconds = [each.get("seconds") for each in results(_made_by(entry, machine))]
    return stat([None if each is None else each / 60 for each in seconds])


def machines(comparison: Comparison) -> list[str]:
    """Every machine that made a finished run, in order of first appearance."""
    names = [machine_of(record) for each in comparison.entries for record in each.finished]
    return [name for name in dict.fromkeys(names) if name is not None]


def times_markdown(comparison: Comparison) -> str:
    """A heading, what was run, and machine by machine a GitHub table a pair; then how to read them.

    Here and in the other forms the entries' published `minutes` stand beside the measured ones. Without a finished
    run there is no table.
    """
    parts = [f"## {escaped(comparison.title)}", *map(escaped, above(comparison))]
    for sheet in _sheets(comparison):
        parts.append(f"### {escaped(sheet.machine)}")
        for column, grid in sheet.tables.items():
            parts += [f"#### {escaped(column)}", markdown_grid(grid, comparison.mark)]
        parts += [escaped(sheet.remark)] if sheet.remark else []
    return "\n\n".join([*parts, "How to read it:", markdown_list(_notes(comparison))]) + "\n"


def times_csv(comparison: Comparison) -> str:
    """A line for each machine and entry in full precision, the label in every one; what is not known is empty.

    `overlapping` counts the runs that were not alone.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measured = ["n", "minutes_mean", "minutes_std", "overlapping", "published_minutes"]
    writer.writerow(["row", "column", "variant", "label", "machine", *measured])
    for machine in machines(comparison):
        busy = _overlapping(comparison, machine)
        for each in comparison.entries:
            made, took = _made_by(each, machine).finished, minutes(each, machine)
            figures = [took.mean, took.std] if took else [None, None]
            together = sum(record in busy for record in made)
            paper = each.published.get("minutes", (None, None))[0]
            about = [each.row, each.column, each.variant, comparison.label, machine, len(made)]
            writer.writerow([*about, *figures, together, paper])
    return out.getvalue()


def times_rich(comparison: Comparison) -> Group:
    """The tables for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts = [Text(comparison.title, style="bold"), *map(Text, above(comparison))]
    for sheet in _sheets(comparison):
        parts += [Text(""), Text(sheet.machine, style="bold")]
        for column, grid in sheet.tables.items():
            parts += [Text(""), Text(column, style="bold"), rich_grid(grid, comparison.mark)]
        parts += [Text(sheet.remark)] if sheet.remark else []
    return Group(*parts, Text(""), *(Text(note, style="dim") for note in _notes(comparison)))


def _made_by(entry: Entry, machine: str) -> Entry:
    return replace(entry, records=tuple(record for record in entry.finished if machine_of(record) == machine))


def _sheets(comparison: Comparison) -> list[Sheet]:
    columns = list(dict.fromkeys(each.column for each in comparison.entries))
    return [
        Sheet(
            machine,
            {
                column: _table([each for each in comparison.entries if each.column == column], machine)
                for column in columns
            },
            _remark(comparison, machine),
        )
        for machine in machines(comparison)
    ]


def _table(entries: Sequence[Entry], machine: str) -> Grid:
    """The paper's minutes, where it has some, and the machine's."""
    paper = any(each.paper("minutes") for each in entries)
    header = [("", "method"), *([("paper", "minutes")] if paper else []), ("measured", "minutes"), ("measured", "n")]
    lines = []
    for each in entries:
        took = minutes(each, machine)
        line = [
            each.name,
            *([found.show(2) if (found := each.paper("minutes")) else ""] if paper else []),
            took.show(2) if took else "",
            str(took.n) if took else "",
        ]
        lines.append(tuple((text, False) for text in line))
    return Grid(tuple(header), tuple(lines))


def _remark(comparison: Comparison, machine: str) -> str:
    count = sum(len(_made_by(each, machine).finished) for each in comparison.entries)
    together = len(_overlapping(comparison, machine))
    if not together:
        return ""
    return (
        f"{together} of {count} runs were made while another run of the study was under way on a machine of this name: "
        "if it was the same one, each slowed the other."
    )


def _overlapping(comparison: Comparison, machine: str) -> list[RunRecord]:
    """The machine's runs that share a stretch of time with another one of the study, teachers among the others.

    A resumed run is passed over: its record does not say when it stood still.
    """
    runs = [record for each in comparison.entries for record in _made_by(each, machine).finished]
    teachers = [record for record in comparison.teachers.values() if record is not None and record.finished]
    stretches = {record: _stretch(record) for record in (*runs, *teachers) if machine_of(record) == machine}
    found = []
    for run in runs:
        mine = stretches[run]
        others = [other for record, other in stretches.items() if record.folder != run.folder and other is not None]
        if mine is not None and any(min(mine[1], end) - max(mine[0], start) > _ROUNDING for start, end in others):
            found.append(run)
    return found


def _stretch(record: RunRecord) -> tuple[float, float] | None:
    """From when until when a run was made, in seconds since 1970."""
    env, result = record.read_environment(), record.read_result()
    if result is None or "resumed" in env or env.get("started") is None or result.get("seconds") is None:
        return None
    start = datetime.fromisoformat(env["started"]).timestamp()
    return start, start + result["seconds"]


def _notes(comparison: Comparison) -> list[str]:
    moved = sum(machine_of(record) is None for each in comparison.entries for record in each.finished)
    left_out = f"Left out: {moved} runs that began on one machine and ended on another."
    return [*_NOTES, *([left_out] if moved else []), *comparison.notes]
