"""Table 13: minutes a run from the records of another study, and seconds per step from a benchmark. Trains nothing.

Minutes are of each machine alone, for no two machines' clocks can be compared.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from pldistill.files import write_atomically
from pldistill.record import RunRecord
from pldistill.reports.comparison import Comparison, Entry, Variants
from pldistill.reports.comparison_frames import figure_frame
from pldistill.reports.comparison_tables import above, comparison_sections
from pldistill.reports.render import Document, Section, Table, csv_text, formatted, markdown, terminal
from pldistill.reports.runs import machine_name
from pldistill.studies.paper import published
from pldistill.studies.runner import compare
from pldistill.studies.study import Plan

_SOURCE = "PLD paper, Table 13: total training minutes, on a machine that it does not name"
_ROUNDING = 2.0  # seconds: a start is recorded in whole ones
_NOTES = (
    "Minutes a run: training and validation of all epochs, images included; mean ± sample standard deviation over n "
    "seeds. Empty: not run on this machine.",
    "What else the machine was doing at the time is not in the records; it makes a run slower.",
)
# What `benchmarks/steps.py` measures of a row on a pair of models: the median over rounds, its quartiles, the median
# ratio to KD's step of the same round. What it ran on stands beside it, as `record.environment` says.
_NUMBERS = ("batch_size", "rounds", "seconds", "seconds_q1", "seconds_q3", "to_kd")
_STEP = ("row", "pair", "batch_size", "amp", "rounds", "seconds", "seconds_q1", "seconds_q3", "to_kd")
_STEP_NOTE = (
    "A step: drawing the batch, the teacher's answer, the student forward and backward, the optimizer. Median and "
    "quartiles over rounds that take every method in turn. to kd: the median over rounds of a step's time to KD's of "
    "the same round, which slow moments of the machine touch less."
)


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
    steps, times = out / "steps.csv", times_document(comparison)
    text = markdown(times)
    second = _line(f"seconds per step: python benchmarks/steps.py --out {shlex.quote(str(steps))}")
    if steps.exists():
        document = steps_document(read_steps(steps))
        text, second = f"{text}\n{markdown(document)}", terminal(document)
    write_atomically(out / "table13.md", text.encode())
    write_atomically(out / "table13.csv", csv_text(times_frame(comparison)).encode())
    files = _line(f"table   {out / 'table13.md'}, {out / 'table13.csv'}")
    return Group(terminal(times), Text(""), second, Text(""), files)


def _line(text: str) -> Text:
    """A line that is not broken, so that it can be copied."""
    return Text(text, no_wrap=True, overflow="ignore")


def times_of(plan: Plan, out: Path) -> Comparison:
    """The study's runs with the paper's minutes as what was published."""
    figures = published("table13")

    def minutes(entry: Entry) -> dict[str, tuple[float, None]]:
        if entry.variant or entry.row not in figures["columns"] or entry.column not in figures["rows"]:
            return {}
        return {"minutes": (figures["rows"][entry.column][figures["columns"].index(entry.row)], None)}

    comparison = compare(plan, out)
    entries = tuple(replace(entry, published=minutes(entry)) for entry in comparison.entries)
    title = comparison.title.partition(":")[0] + ": minutes a run"
    return replace(comparison, title=title, entries=entries, published_source=_SOURCE)


def machine_of(record: RunRecord) -> str | None:
    """The machine that made a run, None where it went on on another than it began on."""
    env = record.read_environment()
    names = {machine_name(place) for place in (env, *env.get("resumed", []))}
    return names.pop() if len(names) == 1 else None


def machines(comparison: Comparison) -> list[str]:
    """Every machine that made a finished run, in order of first appearance."""
    names = [machine_of(record) for entry in comparison.entries for record in entry.finished]
    return [name for name in dict.fromkeys(names) if name is not None]


def made_by(comparison: Comparison, machine: str) -> Comparison:
    """The finished runs that a machine made, as a table of minutes."""
    made = [[record for record in entry.finished if machine_of(record) == machine] for entry in comparison.entries]
    entries = tuple(
        replace(entry, records=tuple(records), planned=len(records), failures=())
        for entry, records in zip(comparison.entries, made, strict=True)
    )
    return replace(comparison, entries=entries, teachers={}, layout=Variants(metrics=("minutes",), ranked=False))


def times_document(comparison: Comparison) -> Document:
    """Machine by machine a table a pair; the entries' published `minutes` stand beside the measured ones.

    Raises ValueError where an entry's runs repeat a seed or differ in more than the seed.
    """
    sections: list[Section] = []
    busy = _overlapping(comparison)
    for machine in machines(comparison):
        made = made_by(comparison, machine)
        folders = [record.folder for entry in made.entries for record in entry.records]
        count, together = len(folders), sum(folder in busy for folder in folders)
        remark = (
            f"{together} of {count} runs were made while another run of the study was under way on a machine of this "
            "name: if it was the same one, each slowed the other."
        )
        sections.append(Section(machine, remark if together else ""))
        sections += [replace(section, level=4) for section in comparison_sections(made)]
    moved = sum(machine_of(record) is None for entry in comparison.entries for record in entry.finished)
    left_out = [f"Left out: {moved} runs that began on one machine and ended on another."] if moved else []
    return Document(comparison.title, above(comparison), tuple(sections), (*_NOTES, *left_out, *comparison.notes))


def times_frame(comparison: Comparison) -> pd.DataFrame:
    """A line for each machine and entry, the label in every one; `overlapping` counts the runs that were not alone."""
    lines, busy = [], _overlapping(comparison)
    for machine in machines(comparison):
        made = made_by(comparison, machine)
        part = figure_frame(made, ["minutes"]).assign(machine=machine)
        part["overlapping"] = [sum(record.folder in busy for record in entry.records) for entry in made.entries]
        lines += part.to_dict("records")
    names = {"mean": "minutes_mean", "std": "minutes_std", "paper": "published_minutes"}
    columns = ["row", "column", "variant", "label", "machine", "n", "mean", "std", "overlapping", "paper"]
    return pd.DataFrame(lines, columns=columns).rename(columns=names)


def _overlapping(comparison: Comparison) -> set[Path]:
    """The folders of runs that share a stretch of time with another one on a machine of the same name.

    The study's and its teachers'. A resumed run is passed over: its record does not say when it stood still.
    """
    teachers = [record for record in comparison.teachers.values() if record is not None and record.finished]
    records = [*teachers, *(record for entry in comparison.entries for record in entry.finished)]
    lines = [(record.folder, machine_of(record), *_stretch(record)) for record in records]
    runs = pd.DataFrame(lines, columns=["folder", "machine", "start", "end"]).dropna()
    pairs = runs.merge(runs, on="machine", suffixes=("", "_other"))
    shared = pairs[["end", "end_other"]].min(axis=1) - pairs[["start", "start_other"]].max(axis=1)
    return set(pairs.loc[(pairs["folder"] != pairs["folder_other"]) & (shared > _ROUNDING), "folder"])


def _stretch(record: RunRecord) -> tuple[float | None, float | None]:
    """From when until when a run was made, in seconds since 1970."""
    env, result = record.read_environment(), record.read_result()
    if result is None or "resumed" in env or env.get("started") is None or result.get("seconds") is None:
        return None, None
    start = datetime.fromisoformat(env["started"]).timestamp()
    return start, start + result["seconds"]


def step_frame(lines: Sequence[Mapping[str, Any]], env: Mapping[str, Any]) -> pd.DataFrame:
    """What was timed, a line a row with the names of `_STEP`, and what it ran on in every line: the CSV's content."""
    return pd.DataFrame(lines, columns=list(_STEP)).assign(**env)


def read_steps(path: Path) -> pd.DataFrame:
    """The times in a CSV of `step_frame`; `to_kd` is NaN where KD was not timed.

    Raises:
        ValueError: naming the file, where a column or every line is missing, or a figure is no number.
    """
    try:
        steps = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        steps = pd.DataFrame()
    if missing := [name for name in _STEP if name not in steps]:
        raise ValueError(f"{path}: expected what benchmarks/steps.py writes, got no column {', '.join(missing)}")
    if steps.empty:
        raise ValueError(f"{path}: expected at least one line of times, got none")
    for name in _NUMBERS:
        numbers = pd.to_numeric(steps[name], errors="coerce")
        for at in steps.index[numbers.isna() & ((steps[name] != "") | (name != "to_kd"))]:
            raise ValueError(f"{path}, line {at + 2}: expected {name} as a number, got {steps.at[at, name]!r}")
        steps[name] = numbers
    return steps


def steps_document(steps: pd.DataFrame) -> Document:
    """For each pair and machine what was timed, and a table in milliseconds."""
    settings = steps.apply(_setting, axis=1)
    sections = []
    for setting, lines in steps.groupby(settings, sort=False):
        low, high = (1000 * lines[name] for name in ("seconds_q1", "seconds_q3"))
        cells = {
            "method": lines["row"].tolist(),
            "ms": formatted(1000 * lines["seconds"], ".1f"),
            "quartiles": [f"{first:.1f} to {last:.1f}" for first, last in zip(low, high, strict=True)],
            "to kd": formatted(lines["to_kd"], ".3f"),
        }
        sections.append(Section("", str(setting), (Table.of(pd.DataFrame(cells)),)))
    return Document("Milliseconds per training step", (), tuple(sections), (_STEP_NOTE,))


def _setting(step: pd.Series) -> str:
    """What was timed, on which machine, and with which versions, as far as they are known."""
    env = {name: value for name, value in step.items() if name not in _STEP and value not in ("", None)}
    versions = [f"torch {env['torch']}"] if "torch" in env else []
    changed = " with changes" if str(env.get("dirty")) == "True" else ""
    versions += [f"commit {env['commit'][:10]}{changed}"] if "commit" in env else []
    parts = [step["pair"], f"batch {step['batch_size']}", f"amp {step['amp']}", f"rounds: {step['rounds']}"]
    return "; ".join(filter(None, [*parts, machine_name(env), ", ".join(versions)]))
