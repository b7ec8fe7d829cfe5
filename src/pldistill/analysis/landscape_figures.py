"""Loss landscapes: above the surface, below it the contours with the grid's least value and the teacher's place."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D

from pldistill.analysis.landscape import REACH, Plane, Surface
from pldistill.analysis.style import FAINT, SMALL, clean, house_style

COLOURS = "viridis"  # from dark to light in step with the value, for every eye
_NAMES = {"rkl": "Reverse KL", "js": "Jensen-Shannon", "dist": "DIST, inter term", "plkl": "PL-KL"}
_LEVELS = 12
_TICKS = (-REACH, 0, REACH)
_FACETS = 50  # of the surface along a side: more would not be seen
_WIDTH = 2.5  # inches of a column
# For three dimensions: no walls, and a grid that is faint by its colour, since the style's alpha has no effect there.
_SOLID: dict[Any, Any] = {"grid.color": FAINT} | {f"axes3d.{name}axis.panecolor": "none" for name in "xyz"}
_DARK, _LIGHT = "#14171b", "#ffffff"  # a mark may lie on any colour of the map, so it is dark with a light edge


def landscapes(plane: Plane, surfaces: Sequence[Surface], caption: str, *, shared: bool = False) -> Figure:
    """A column for each surface, its heights and colours from its least value up.

    `shared`: all span the same height, that of the steepest, so that slopes may be compared.

    Raises:
        ValueError: no surface.
    """
    if not surfaces:
        raise ValueError("surfaces: expected at least one, got none")
    columns = len(surfaces)
    spans = [float(np.ptp(each.values)) for each in surfaces]
    with house_style(), matplotlib.rc_context(_SOLID):
        width = _WIDTH * max(columns, 2) + 0.4
        figure = Figure(figsize=(width, 5.9), layout="constrained")
        grid = figure.add_gridspec(2, columns, height_ratios=(1.15, 1))
        for column, each in enumerate(surfaces):
            span = max(spans) if shared else spans[column]
            low, high = each.least, each.least + (span or 1.0)  # a flat surface still has a scale
            solid = figure.add_subplot(grid[0, column], projection="3d")
            assert isinstance(solid, Axes3D)
            _relief(solid, plane, each, low, high)
            flat = figure.add_subplot(grid[1, column])
            _contours(flat, plane, each, np.linspace(low, high, _LEVELS + 1))
            flat.set_ylabel("b / |t|" if column == 0 else "")
        text = textwrap.fill(clean(caption), int(width * 15.5))
        figure.suptitle(text, x=0.01, ha="left", fontsize=SMALL, linespacing=1.35, parse_math=False)
    return figure


def _relief(ax: Axes3D, plane: Plane, surface: Surface, low: float, high: float) -> None:
    a, b = np.meshgrid(plane.axis, plane.axis)
    ax.plot_surface(
        a,
        b,
        surface.values,
        rcount=_FACETS,
        ccount=_FACETS,
        cmap=COLOURS,
        vmin=low,
        vmax=high,
        linewidth=0,
        antialiased=False,
        rasterized=True,  # thousands of facets: a picture inside the SVG
    )
    ax.set_zlim(low, high)
    ax.view_init(elev=32, azim=-55)
    ax.set_box_aspect((1, 1, 0.75))
    ax.set_xticks(_TICKS)
    ax.set_yticks(_TICKS)
    ax.zaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.tick_params(labelsize=SMALL - 2, pad=-3)
    ax.zaxis.set_tick_params(pad=1)
    ax.set_xlabel("a / |t|", labelpad=-7, fontsize=SMALL - 1)
    ax.set_ylabel("b / |t|", labelpad=-7, fontsize=SMALL - 1)
    name = _NAMES.get(surface.method, surface.method.upper())
    ax.set_title(f"{name}, τ = {surface.temperature:g}", fontsize=SMALL + 1, fontweight="bold", pad=9)


def _contours(ax: Axes, plane: Plane, surface: Surface, levels: np.ndarray) -> None:
    """Bands between the levels, the least value as a ring and s = t as a cross, and both in numbers below."""
    axis, values = plane.axis, np.clip(surface.values, levels[0], levels[-1])
    ax.contourf(axis, axis, values, levels=levels, cmap=COLOURS)
    if np.ptp(values) > 0:
        ax.contour(axis, axis, values, levels=levels, colors=_LIGHT, linewidths=0.4, alpha=0.6)
    edge = [patheffects.withStroke(linewidth=3.2, foreground=_LIGHT)]
    ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6}
    ax.plot(*surface.minimum, color=_DARK, linestyle="none", label="least", path_effects=edge, **ring)
    ax.plot(0, 0, color=_DARK, linestyle="none", label="s = t", path_effects=edge, marker="+", markersize=7, mew=1.6)
    ax.set_aspect("equal")
    ax.set_xlim(-REACH, REACH)
    ax.set_ylim(-REACH, REACH)
    ax.grid(False)
    ax.set_xticks(_TICKS)
    ax.set_yticks(_TICKS)
    ax.set_xlabel(f"a / |t|\n{reading(surface)}", linespacing=1.4)


def reading(surface: Surface) -> str:
    """What the marks of a panel say, in two lines."""
    a, b = surface.minimum
    least, centre = told_apart(surface.least, surface.centre)
    text = f"○ least {least} at ({a:.3g}, {b:.3g})\n+ s = t {centre}, |∇| {shown(surface.gradient, 2)}"
    return text.replace("-", "\N{MINUS SIGN}")


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as few digits, from 4 on, as tell them apart."""
    digits = next((digits for digits in range(4, 9) if shown(one, digits) != shown(other, digits)), 4)
    return shown(one, digits), shown(other, digits)


def shown(value: float, digits: int) -> str:
    """0 where rounding alone is left of a value."""
    return f"{0 if abs(value) < 1e-12 else value:.{digits}g}"
