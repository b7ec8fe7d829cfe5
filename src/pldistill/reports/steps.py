"""Seconds per training step by method, as `benchmarks/steps.py` measures them: CSV, there and back, and its table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pldistill.reports.grids import Grid, escaped, markdown_grid, rich_grid
from pldistill.reports.times import machine_name

if TYPE_CHECKING:
    from rich.console import Group

TITLE = "Milliseconds per training step"
_FIGURES = ("row", "pair", "batch_size", "amp", "rounds", "seconds", "seconds_q1", "seconds_q3", "to_kd")
_NOTE = (
    "A step: drawing the batch, the teacher's answer, the student forward and backward, the optimizer. Median and "
    "quartiles over rounds that take every method in turn. to kd: the median over rounds of a step's time to KD's of "
    "the same round, which slow moments of the machine touch less."
)


@dataclass(frozen=True)
class StepTime:
    """What a training step of one row on one pair of models took.

    `seconds` is the median over `rounds`, between the quartiles `seconds_q1` and `seconds_q3`; `to_kd` the median ratio
    to KD's step of the same round, None where KD was not timed. `env` is what it ran on, as `record.environment` says.
    """

    row: str
    pair: str
    batch_size: int
    amp: str
    rounds: int
    seconds: float
    seconds_q1: float
    seconds_q3: float
    to_kd: float | None
    env: Mapping[str, Any]


def steps_csv(times: Sequence[StepTime]) -> str:
    """A line for each time in full precision, what it ran on in every one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    machine = list(times[0].env)
    writer.writerow([*_FIGURES, *machine])
    for each in times:
        writer.writerow([*(getattr(each, name) for name in _FIGURES), *(each.env[name] for name in machine)])
    return out.getvalue()


def read_steps(path: Path) -> list[StepTime]:
    """The times in a CSV that `steps_csv` wrote.

    Raises:
        ValueError: naming the file, where a column or every line is missing, or a figure is no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _FIGURES if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: expected what benchmarks/steps.py writes, got no column {', '.join(missing)}")
        times = [_read(line, f"{path}, line {number}") for number, line in enumerate(reader, start=2)]
    if not times:
        raise ValueError(f"{path}: expected at least one line of times, got none")
    return times


def steps_markdown(times: Sequence[StepTime]) -> str:
    """A heading, and for each pair and machine what was timed and a GitHub table."""
    parts = [f"## {TITLE}"]
    for about, grid in _tables(times):
        parts += [escaped(about), markdown_grid(grid, "")]
    return "\n\n".join([*parts, escaped(_NOTE)]) + "\n"


def steps_rich(times: Sequence[StepTime]) -> Group:
    """The same for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(TITLE, style="bold")]
    for about, grid in _tables(times):
        parts += [Text(about), rich_grid(grid, "")]
    return Group(*parts, Text(""), Text(_NOTE, style="dim"))


def _tables(times: Sequence[StepTime]) -> list[tuple[str, Grid]]:
    """One for each setting, in order of first appearance."""
    together: dict[str, list[StepTime]] = {}
    for each in times:
        about = [each.pair, f"batch {each.batch_size}", f"amp {each.amp}", f"rounds: {each.rounds}"]
        about += [machine_name(each.env), _code(each.env)]
        together.setdefault("; ".join(filter(None, about)), []).append(each)
    header = (("", "method"), ("", "ms"), ("", "quartiles"), ("", "to kd"))
    return [(about, Grid(header, tuple(_line(each) for each in members))) for about, members in together.items()]


def _code(env: Mapping[str, Any]) -> str:
    """The versions that a time depends on, as far as they are known."""
    changed = " with changes" if str(env.get("dirty")) == "True" else ""
    known = [f"torch {env['torch']}"] if env.get("torch") else []
    return ", ".join(known + ([f"commit {env['commit'][:10]}{changed}"] if env.get("commit") else []))


def _line(time: StepTime) -> tuple[tuple[str, bool], ...]:
    quartiles = f"{1000 * time.seconds_q1:.1f} to {1000 * time.seconds_q3:.1f}"
    ratio = "" if time.to_kd is None else f"{time.to_kd:.3f}"
    return tuple((text, False) for text in (time.row, f"{1000 * time.seconds:.1f}", quartiles, ratio))


def _read(line: dict[str, str], where: str) -> StepTime:
    return StepTime(
        row=line["row"],
        pair=line["pair"],
        batch_size=int(_number(line, "batch_size", where)),
        amp=line["amp"],
        rounds=int(_number(line, "rounds", where)),
        seconds=_number(line, "seconds", where),
        seconds_q1=_number(line, "seconds_q1", where),
        seconds_q3=_number(line, "seconds_q3", where),
        to_kd=_number(line, "to_kd", where) if line["to_kd"] else None,
        env={name: value for name, value in line.items() if name not in _FIGURES},
    )


def _number(line: dict[str, str], name: str, where: str) -> float:
    text = line[name]
    try:
        return float(text)
    except (TypeError, ValueError):  # a short line has None
        raise ValueError(f"{where}: expected {name} as a number, got {text!r}") from None
