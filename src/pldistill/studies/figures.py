"""The paper's figures by name: its points beside what was measured, and the loss landscapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from pldistill.reports.comparison import Comparison, Entry
from pldistill.reports.comparison_frames import figure_frame
from pldistill.reports.paper_figures import NOT_RUN, PublishedPoints, Stat, figure1a, figure1b, figure2
from pldistill.reports.plots import write_figure
from pldistill.specs import unknown
from pldistill.studies import FIGURES, STUDIES, imagenet_tables
from pldistill.studies.landscapes import METHODS, TEMPERATURES, run_landscape
from pldistill.studies.paper import published
from pldistill.studies.runner import compare
from pldistill.studies.study import plan

HOMOGENEOUS, HETEROGENEOUS = "(a) Homogeneous pairs", "(b) Heterogeneous teachers of a ResNet-50"
TITLES = {
    "figure1a": "Top-1 against the weight of the cross-entropy, for KD and DIST",
    "figure1b": "Top-1 after a shorter and a longer training",
    "figure2": "Top-1 of homogeneous and heterogeneous pairs",
    "figure3": "PLD's loss surface at four temperatures",
    "figure4": "Loss landscapes of DIST, KD and PLD",
}


def reproduce_figure(
    name: str,
    out: Path,
    *,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
    label: str = "",
    seed: int = 0,
    classes: int = 100,
    points: int = 101,
    console: Console,
) -> None:
    """Draw a figure of the paper, or all of them.

    Figures 1 and 2 become `NAME.svg` and `NAME.png` in `out`; 3 and 4 folders of that name, as `run_landscape` fills.

    Args:
        name: a key of `TITLES`, or "all".
        out: the folder, made where it is missing.
        measured: by figure, what its function in `reports.paper_figures` takes; `figure2` by its headings.
        label: the protocol of what was measured, where it is not the published one.
        seed, classes, points: of Figures 3 and 4.
        console: where the lines go.

    Raises:
        ValueError: for an unknown figure, and as those functions.
    """
    if name not in FIGURES:
        raise ValueError(unknown("figure", name, FIGURES))
    for each in TITLES if name == "all" else (name,):
        if each in ("figure3", "figure4"):
            methods, temperatures = (("pld",), TEMPERATURES) if each == "figure3" else (METHODS, (1.0,))
            console.print(f"{each}: {TITLES[each]}", highlight=False)
            run_landscape(methods, temperatures, out / each, classes=classes, seed=seed, points=points, console=console)
        else:
            _draw(each, out, (measured or {}).get(each, {}), label, console)


def _draw(name: str, out: Path, measured: Mapping[str, Any], label: str, console: Console) -> None:
    if name == "figure1a":
        figure = figure1a(weights_of_cross_entropy(), measured, label)
    elif name == "figure1b":
        figure = figure1b(lengths_of_training(), measured, label)
    else:
        figure = figure2(pairs(), measured, label)
    svg, png = write_figure(figure, out / name, TITLES[name])
    note = "" if measured else f" {NOT_RUN}"
    console.print(f"{name}: {TITLES[name]}.{note} {svg}, {png}", highlight=False, soft_wrap=True)


def weights_of_cross_entropy() -> PublishedPoints:
    """Figure 1a's points, from Table 8; of DIST's those on the sweep."""
    table = published("table8")
    return {
        "kd": {alpha: top1 for alpha, (top1, _) in table["kd_tau2_by_alpha"].items()},
        "dist": {
            alpha: top1
            for alpha, beta, gamma, top1, _ in table["dist_tau1_by_alpha_beta_gamma"]
            if imagenet_tables.swept(alpha, beta, gamma)
        },
    }


def lengths_of_training() -> PublishedPoints:
    """Figure 1b's points, from Table 4."""
    return _by_method(published("table4"))


def pairs() -> dict[str, PublishedPoints]:
    """Figure 2's bars, from Tables 2 and 3."""
    tables = {HOMOGENEOUS: "table2", HETEROGENEOUS: "table3"}
    return {heading: _by_method(published(table)) for heading, table in tables.items()}


def _by_method(table: Mapping[str, Any]) -> PublishedPoints:
    """The columns of a table that are methods."""
    places = {name: at for at, name in enumerate(table["columns"]) if not name.startswith("teacher_")}
    return {name: {row: figures[at] for row, figures in table["rows"].items()} for name, at in places.items()}


Points = dict[str, dict[Any, Stat]]


def measured(out: Path, *, scale: str = "full", data: str | None = None) -> tuple[dict[str, dict[str, Any]], str]:
    """Read the points of Figures 1 and 2 from the runs in `out`; and the label of their protocol.

    Args:
        out: the folder of the ImageNet studies.
        scale: theirs; a study without it has no points.
        data: the images they were made on; None is the study's own.

    Raises:
        ValueError: for an unknown scale.
    """
    if scale not in STUDIES["table4"].scales:
        raise ValueError(unknown("scale", scale, STUDIES["table4"].scales))
    weights, lengths, homogeneous, heterogeneous = (
        _comparison(name, out, scale, data) for name in ("table8", "table4", "table2", "table3")
    )
    found: dict[str, dict[str, Any]] = {
        "figure1a": _points(weights, _weight),
        "figure1b": _points(lengths, lambda entry: (entry.row, entry.finished[0].read_recipe()["epochs"])),
        "figure2": {
            heading: points
            for heading, comparison in ((HOMOGENEOUS, homogeneous), (HETEROGENEOUS, heterogeneous))
            if (points := _points(comparison, lambda entry: (entry.row, entry.column)))
        },
    }
    labels = {each.label for each in (weights, lengths, homogeneous, heterogeneous) if each is not None}
    return {name: points for name, points in found.items() if points}, "; ".join(sorted(labels))


def _comparison(name: str, out: Path, scale: str, data: str | None) -> Comparison | None:
    study = STUDIES[name]
    if scale not in study.scales:
        return None
    known = study.scales[scale].data or ("imagenet:." if scale == "full" else "cifar100:.")
    return compare(plan(study, out=out, scale=scale, data=data or known), out)


def _points(comparison: Comparison | None, place: Callable[[Entry], tuple[str, Any] | None]) -> Points:
    """Top-1 by method and place on the axis, of the entries that have finished runs and a place."""
    points: Points = {}
    if comparison is None:
        return points
    for line in figure_frame(comparison, ["top1"]).to_dict("records"):
        at = place(comparison.entries[line["entry"]]) if pd.notna(line["mean"]) else None
        if at is not None:
            std = None if pd.isna(line["std"]) else line["std"]
            points.setdefault(at[0], {})[at[1]] = Stat(line["mean"], std, int(line["count"]))
    return points


def _weight(entry: Entry) -> tuple[str, float] | None:
    """The weight of the cross-entropy; DIST's (1, 2, 2) lies on no line with the others."""
    if entry.row in imagenet_tables.KD_ROWS:
        return "kd", imagenet_tables.KD_ROWS[entry.row]
    weights = imagenet_tables.DIST_ROWS[entry.row]
    return ("dist", weights[0]) if imagenet_tables.swept(*weights) else None
