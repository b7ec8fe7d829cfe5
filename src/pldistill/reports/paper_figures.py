"""The paper's Figures 1 and 2: what was measured in a firm hand, the published points in a lighter one.

Figures of another protocol than the published one are no match for its points, so they have panels and scales of their
own. All top-1 in percent; methods are named as in `METHODS`, `ce` for the student alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from pldistill.reports.plots import DASHES, PALETTE, TEXT_PT, clean, house_style, spread
from pldistill.specs import unknown


class Stat(NamedTuple):
    """A measured mean over `n` runs and their sample standard deviation (divided by n - 1), None for a single run."""

    mean: float
    std: float | None
    n: int


# method -> place (a weight, a number of epochs, a pair of models) -> top-1
PublishedPoints = Mapping[str, Mapping[Any, float]]
Measured = Mapping[str, Mapping[Any, Stat | None]]

METHOD_COLORS = {"ce": PALETTE[5][0], "kd": PALETTE[0][0], "dist": PALETTE[1][0], "pld": PALETTE[2][0]}
NOT_RUN = "Measured: not run."
_LIGHT = 0.5  # alpha of the published points
_STEPS = [1, 2, 5, 10]
_HEIGHT = 2.9  # inches of a panel of lines


@dataclass(frozen=True)
class Point:
    """One result: where it stands, its mean and deviation in percent."""

    place: Any
    mean: float
    std: float


@dataclass(frozen=True)
class Series:
    """One method's points, in the order of their places; `light` for published ones."""

    method: str
    points: tuple[Point, ...]
    light: bool

    @property
    def name(self) -> str:
        """What its label says."""
        return f"{self.method.upper()}{', paper' if self.light else ''}"


def figure1a(published: PublishedPoints, measured: Measured, label: str = "") -> Figure:
    """Top-1 against the weight α of the cross-entropy beside KD, and beside DIST.

    Args:
        published: method to α to top-1.
        measured: the same with a mean and deviation over seeds; None, or nothing, where nothing was run.
        label: a protocol that is not the published one; empty for that.

    Raises:
        ValueError: a method without a color here, or no published point.
    """
    title, across = "Top-1 by the weight of the cross-entropy", "Weight \N{GREEK SMALL LETTER ALPHA}"
    return _lines_figure(title, across, (published, measured), label, _draw_along)


def figure1b(published: PublishedPoints, measured: Measured, label: str = "") -> Figure:
    """Top-1 of each method after a shorter and a longer training. Places are numbers of epochs; else as `figure1a`."""
    return _lines_figure("Top-1 by length of training", "Epochs", (published, measured), label, _draw_in_steps)


def figure2(published: Mapping[str, PublishedPoints], measured: Mapping[str, Measured], label: str = "") -> Figure:
    """Bars of top-1 for pairs of models, a part of the figure for each heading.

    Args:
        published: heading ("Homogeneous") to method to pair ("student < teacher", or a teacher) to top-1.
        measured: the same headings, as in `figure1a`; a heading may be missing.
        label: as in `figure1a`.

    Raises:
        ValueError: a method without a color here, a heading that is not published, or no published point.
    """
    extra = set(measured) - set(published)
    if extra:
        raise ValueError(f"measured: expected headings of {', '.join(published)}, got {', '.join(sorted(extra))}")
    parts = [
        (heading, _series(figures, True), _series(measured.get(heading, {}), False))
        for heading, figures in published.items()
    ]
    apart = bool(label) and any(firm for _, _, firm in parts)
    rows = [len(_places(light + firm)) + 0.6 for _, light, firm in parts]
    with house_style():
        figure = Figure(figsize=(10 if apart else 7.2, 0.85 * sum(rows) + 0.4), layout="constrained")
        halves = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=rows).ravel()
        for half, (heading, light, firm) in zip(halves, parts, strict=True):
            half.suptitle(clean(heading), x=0.01, ha="left", fontsize=TEXT_PT + 1, fontweight="bold", parse_math=False)
            _panels(half, light, firm, label, _draw_bars)
            lowest = max(ax.get_ylim()[0] for ax in half.axes)
            for ax in half.axes:  # as thick beside each other, however many pairs
                ax.set_ylim(lowest, -0.5)
    return figure


def _lines_figure(
    title: str, across: str, figures: tuple[PublishedPoints, Measured], label: str, draw: Callable[..., None]
) -> Figure:
    light, firm = _series(figures[0], True), _series(figures[1], False)
    _places(light)
    with house_style():
        figure = Figure(figsize=(8.4 if label and firm else 5.6, _HEIGHT + 0.7), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=TEXT_PT + 1, fontweight="bold")
        _panels(figure, light, firm, label, draw)
        for ax in figure.axes:
            ax.set_xlabel(across)
    return figure


def _series(figures: Mapping[str, Mapping[Any, Stat | float | None]], light: bool) -> list[Series]:
    """The methods that have a point, and their points."""
    found = []
    for method, by_place in figures.items():
        if method not in METHOD_COLORS:
            raise ValueError(unknown("method", method, METHOD_COLORS))
        known = [(place, figure) for place, figure in by_place.items() if figure is not None]
        points = [
            Point(place, figure.mean, figure.std or 0.0) if isinstance(figure, Stat) else Point(place, figure, 0.0)
            for place, figure in known
        ]
        if points:
            found.append(Series(method, tuple(points), light))
    return found


def _places(series: Sequence[Series]) -> list[Any]:
    """Every place once, in the order of its first coming."""
    places = list(dict.fromkeys(point.place for each in series for point in each.points))
    if not places:
        raise ValueError("published: expected at least one point, got none")
    return places


def _panels(
    figure: Figure | SubFigure, light: list[Series], firm: list[Series], label: str, draw: Callable[..., None]
) -> None:
    """One panel for the published points and what may be compared with them, else two."""
    if label and firm:
        parts = ((f"Measured, {label}", firm), ("Paper", light))
    elif firm:
        parts = (("Firm: measured, mean ± standard deviation. Light: paper.", light + firm),)
    else:
        parts = ((f"{NOT_RUN} Light: paper.", light),)
    for ax, (title, series) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        draw(ax, series)
        text = textwrap.fill(clean(title), 50 if len(parts) > 1 else 80)
        ax.set_title(text, fontsize=TEXT_PT, loc="left", parse_math=False)


def _draw_along(ax: Axes, series: list[Series]) -> None:
    """Lines over places that are numbers."""
    _draw_lines(ax, series, {place: place for place in _places(series)})


def _draw_in_steps(ax: Axes, series: list[Series]) -> None:
    """Lines over places at equal distances."""
    places = sorted(_places(series))
    _draw_lines(ax, series, {place: step for step, place in enumerate(places)})
    ax.set_xticks(range(len(places)), [f"{place:g}" for place in places])
    ax.set_xlim(-0.15, len(places) - 1 + 0.05)


def _draw_lines(ax: Axes, series: list[Series], across: Mapping[Any, float]) -> None:
    """A line a method, named at its end."""
    lasts = []
    for each in series:
        points = sorted(each.points, key=lambda point: across[point.place])
        ax.errorbar(
            [across[point.place] for point in points],
            [point.mean for point in points],
            yerr=[point.std for point in points],
            label=each.name,
            color=METHOD_COLORS[each.method],
            alpha=_LIGHT if each.light else 1.0,
            linestyle=DASHES[1] if each.light else DASHES[0],
            linewidth=1.2 if each.light else 1.8,
            marker="o",
            markersize=4,
            markerfacecolor="none" if each.light else None,
            elinewidth=1.2,
        )
        lasts.append(points[-1].mean)
    ax.set_ylabel("Top-1 (%)")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    ends = [(last - low) / (high - low) for last in lasts]
    for each, place in zip(series, spread(ends, (TEXT_PT + 3) / 72 / _HEIGHT), strict=True):
        look = {"color": METHOD_COLORS[each.method], "alpha": 0.75 if each.light else 1.0}
        ax.text(1.02, place, each.name, transform=ax.transAxes, va="center", **look)


def _draw_bars(ax: Axes, series: list[Series]) -> None:
    """A group of bars a pair, a bar a method with name and number; a measured one thin in front of the paper's."""
    pairs, methods = _places(series), list(dict.fromkeys(each.method for each in series))
    gap = 0.8 / len(methods)
    thin = 0.5 if len({each.light for each in series}) > 1 else 0.9
    words: dict[tuple[float, str], list[str]] = {}
    ends: dict[tuple[float, str], float] = {}
    for each in sorted(series, key=lambda one: one.light, reverse=True):
        shift = (methods.index(each.method) - (len(methods) - 1) / 2) * gap
        heights = [pairs.index(point.place) + shift for point in each.points]
        ax.barh(
            heights,
            [point.mean for point in each.points],
            xerr=None if each.light else [point.std for point in each.points],
            height=gap * (0.9 if each.light else thin),
            label=each.name,
            color=METHOD_COLORS[each.method],
            alpha=_LIGHT if each.light else 1.0,
            error_kw={"elinewidth": 1.0, "ecolor": matplotlib.rcParams["text.color"]},
        )
        for height, point in zip(heights, each.points, strict=True):
            spot = (height, each.method.upper())
            ends[spot] = max(ends.get(spot, 0.0), point.mean + point.std)
            words.setdefault(spot, []).insert(0, _said(point, each.light))
    for spot, text in words.items():
        ax.text(ends[spot], spot[0], f" {spot[1]} {', '.join(text)}", va="center", fontsize=TEXT_PT - 1)
    _frame_bars(ax, [point.mean for each in series for point in each.points], pairs)


def _said(point: Point, light: bool) -> str:
    spread_over = f" ± {point.std:.2f}" if point.std else ""
    return f"{'paper ' if light else ''}{point.mean:.2f}{spread_over}"


def _frame_bars(ax: Axes, values: list[float], pairs: Sequence[Any]) -> None:
    """Bars begin near the least value, said on the axis: from 0 on, all would look alike."""
    low = max(0.0, min(values) // 1 - 3)
    ax.set_xlim(low, max(values) + 0.3 * (max(values) - low))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
    ax.set_xlabel(f"Top-1 (%); bars begin at {low:g}")
    names = [clean(str(pair)).replace(" < ", "\nfrom ") for pair in pairs]
    ax.set_yticks(range(len(pairs)), names, parse_math=False)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
