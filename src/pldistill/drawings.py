"""The paper's figures by name: its points beside what was measured, and the loss landscapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pldistill.analysis.published_figures import NOT_RUN, Published, figure1a, figure1b, figure2
from pldistill.analysis.style import write_figure
from pldistill.landscapes import METHODS, TEMPERATURES, run_landscape
from pldistill.recipes import FIGURES, table8
from pldistill.recipes.published import published
from pldistill.specs import unknown

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
        measured: by figure, what its function in `analysis.published_figures` takes; `figure2` by its headings.
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


def weights_of_cross_entropy() -> Published:
    """Figure 1a's points, from Table 8; of DIST's those on the sweep."""
    table = published("table8")
    return {
        "kd": {alpha: top1 for alpha, (top1, _) in table["kd_tau2_by_alpha"].items()},
        "dist": {
            alpha: top1
            for alpha, beta, gamma, top1, _ in table["dist_tau1_by_alpha_beta_gamma"]
            if table8.swept(alpha, beta, gamma)
        },
    }


def lengths_of_training() -> Published:
    """Figure 1b's points, from Table 4."""
    return _by_method(published("table4"))


def pairs() -> dict[str, Published]:
    """Figure 2's bars, from Tables 2 and 3."""
    tables = {HOMOGENEOUS: "table2", HETEROGENEOUS: "table3"}
    return {heading: _by_method(published(table)) for heading, table in tables.items()}


def _by_method(table: Mapping[str, Any]) -> Published:
    """The columns of a table that are methods."""
    places = {name: at for at, name in enumerate(table["columns"]) if not name.startswith("teacher_")}
    return {name: {row: figures[at] for row, figures in table["rows"].items()} for name, at in places.items()}
