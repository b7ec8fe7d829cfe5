"""Drawings: how every figure looks, and runs to SVG text: final accuracies side by side, and curves by epoch.

Lines carry their names at their ends, so color is never the only key. The same runs give the same bytes.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pldistill.files import write_atomically
from pldistill.record import METRICS, last_of, score_of
from pldistill.reports.runs import Group, RecordedRun
from pldistill.tasks.registry import DEFAULT, find_task

# (on white, on near-black). Each stands at least 3:1 against its ground, and any two stay apart for eyes that lack one
# kind of cone: the tests compute both.
PALETTE = (
    ("#1459ba", "#5fa4fe"),
    ("#da6513", "#fb9250"),
    ("#009d8e", "#15d6a9"),
    ("#891a70", "#bc85bb"),
    ("#664e01", "#f8cf52"),
    ("#2e2922", "#cddeef"),
)
GROUNDS = ("#ffffff", "#14171b")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # after the palette is through, it starts again dashed, then dotted
_INK = "#123457"  # stands for the ink of the place where the figure is shown; no line has it
FAINT = f"{_INK}24"  # the same, as good as transparent
TEXT_PT = 9  # points
_DPI = 160  # of PNG files

_RC = {
    "svg.hashsalt": "pldistill",
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": TEXT_PT,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "xtick.major.width": 0.6,
}


def house_style() -> AbstractContextManager[None]:
    """Matplotlib's defaults, whatever the user's settings, and our ink: the same figure everywhere."""
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    ours: dict[Any, Any] = defaults | _RC
    return matplotlib.rc_context(ours)


def clean(name: str) -> str:
    """Without characters that XML forbids or that break a line."""
    return "".join(character if character.isprintable() else " " for character in name)


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element whose ids start with `name`; `title` is what a screen reader says."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # Letters are stored as text and drawn by the viewer's fonts; here they are only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        FigureCanvasSVG(figure).print_svg(out, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)  # several figures share a page
    svg = svg.replace(_INK, "currentColor")
    start = f'<svg class="curves" role="img" aria-label="{html.escape(title)}"'
    return svg.replace("<svg", start, 1).replace(">", f">\n<style>{_css()}</style>", 1)


def write_figure(figure: Figure, stem: Path, title: str) -> list[Path]:
    """Write the figure as `stem`.svg and, on white, as `stem`.png, and give both paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with house_style():  # ticks and letters are made while it is drawn
        write_atomically(paths[0], to_svg(figure, stem.name, title).encode())
        image = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.set_facecolor(GROUNDS[0])
            figure.set_dpi(_DPI)
            FigureCanvasAgg(figure).print_png(image, metadata={"Software": None})
        write_atomically(paths[1], image.getvalue())
    return paths


def _css() -> str:
    dark = "".join(
        f'.curves [style*="{way}: {light}"]{{{way}:{dark}!important}}'
        for light, dark in PALETTE
        for way in ("stroke", "fill")
    )
    return (
        ".curves{color:#1d2126}.curves text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif!important}"
        f"@media screen and (prefers-color-scheme:dark){{.curves{{color:#dfe3e8}}{dark}}}"
    )


_LONGEST_DIRECT = 24  # longer names go below the axes: beside the lines they would squeeze them


@dataclass(frozen=True)
class Curve:
    """A named line: several series (seeds) drawn alike, each a list of (epoch, value)."""

    name: str
    series: tuple[tuple[tuple[int, float], ...], ...]
    look: int


def score_by_method(groups: Sequence[Group], metric: str = "top1") -> str | None:
    """Last `metric` of the finished runs that are ranked by it, a line a group, a panel a contest.

    None where no contest has two groups.
    """
    blocks: dict[tuple[str, str, int], list[tuple[Group, list[float]]]] = {}
    for group in groups:
        lasts = [last_of(run.result, metric) for run in group.runs if run.result is not None]
        scores = [last for last in lasts if last is not None]
        if scores:
            blocks.setdefault(group.block, []).append((group, scores))
    panels = [lines for lines in blocks.values() if len(lines) > 1]
    if not panels:
        return None
    rows = [len(lines) + 0.9 for lines in panels]
    with house_style():
        figure = Figure(figsize=(6, 0.36 * sum(rows)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": rows}).ravel()
        for ax, lines in zip(axes, panels, strict=True):
            _dots(ax, lines)
            if len(panels) > 1:
                ax.set_title(clean(lines[0][0].student), fontsize=TEXT_PT + 1, loc="left", parse_math=False)
        axes[-1].set_xlabel(METRICS[metric].in_units(f"Validation {METRICS[metric].short} after the last epoch"))
        return to_svg(
            figure, f"last-{metric}", f"{METRICS[metric].heading} after the last epoch by method, a dot a run"
        )


def score_by_epoch(groups: Sequence[Group], metric: str = "top1") -> str | None:
    """Validation `metric` by epoch, a line a run, the seeds of a group alike. None where no epoch has it."""
    short = METRICS[metric].short
    axis = METRICS[metric].in_units(f"Validation {short}")
    return _single(metric, f"Validation {short} by epoch", axis, _by_group(groups, metric))


def kl_by_epoch(groups: Sequence[Group]) -> str | None:
    """KL(teacher || student) on the validation set (nats) by epoch. None where no run has a teacher."""
    title = "Distance of each student from its teacher by epoch"
    return _single("kl", title, "KL(teacher ‖ student), nats", _by_group(groups, "kl"))


def terms_by_epoch(groups: Sequence[Group]) -> str | None:
    """The weighted loss terms by epoch, a panel a group. None where no epoch is done yet."""
    names = dict.fromkeys(term for g in groups for run in g.runs for row in run.epochs for term in row.get("terms", {}))
    looks = {term: look for look, term in enumerate(names)}
    panels = [(group.label, _terms(group, looks)) for group in groups]
    panels = [(name, curves) for name, curves in panels if curves]
    title = "Weighted loss terms by epoch, one panel a method"
    return panels_by_epoch("terms", title, panels)


def panels_by_epoch(name: str, title: str, panels: Sequence[tuple[str, Sequence[Curve]]]) -> str | None:
    """A small figure a panel, each under its own name; every panel has a curve. None where there is no panel."""
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with house_style():
        figure = Figure(figsize=(6, 0.3 + 1.75 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, (heading, curves) in zip(axes, panels, strict=False):
            _draw(ax, curves, height=1.2)
            ax.set_title(clean(heading), fontsize=TEXT_PT + 1, loc="left", parse_math=False)
        for ax in axes[len(panels) :]:
            ax.remove()
        figure.supxlabel("Epoch", fontsize=TEXT_PT)
        return to_svg(figure, name, title)


def run_curves(run: RecordedRun, name: str) -> str | None:
    """One run: the percentages that its epochs' lines show, and loss, by epoch. `name` is unique in the page."""
    metric, spec = score_of(run.recipe), find_task(run.recipe.get("task", DEFAULT))
    measured = [(known.short, name) for name, known in spec.metrics.items() if known.in_progress and known.unit == "%"]
    alone = [("training", "train_top1"), ("validation", metric)]
    accuracy = _curves(alone if len(measured) == 1 else measured[::-1], run)
    loss = _curves([("training", "loss"), ("validation", "val_loss")], run)
    if not accuracy and not loss:
        return None
    with house_style():
        figure = Figure(figsize=(6, 2.2), layout="constrained")
        titles = (METRICS[metric].in_units(METRICS[metric].heading), "Loss")
        for ax, title, curves in zip(figure.subplots(1, 2), titles, (accuracy, loss), strict=True):
            _draw(ax, curves, height=1.6)
            ax.set_title(title, fontsize=TEXT_PT + 1, loc="left")
            ax.set_xlabel("Epoch")
        return to_svg(figure, name, "Accuracy and loss of this run by epoch")


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1] for labels: in the order of the wanted ones, `gap` apart, and as near to them as that allows.

    Nearest in least squares: labels that would touch form a heap, which sits at the mean of what its members want.
    Where there is no room for all, the gap shrinks.
    """
    last = len(wanted) - 1
    gap = min(gap, 1 / max(last, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    heaps: list[list[float]] = []  # each place less the gaps below it: now "apart by gap" reads "not falling"
    for rank, i in enumerate(order):
        heaps.append([wanted[i] - rank * gap])
        while len(heaps) > 1 and fmean(heaps[-2]) > fmean(heaps[-1]):
            heaps[-2:] = [heaps[-2] + heaps[-1]]
    level = [fmean(heap) for heap in heaps for _ in heap]
    places = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        places[i] = min(max(level[rank], 0.0), 1 - last * gap) + rank * gap
    return places


def _by_group(groups: Sequence[Group], key: str) -> list[Curve]:
    curves = [
        Curve(group.label, tuple(points_of(run.epochs, key) for run in group.runs), look)
        for look, group in enumerate(groups)
    ]
    return [curve for curve in curves if any(curve.series)]


def _terms(group: Group, looks: dict[str, int]) -> list[Curve]:
    curves = [
        Curve(term, tuple(points_of(run.epochs, "terms", term, "weighted") for run in group.runs), look)
        for term, look in looks.items()
    ]
    return [curve for curve in curves if any(curve.series)]


def _curves(wanted: Sequence[tuple[str, str]], run: RecordedRun) -> list[Curve]:
    curves = [Curve(name, (points_of(run.epochs, key),), look) for look, (name, key) in enumerate(wanted)]
    return [curve for curve in curves if any(curve.series)]


def points_of(rows: Sequence[dict[str, Any]], *path: str) -> tuple[tuple[int, float], ...]:
    """(epoch, value) of what lies at `path` in each row; rows without it, or with null, are left out."""
    points = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            points.append((row["epoch"], value))
    return tuple(points)


def _single(name: str, title: str, unit: str, curves: list[Curve]) -> str | None:
    if not curves:
        return None
    height = max(3.3, 0.8 + 0.17 * len(curves))
    with house_style():
        figure = Figure(figsize=(6, height), layout="constrained")
        ax = figure.subplots()
        _draw(ax, curves, height=height - 0.6)
        ax.set_xlabel("Epoch")
        ax.set_title(unit, fontsize=TEXT_PT + 1, loc="left")
        return to_svg(figure, name, title)


def _dots(ax: Axes, lines: Sequence[tuple[Group, list[float]]]) -> None:
    """A dot a run, a bar at the mean, and cross-entropy's mean as a line through all."""
    for place, (group, scores) in enumerate(lines):
        color = PALETTE[1 if group.method == "ce" else 0][0]
        mean = fmean(scores)
        ax.plot([min(scores), max(scores)], [place, place], color=color, linewidth=1, alpha=0.5)
        ax.plot(scores, [place] * len(scores), color=color, marker="o", markersize=6, linestyle="none", alpha=0.75)
        if len(scores) > 1:
            ax.plot([mean, mean], [place - 0.24, place + 0.24], color=color, linewidth=2)
        if group.method == "ce":
            ax.axvline(mean, color=color, linewidth=1, linestyle=DASHES[1], zorder=0)
        name = textwrap.fill(clean(group.label), _LONGEST_DIRECT, max_lines=2, placeholder="…")
        at = ax.get_yaxis_transform()
        ax.text(-0.015, place, name, transform=at, ha="right", va="center", linespacing=1.0, parse_math=False)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.yaxis.set_visible(False)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.08)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))


def _draw(ax: Axes, curves: Sequence[Curve], height: float) -> None:
    """The lines with a dot where each ends, and their names; `height` is about that of the axes, in inches."""
    for curve in curves:
        width = 1.8 if len(curve.series) == 1 else 1.1
        for points in filter(None, curve.series):
            ax.plot(*zip(*points, strict=True), linewidth=width, **_look(curve))
            ax.plot(*points[-1], color=_look(curve)["color"], marker="o", markersize=4, markeredgewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if any(len(curve.name) > _LONGEST_DIRECT for curve in curves):
        _name_below(ax, curves)
    else:
        _name_ends(ax, curves, gap=(TEXT_PT + 3) / 72 / height)


def _look(curve: Curve) -> dict[str, Any]:
    return {
        "color": PALETTE[curve.look % len(PALETTE)][0],
        "linestyle": DASHES[curve.look // len(PALETTE) % len(DASHES)],
    }


def _name_ends(ax: Axes, curves: Sequence[Curve], gap: float) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    ends = [(_end(curve) - low) / (high - low) for curve in curves]
    for curve, end, place in zip(curves, ends, spread(ends, gap), strict=True):
        leader = ([1.0, 1.02, 1.055], [end, place, place])
        ax.plot(*leader, transform=ax.transAxes, clip_on=False, linewidth=1.4, **_look(curve))
        ax.text(1.07, place, clean(curve.name), transform=ax.transAxes, va="center", parse_math=False)


def _name_below(ax: Axes, curves: Sequence[Curve]) -> None:
    ordered = sorted(curves, key=_end, reverse=True)  # as the lines end, from the top
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.set_figheight(figure.get_figheight() + 0.19 * len(ordered))
    handles = []
    for curve in ordered:
        (handle,) = ax.plot([], [], label=clean(curve.name), **_look(curve))
        handles.append(handle)
    legend = figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=TEXT_PT)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _end(curve: Curve) -> float:
    lasts = [points[-1][1] for points in curve.series if points]
    return sum(lasts) / len(lasts)
