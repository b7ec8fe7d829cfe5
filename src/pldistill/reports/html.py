"""Runs to one HTML page that carries everything inside: no script, no request, readable without this program.

A study's figures through training have a panel for each column of the study, in it a line a run.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pldistill.files import write_atomically
from pldistill.record import METRICS, SCORES, RunRecord, duration
from pldistill.reports import plots
from pldistill.reports.boxes import DetectionSheet, detection_sheets
from pldistill.reports.entries import Comparison
from pldistill.reports.groups import Group, Run, differing, flatten, group_runs
from pldistill.reports.plots import GROUNDS, Curve, panels_by_epoch, points_of
from pldistill.reports.tables import Row, Stat, figures_of, rows_of, stat


@dataclass(frozen=True)
class Block:
    """One contest: the rows with the same data, student and epochs, under their heading."""

    heading: str
    rows: tuple[tuple[Row, dict[str, str]], ...]


@dataclass(frozen=True)
class Chapter:
    """One run's part of the page."""

    name: str
    folder: str
    state: str
    figures: tuple[tuple[str, str], ...]
    curves: Markup | None
    recipe: str
    command: str


@dataclass(frozen=True)
class Differences:
    """Flat settings of several runs: what all share, and what differs, a line a run; None where a run lacks the key."""

    shared: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str | None, ...]], ...]


def write_report(
    records: Iterable[RunRecord],
    out: Path | str,
    title: str = "Distillation report",
    sections: Sequence[str] = (),
) -> Path:
    """Write the records' tables, curves, recipes and environments as one self-contained page, and give its path.

    `sections` are HTML that stands first, as it is (`comparison_html`). The same records give the same page. Images
    with what detectors found in them stand in the page, and as files in a folder beside it, NAME-images.
    Raises ValueError where there is no record or `out` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out: expected the name of a file to write, got the folder {str(out)!r}")
    rows = rows_of(group_runs(records))
    sheets = detection_sheets([row.group for row in rows])
    page = _page(rows, title, sections, sheets)
    out.parent.mkdir(parents=True, exist_ok=True)
    for sheet in sheets:
        file = out.parent / f"{out.stem}-images" / f"{sheet.name}.jpg"
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, sheet.content)
    write_atomically(out, page.encode("utf-8", errors="replace"))
    return out


def compare(named: Sequence[tuple[str, dict[str, str]]]) -> Differences:
    """Put what all agree in once, and what differs side by side."""
    keys = differing([settings for _, settings in named])
    return Differences(
        shared=tuple((key, value) for key, value in named[0][1].items() if key not in keys),
        keys=tuple(keys),
        lines=tuple((name, tuple(settings.get(key) for key in keys)) for name, settings in named),
    )


def _page(rows: Sequence[Row], title: str, sections: Sequence[str], sheets: Sequence[DetectionSheet]) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = [row.group for row in rows]
    runs = [(group.run_name(run), run) for group in groups for run in group.runs]
    return templates.get_template("report.html").render(
        title=title,
        summary=_summary(rows),
        sections=[Markup(section) for section in sections],
        findings=[finding for finding in map(_finding, rows) if finding],
        blocks=_blocks(rows),
        columns=_columns(rows),
        repeated=[(row.group.name, ", ".join(row.repeated_seeds)) for row in rows if row.repeated_seeds],
        by_class=_by_class(rows),
        curves=_curves(groups),
        sheets=[(sheet.caption, base64.b64encode(sheet.content).decode()) for sheet in sheets],
        chapters=[_chapter(index, name, run) for index, (name, run) in enumerate(runs, start=1)],
        recipes=compare([(name, run.settings | {"seed": run.seed}) for name, run in runs]),
        environments=compare([(name, _surroundings(run.env)) for name, run in runs]),
        commands=[_command(run) for group in sorted(groups, key=lambda group: not group.teaches) for run in group.runs],
        teaching=any(group.teaches for group in groups),
        grounds=GROUNDS,
    )


def _summary(rows: Sequence[Row]) -> str:
    finished, left = sum(row.n for row in rows), sum(len(row.unfinished) for row in rows)
    parts = [_count(finished, "finished run")] + ([_count(left, "unfinished run")] if left else [])
    methods = len({row.method for row in rows})
    data = sorted({row.data for row in rows})
    return f"{', '.join(parts)}. {_count(methods, 'method')} on {', '.join(data)}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _finding(row: Row) -> dict[str, str] | None:
    """The best row of a contest, to be said first."""
    if not row.best or row.score is None:
        return None
    figure = figures_of(row)
    return {"method": row.group.name, "where": _heading(row)} | {
        "n": figure["n"],
        "metric": METRICS[row.ranked_by].short,
        "score": figure[row.score_title],
        "over": figure["Over CE"],
    }


def _heading(row: Row) -> str:
    return f"{row.student} on {row.data}, {_count(row.epochs, 'epoch')}"


def _blocks(rows: Sequence[Row]) -> list[Block]:
    return [
        Block(_heading(members[0]), tuple((row, figures_of(row)) for row in members))
        for members in (list(each) for _, each in groupby(rows, key=lambda row: row.group.block))
    ]


def _columns(rows: Sequence[Row]) -> list[str]:
    """The number columns that have something in them; n and what the rows are ranked by always."""
    shown = [figures_of(row) for row in rows]
    always = {"n", *(row.score_title for row in rows)}
    return [name for name in shown[0] if name in always or any(figure[name] for figure in shown)]


def _by_class(rows: Sequence[Row]) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Names of the rows of detectors, and for each class its mean AP in them; None where there is no such row."""
    found: dict[str, dict[str, Stat | None]] = {}
    for row in rows:
        results = [run.result.get("per_class") for run in row.group.runs if run.result is not None]
        known = [each for each in results if each is not None]
        if known:
            found[row.group.name] = {name: stat([each.get(name) for each in known]) for name in known[0]}
    if not found:
        return None
    names = dict.fromkeys(name for figures in found.values() for name in figures)
    lines = [(name, [each.get(name) for each in found.values()]) for name in names]
    return list(found), [(name, [each.show(1) if each else "" for each in stats]) for name, stats in lines]


def _curves(groups: Sequence[Group]) -> list[tuple[Markup, str]]:
    drawn = []
    for metric in SCORES.values():
        dots = "A dot is a run, a bar the mean of several, the dashed line the mean of cross-entropy. "
        through = f"{_meant(metric)} on the validation set after each epoch. A dot ends each run, seeds share a color."
        drawn += [(plots.score_by_method(groups, metric), dots + "The axis does not start at 0.")]
        drawn += [(plots.score_by_epoch(groups, metric), through)]
    drawn += [
        (
            plots.terms_by_epoch(groups),
            "The terms of the training loss by epoch, with their weights: what the optimizer sees. Scales differ.",
        ),
        (
            plots.kl_by_epoch(groups),
            "How far each student's answers on the validation set are from its teacher's: "
            "Kullback-Leibler divergence at temperature 1, in nats. 0 is a perfect copy.",
        ),
    ]
    return [(Markup(svg), caption) for svg, caption in drawn if svg]


def _meant(metric: str) -> str:
    return {"top1": "Top-1 accuracy", "AP": "COCO's AP (%)"}[metric]


def _chapter(index: int, name: str, run: Run) -> Chapter:
    curves = plots.run_curves(run, f"run{index}")
    done = f"{len(run.epochs)} of {_count(run.planned, 'epoch')}"
    return Chapter(
        name=name,
        folder=str(run.folder),
        state="finished" if run.result is not None else f"unfinished, {done} done",
        figures=_result_figures(run),
        curves=Markup(curves) if curves else None,
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False),
        command=_command(run),
    )


def _result_figures(run: Run) -> tuple[tuple[str, str], ...]:
    """Of a finished run, what its result says, in words and units; unknown figures are left out."""
    if run.result is None:
        return ()
    shown = (
        ("AP", "AP", lambda value: f"{value:.2f} %"),
        ("AP50", "AP50", lambda value: f"{value:.2f} %"),
        ("best AP", "AP_best", lambda value: f"{value:.2f} %"),
        ("last top-1", "top1_last", lambda value: f"{value:.2f} %"),
        ("best top-1", "top1_best", lambda value: f"{value:.2f} %"),
        ("in epoch", "best_epoch", str),
        ("top-5", "top5_last", lambda value: f"{value:.2f} %"),
        ("KL to the teacher", "kl_last", lambda value: f"{value:.3f} nats"),
        ("parameters", "parameters", lambda value: f"{value:,}"),
        ("time", "seconds", duration),
        ("speed", "images_per_second", lambda value: f"{value:,.0f} images/s"),
    )
    known = {label: (run.result.get(key), as_text) for label, key, as_text in shown}
    return tuple((label, as_text(value)) for label, (value, as_text) in known.items() if value is not None)


def _surroundings(env: dict[str, Any]) -> dict[str, str]:
    """The environment flattened; of each later one that the run was resumed in, what was new."""
    first = flatten({key: value for key, value in env.items() if key != "resumed"})
    later = [flatten(each) for each in env.get("resumed", [])]
    news = [", ".join(f"{key}={new}" for key, new in each.items() if first.get(key) != new) for each in later]
    return first | {f"resumed {number}": new for number, new in enumerate(news, start=1)}


def _command(run: Run) -> str:
    return f"pldistill train --recipe {shlex.quote(str(run.folder / 'recipe.json'))} --out NEW_FOLDER"


def through_training(comparison: Comparison, metric: str) -> str | None:
    """A metric after every epoch as SVG, of finished and unfinished runs. None where no run has it."""
    columns = dict.fromkeys(each.column for each in comparison.entries)
    looks = {name: look for look, name in enumerate(dict.fromkeys(each.name for each in comparison.entries))}
    panels: dict[str, list[Curve]] = {column: [] for column in columns}
    for each in comparison.entries:
        series = tuple(points_of(record.epochs(), metric) for record in each.records)
        if any(series):
            panels[each.column].append(Curve(each.name, series, looks[each.name]))
    label = f", {comparison.mark}" if comparison.mark else ""
    title = f"{METRICS[metric].short} by epoch{label}"
    return panels_by_epoch(
        f"through-{metric}", title, [(column, curves) for column, curves in panels.items() if curves]
    )


def through_html(comparison: Comparison) -> list[Markup]:
    """A `<figure>` for each metric that the layout wants drawn and some run has."""
    drawn = [(metric, through_training(comparison, metric)) for metric in comparison.layout.through]
    label = f" {comparison.label}." if comparison.label else ""
    return [
        Markup(
            "<figure>{}<figcaption>{} by epoch: {}. A line is a run, the runs of a method look alike.{}"
            "</figcaption></figure>"
        ).format(Markup(svg), METRICS[metric].short, METRICS[metric].meaning, label)
        for metric, svg in drawn
        if svg
    ]
