"""Runs to rows: mean and sample standard deviation over seeds, and the rows as Markdown, CSV or a terminal table."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pldistill.record import BOXES, TITLES, RunRecord, duration, score_of
from pldistill.reports.groups import Group, Run, group_runs

if TYPE_CHECKING:
    from rich.table import Table

# A method's own choices: what a row and the cross-entropy row that it is measured against may differ in.
_OF_THE_METHOD = ("method", "teacher", "teacher_checkpoint", "teacher_sha256", "options", "weights")
# The keys of result.json that are averaged, and those that detectors alone have.
FIGURES = ("top1_last", "top1_best", "top5_last", "kl_last", "seconds", "images_per_second")
OF_BOXES = (*BOXES, "AP_best")


@dataclass(frozen=True)
class Stat:
    """A mean over `n` runs and their sample standard deviation (divided by n - 1), None for a single run."""

    mean: float
    std: float | None
    n: int

    def show(self, digits: int) -> str:
        """The mean, and the deviation where there is one, with `digits` decimals."""
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """One group of runs that differ in the seed alone.

    Accuracies and, of detectors, `boxes` (`OF_BOXES`) in percent, `kl_last` in nats, `seconds` a whole run. A Stat is
    None unless every finished run has the figure; the two speeds also where the runs were made on different machines.
    `over_ce` is the difference in mean `score` to the cross-entropy row with the same recipe but for the method and
    what belongs to it; `best` marks the highest mean score among the rows with the same data, student and epochs.
    `unfinished` holds (epochs done, epochs planned) of the runs that have no result: they enter no figure.
    """

    group: Group
    method: str
    student: str
    teacher: str | None
    data: str
    epochs: int
    setting: str
    seeds: tuple[str, ...]
    top1_last: Stat | None
    top1_best: Stat | None
    top5_last: Stat | None
    kl_last: Stat | None
    seconds: Stat | None
    images_per_second: Stat | None
    unfinished: tuple[tuple[int, int], ...]
    boxes: Mapping[str, Stat | None] = field(default_factory=dict, hash=False)
    over_ce: float | None = None
    best: bool = False

    @property
    def n(self) -> int:
        """How many finished runs stand behind the figures."""
        return len(self.seeds)

    @property
    def ranked_by(self) -> str:
        """The metric of `score`: top1, or a detector's AP."""
        return score_of(self.group.runs[0].recipe)

    @property
    def score(self) -> Stat | None:
        """What the row is ranked by, after the last epoch."""
        return self.boxes.get("AP") if self.ranked_by == "AP" else self.top1_last

    @property
    def score_title(self) -> str:
        """The column that shows it."""
        return TITLES[self.ranked_by]

    @property
    def repeated_seeds(self) -> tuple[str, ...]:
        """Seeds that several of the runs share: their spread says little, a seed decides a run."""
        return tuple(sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}))

    @property
    def state(self) -> str:
        """How far the unfinished runs are, in words; empty where there is none."""
        return ", ".join(f"{done}/{planned} epochs" for done, planned in self.unfinished)


def summarize(records: Iterable[RunRecord]) -> list[Row]:
    """One row a group of records that differ in the seed alone.

    Teachers' blocks (data, student, epochs) first; in a block cross-entropy first, then by mean score.
    Raises ValueError where there is no record.
    """
    return rows_of(group_runs(records))


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """The same from groups already read."""
    rows = [_row(group) for group in groups]
    rows = [replace(row, over_ce=_over_ce(row, rows), best=_is_best(row, rows)) for row in rows]
    blocks = list(dict.fromkeys(row.group.block for row in rows))
    teaching = {row.group.block for row in rows if row.group.teaches}

    def place(row: Row) -> tuple[bool, int, bool, float, str]:
        score = row.score.mean if row.score else -1.0
        block = row.group.block
        return block not in teaching, blocks.index(block), row.method != "ce", -score, row.group.name

    return sorted(rows, key=place)


def stat(values: Sequence[float | None]) -> Stat | None:
    """Mean and sample standard deviation, None where there is no value or one of them is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Stat(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def markdown_table(rows: Sequence[Row]) -> str:
    """A GitHub table of the rows, what they all share in a line above it, the best in bold."""
    shared, header, cells = _texts(rows)
    lines = [[_escaped(cell) for cell in line] for line in cells]
    for row, line in zip(rows, lines, strict=True):
        if row.best:
            at = header.index(row.score_title)
            line[at] = f"**{line[at]}**"
    rule = ["---:" if name in _NUMBERS else "---" for name in header]
    table = ["| " + " | ".join(line) + " |" for line in [header, rule, *lines]]
    return "\n".join([_escaped(shared), "", *table] if shared else table) + "\n"


def csv_table(rows: Sequence[Row]) -> str:
    """All figures in full precision, means and deviations in columns of their own; an unknown one is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    plain = ["method", "student", "teacher", "data", "epochs", "setting"]
    boxes = OF_BOXES if any(row.ranked_by == "AP" for row in rows) else ()
    spread = [f"{name}_{part}" for name in (*FIGURES, *boxes) for part in ("mean", "std")]
    writer.writerow([*plain, "n", "seeds", *spread, "over_ce", "unfinished"])
    for row in rows:
        stats = [*(getattr(row, name) for name in FIGURES), *(row.boxes.get(name) for name in boxes)]
        numbers = [getattr(each, part) if each else None for each in stats for part in ("mean", "std")]
        kept = [getattr(row, name) for name in plain]
        writer.writerow([*kept, row.n, " ".join(row.seeds), *numbers, row.over_ce, row.state])
    return out.getvalue()


def rich_table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal, a gap between blocks, the best in bold; in 80 columns, so other forms may show more."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shared, header, cells = _texts(rows)
    for spared in range(len(_SPARED) + 1):
        shared, header, cells = _texts(rows, without=_SPARED[:spared])
        if _width(header, cells) <= _COLUMNS:
            break
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.title, table.title_justify = Text(shared) if shared else None, "left"
    for name in header:
        justify, whole = "right" if name in _NUMBERS else "left", name not in _FOLDED
        table.add_column(name, justify=justify, no_wrap=whole, min_width=None if whole else _FOLD, overflow="fold")
    for index, (row, line) in enumerate(zip(rows, cells, strict=True)):
        ends = index + 1 < len(rows) and rows[index + 1].group.block != row.group.block
        style = "bold" if row.best else ""
        table.add_row(*(Text(cell, style=style) for cell in line), end_section=ends)  # Text: names are no markup
    return table


def _width(header: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """How many characters a line takes; a column that may be folded takes its least."""
    columns = zip(header, *cells, strict=True)
    widths = [_FOLD if name in _FOLDED else max(map(len, (name, *column))) for name, *column in columns]
    return sum(widths) + 2 * len(widths)


def _row(group: Group) -> Row:
    done = [run for run in group.runs if run.result is not None]

    def over_seeds(key: str) -> Stat | None:
        return stat([run.result.get(key) for run in done if run.result is not None])

    one_machine = len({(run.env.get("device_name"), run.env.get("world_size")) for run in done}) == 1
    return Row(
        group=group,
        method=group.method,
        student=group.student,
        teacher=_with_accuracy(group.teacher, over_seeds("teacher_top1")),
        data=group.data,
        epochs=group.epochs,
        setting=group.setting,
        seeds=tuple(run.seed for run in done),
        top1_last=over_seeds("top1_last"),
        top1_best=over_seeds("top1_best"),
        top5_last=over_seeds("top5_last"),
        kl_last=over_seeds("kl_last"),
        seconds=over_seeds("seconds") if one_machine else None,
        images_per_second=over_seeds("images_per_second") if one_machine else None,
        unfinished=tuple((len(run.epochs), run.planned) for run in group.runs if run.result is None),
        boxes={name: over_seeds(name) for name in OF_BOXES},
    )


def _with_accuracy(teacher: str | None, top1: Stat | None) -> str | None:
    """A teacher's name with how much of the validation images it has right, where the runs say so."""
    return teacher if teacher is None or top1 is None else f"{teacher} ({top1.mean:.2f} %)"


def _over_ce(row: Row, rows: Sequence[Row]) -> float | None:
    """None for cross-entropy itself, and where there is no such baseline or more than one."""
    mine = _baseline_settings(row.group.runs[0])
    same = [other for other in rows if other.method == "ce" and _baseline_settings(other.group.runs[0]) == mine]
    if row.method == "ce" or len(same) != 1 or row.score is None or same[0].score is None:
        return None
    return row.score.mean - same[0].score.mean


def _baseline_settings(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.settings.items() if key.partition(".")[0] not in _OF_THE_METHOD}


def _is_best(row: Row, rows: Sequence[Row]) -> bool:
    rivals = [other.score.mean for other in rows if other.group.block == row.group.block and other.score]
    return row.score is not None and len(rivals) > 1 and row.score.mean == max(rivals)


_IDENTITY = {"Data": "data", "Student": "student", "Epochs": "epochs", "Teacher": "teacher", "Setting": "setting"}
# A terminal's width, what may be left out to fit it, in this order, and what may be folded, to no less than so many.
_COLUMNS, _FOLDED, _FOLD = 80, ("Setting", "So far"), 6
_SPARED = ("Images/s", "Best", "Top-5", "Time", "APs", "APm", "APl", "KL", "AP75")
_NUMBERS = ("n", "Top-1", "AP", "Best", "Over CE", "Top-5", *BOXES[1:], "KL", "Time", "Images/s")


def figures_of(row: Row) -> dict[str, str]:
    """The row's numbers as text by column, empty where unknown."""

    def percent(stat: Stat | None) -> str:
        return stat.show(2) if stat else ""

    shown = {
        "n": str(row.n) if row.n else "",
        "Top-1": percent(row.top1_last),
        "AP": percent(row.boxes.get("AP")),
        "Best": percent(row.top1_best or row.boxes.get("AP_best")),
        "Over CE": "" if row.over_ce is None else f"{row.over_ce:+.2f}".replace("-", "\u2212"),
        "Top-5": percent(row.top5_last),
        **{name: percent(row.boxes.get(name)) for name in BOXES[1:]},
        "KL": row.kl_last.show(3) if row.kl_last else "",
        "Time": duration(row.seconds.mean) if row.seconds else "",
        "Images/s": f"{row.images_per_second.mean:,.0f}" if row.images_per_second else "",
    }
    assert tuple(shown) == _NUMBERS
    return shown


def _texts(rows: Sequence[Row], without: Sequence[str] = ()) -> tuple[str, list[str], list[list[str]]]:
    """What all rows share in one line, then header and cells of what they do not, without empty columns."""
    if not rows:
        raise ValueError("rows: expected at least one row, got none")
    varying = {title: name for title, name in _IDENTITY.items() if len({getattr(row, name) for row in rows}) > 1}
    shared = {title: getattr(rows[0], name) for title, name in _IDENTITY.items() if title not in varying}
    lines = [
        {"Method": row.method}
        | {title: str(getattr(row, name) or "") for title, name in varying.items()}
        | figures_of(row)
        | {"So far": row.state}
        for row in rows
    ]
    header = [name for name in lines[0] if name not in without and any(line[name] for line in lines)]
    line = ", ".join(f"{title.lower()} {value}" for title, value in shared.items() if value)
    return line[:1].upper() + line[1:], header, [[each[name] for name in header] for each in lines]


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|")
