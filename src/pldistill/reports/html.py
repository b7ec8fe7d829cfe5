"""Runs to one HTML page that carries everything inside: no script, no request, readable without this program.

A study's figures through training have a panel for each column of the study, in it a line a run.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pldistill.files import write_atomically
from pldistill.record import METRICS, RunRecord, duration
from pldistill.reports import plots
from pldistill.reports.boxes import Sheet, detection_sheets
from pldistill.reports.comparison import Comparison
from pldistill.reports.masks import mask_sheets
from pldistill.reports.plots import GROUNDS, Curve, panels_by_epoch, points_of
from pldistill.reports.render import Table, html_table, spread_texts
from pldistill.reports.runs import Group, RecordedRun, flatten, group_runs, over_seeds
from pldistill.reports.summary import summarize, summary_document, summary_texts
from pldistill.tasks.registry import TASKS, task_of
from pldistill.tasks.spec import Metric


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
    warnings: tuple[str, ...]


NONE = "\N{EN DASH}"  # stands in a cell that has nothing


def write_report(
    records: Iterable[RunRecord],
    out: Path | str,
    title: str = "Distillation report",
    sections: Sequence[str] = (),
) -> Path:
    """Write the records' tables, curves, recipes and environments as one self-contained page, and give its path.

    `sections` are HTML that stands first, as it is (`render.html_section`). The same records give the same page. Images
    with what detectors found in them stand in the page, and as files in a folder beside it, NAME-images.
    Raises ValueError where there is no record or `out` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out: expected the name of a file to write, got the folder {str(out)!r}")
    lines = summarize(group_runs(records))
    groups = lines["group"].tolist()
    sheets = [*detection_sheets(groups), *mask_sheets(groups)]
    page = _page(lines, title, sections, sheets)
    out.parent.mkdir(parents=True, exist_ok=True)
    for sheet in sheets:
        file = out.parent / f"{out.stem}-images" / f"{sheet.name}.jpg"
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, sheet.content)
    write_atomically(out, page.encode("utf-8", errors="replace"))
    return out


def shared_and_apart(named: Sequence[tuple[str, dict[str, str]]]) -> tuple[dict[str, str], pd.DataFrame]:
    """Flat settings of several runs: what all agree in, and a line a run of what differs, None where it has none."""
    settings = pd.DataFrame([setting for _, setting in named], index=[name for name, _ in named], dtype=object)
    differs = settings.nunique(dropna=False) > 1
    apart = settings.loc[:, differs]
    return settings.loc[:, ~differs].iloc[0].to_dict(), apart.where(apart.notna(), None)


def _page(lines: pd.DataFrame, title: str, sections: Sequence[str], sheets: Sequence[Sheet]) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups: list[Group] = lines["group"].tolist()
    runs = [(group.run_name(run), run) for group in groups for run in group.runs]
    repeated = lines[lines["repeated_seeds"] != ""]
    return templates.get_template("report.html").render(
        title=title,
        summary=_summary(lines),
        sections=[Markup(section) for section in sections],
        findings=_findings(lines),
        blocks=[_block(block) for _, block in lines.groupby("block", sort=False)],
        columns=_titles(lines),
        glossary=_glossary(_titles(lines)),
        scores=" or ".join(_scores(_titles(lines))),
        unfinished=bool(lines["waiting"].any()),
        repeated=list(zip(repeated["name"], repeated["repeated_seeds"], strict=True)),
        by_class=_by_class(groups),
        curves=_curves(groups),
        sheets=[(sheet.caption, base64.b64encode(sheet.content).decode()) for sheet in sheets],
        chapters=[_chapter(index, name, run) for index, (name, run) in enumerate(runs, start=1)],
        recipes=_settings([(name, run.settings | {"seed": run.seed}) for name, run in runs]),
        environments=_settings([(name, _surroundings(run.env)) for name, run in runs]),
        commands=[_command(run) for group in sorted(groups, key=lambda group: not group.teaches) for run in group.runs],
        teaching=any(group.teaches for group in groups),
        grounds=GROUNDS,
    )


def _summary(lines: pd.DataFrame) -> str:
    left = int(lines["waiting"].sum())
    parts = [_count(int(lines["n"].sum()), "finished run")] + ([_count(left, "unfinished run")] if left else [])
    data = ", ".join(sorted(lines["data"].unique()))
    return f"{', '.join(parts)}. {_count(lines['method'].nunique(), 'method')} on {data}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _findings(lines: pd.DataFrame) -> list[dict[str, str]]:
    """The best line of each contest, to be said first."""
    best = lines[lines["best"]]
    texts = summary_texts(best)
    return [
        {
            "method": line["name"],
            "where": _heading(line),
            "n": str(line["n"]),
            "metric": METRICS[line["ranked_by"]].short,
            "score": _with_unit(texts.at[at, METRICS[line["ranked_by"]].heading], METRICS[line["ranked_by"]]),
            "best": "lowest" if METRICS[line["ranked_by"]].lower else "highest",
            "over": texts.at[at, "Over CE"],
        }
        for at, line in best.iterrows()
    ]


def _heading(line: pd.Series) -> str:
    return f"{line['student']} on {line['data']}, {_count(line['epochs'], 'epoch')}"


def _block(lines: pd.DataFrame) -> tuple[str, str, Markup]:
    """One contest: its heading, what its lines share, and their table."""
    document = summary_document(lines)
    return _heading(lines.iloc[0]), " ".join(document.above), html_table(document.sections[0].tables[0])


def _titles(lines: pd.DataFrame) -> list[str]:
    """The columns of numbers that have something in them."""
    texts = summary_texts(lines)
    return texts.columns[texts.ne("").any()].tolist()


def _glossary(titles: Sequence[str]) -> list[tuple[str, str]]:
    """What the columns are that a task measures: by heading, in the order of the columns."""
    known = {metric.heading: metric.meaning for spec in TASKS.values() for metric in spec.summary.values()}
    return [(title, known[title]) for title in titles if title in known]


def _scores(titles: Sequence[str]) -> list[str]:
    """What the lines are ranked by, as sentences say it."""
    scores = [spec.metrics[spec.score] for spec in TASKS.values()]
    return [score.short for score in scores if score.heading in titles]


def _settings(named: Sequence[tuple[str, dict[str, str]]]) -> tuple[dict[str, str], Markup | None]:
    """What all runs share, and a table of what differs; None where nothing does, or there is one run."""
    shared, apart = shared_and_apart(named)
    if apart.empty or len(apart) < 2:
        return shared, None
    texts = apart.where(apart.notna() & (apart != "null"), NONE).reset_index(names="Run")
    return shared, html_table(Table.of(texts, words=tuple(apart.columns)))


def _with_unit(text: str, metric: Metric) -> str:
    return f"{text} {metric.unit}".strip()


def _by_class(groups: Sequence[Group]) -> Markup | None:
    """Each class's mean AP in the groups of detectors; None where there is no such group."""
    lines = [
        (group.label, name, value)
        for group in groups
        for run in group.runs
        for name, value in ((run.result or {}).get("per_class") or {}).items()
    ]
    if not lines:
        return None
    values = pd.DataFrame(lines, columns=["group", "class", "value"]).astype({"value": float})
    spread = over_seeds(values, ["group", "class"])
    spread["text"] = spread_texts(spread["mean"], spread["std"], 1)
    texts = spread.pivot(index="class", columns="group", values="text")
    texts = texts.reindex(values["class"].unique(), columns=values["group"].unique()).fillna(NONE)
    return html_table(Table.of(texts.reset_index(names="Class")))


def _curves(groups: Sequence[Group]) -> list[tuple[Markup, str]]:
    drawn = []
    for metric in (spec.score for spec in TASKS.values()):
        dots = "A dot is a run, a bar the mean of several, the dashed line the mean of cross-entropy. "
        after = f"{METRICS[metric].in_units(METRICS[metric].heading)} on the validation set after each epoch."
        through = f"{after} A dot ends each run, seeds share a color."
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


def _chapter(index: int, name: str, run: RecordedRun) -> Chapter:
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
        warnings=_warnings(run),
    )


def _warnings(run: RecordedRun) -> tuple[str, ...]:
    """What to know before believing the figures: what ran away, images left out, what is torn or missing."""
    result = run.result or {}
    skipped = [
        f"{_count(count, 'image')} of {part} left out: cannot be read"
        for part, count in result.get("skipped_images", {}).items()
    ]
    return (*result.get("warnings", ()), *skipped, *run.record.problems())


def _result_figures(run: RecordedRun) -> tuple[tuple[str, str], ...]:
    """Of a finished run, what its result says, in words and units; unknown figures are left out."""
    if run.result is None:
        return ()
    result, spec = run.result, task_of(run.result)
    score = spec.metrics[spec.score]
    others = [(metric.short, spec.result_key(name), metric.show) for name, metric in list(spec.summary.items())[1:]]
    figures = (
        (f"last {score.short}", spec.result_key(spec.score), score.show),
        (f"best {score.short}", f"{spec.score}_best", score.show),
        ("in epoch", "best_epoch", str),
        *others,
        ("parameters", "parameters", lambda value: f"{value:,}"),
        ("time", "seconds", duration),
        ("speed", "images_per_second", lambda value: f"{value:,.0f} images/s"),
    )
    values = [(label, result.get(key), as_text) for label, key, as_text in figures]
    return tuple((label, as_text(value)) for label, value, as_text in values if value is not None)


def _surroundings(env: dict[str, Any]) -> dict[str, str]:
    """The environment flattened; of each later one that the run was resumed in, what was new."""
    first = flatten({key: value for key, value in env.items() if key != "resumed"})
    later = [flatten(resumed) for resumed in env.get("resumed", [])]
    news = [", ".join(f"{key}={new}" for key, new in other.items() if first.get(key) != new) for other in later]
    return first | {f"resumed {number}": new for number, new in enumerate(news, start=1)}


def _command(run: RecordedRun) -> str:
    return f"pldistill train --recipe {shlex.quote(str(run.folder / 'recipe.json'))} --out NEW_FOLDER"


def through_training(comparison: Comparison, metric: str) -> str | None:
    """A metric after every epoch as SVG, of finished and unfinished runs. None where no run has it."""
    names = dict.fromkeys(entry.name for entry in comparison.entries)
    looks = {name: look for look, name in enumerate(names)}
    panels: dict[str, list[Curve]] = {column: [] for column in comparison.columns}
    for entry in comparison.entries:
        series = tuple(points_of(record.epochs(), metric) for record in entry.records)
        if any(series):
            panels[entry.column].append(Curve(entry.name, series, looks[entry.name]))
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
