"""A loss over a plane of student logits through the teacher's: the numbers behind a landscape.

The plane is s = t + a d1 + b d2, t the teacher's logits of one sample, d1 and d2 random and orthonormal, a and b from
-5|t| to 5|t|. Source: PLD paper, Appendix J, which leaves the seed, the number of classes, the label and KD's
temperature open. All is computed in float64.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from torch import Tensor

from pldistill import losses
from pldistill.reports.plots import FAINT, TEXT_PT, clean, house_style
from pldistill.specs import unknown

REACH = 5.0  # of a and b, in lengths of t
_STEP = 1e-3  # of the finite difference that gives the curvature, in lengths of t

# student (N, C), teacher (N, C), labels (N,), temperature -> (N,)
RowLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _plain(loss: Callable[..., Tensor], **options: Any) -> RowLoss:
    """A loss that knows its rows apart."""

    def rows(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
        return loss(student, teacher, labels, temperature=temperature, reduction="none", **options)

    return rows


def _inter(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """DIST's first term, each row a batch of its own."""

    def single(s: Tensor, t: Tensor) -> Tensor:
        return losses.dist(s[None], t[None], beta=1.0, gamma=0.0, temperature=temperature)

    return torch.func.vmap(single)(student, teacher)


LOSSES: dict[str, RowLoss] = {
    "kd": _plain(losses.kd),
    "rkl": _plain(losses.reverse_kl),
    "js": _plain(losses.jensen_shannon),
    "dist": _inter,
    "dkd": _plain(losses.dkd),
    "pld": _plain(losses.pld),
    "plkl": _plain(losses.plackett_luce_kl),
}
NOTES = {
    "dist": "DIST: its inter-class term alone, τ² (1 - r(p, q)): for one sample the other is a constant.",
    "pld": "PLD: τ acts on the teacher's weights alone.",
}


@dataclass(frozen=True)
class Plane:
    """Student logits s = t + a d1 + b d2.

    Attributes:
        teacher: t, (C,) float64.
        label: y, a class.
        first: d1, (C,), of length 1.
        second: d2, (C,), of length 1, orthogonal to d1.
        points: values of a, and of b: odd, so that s = t is one of the grid's.
    """

    teacher: Tensor
    label: int
    first: Tensor
    second: Tensor
    points: int

    @property
    def length(self) -> float:
        """|t|, the unit of a and b."""
        return float(self.teacher.norm())

    @property
    def axis(self) -> np.ndarray:
        """a, and b too, in lengths of t; 0 is exactly in its middle."""
        half = self.points // 2
        return REACH * np.arange(-half, half + 1) / half

    def lines(self) -> Iterator[Tensor]:
        """The student's logits, (points, C) for each b: a grid of many classes is never in memory at once."""
        axis = torch.from_numpy(self.axis) * self.length
        line = self.teacher + axis[:, None] * self.first
        for b in axis:
            yield line + b * self.second


@dataclass(frozen=True)
class Surface:
    """One loss over a plane.

    Attributes:
        method: a name in `LOSSES`.
        temperature: τ.
        values: (points, points): row by b, column by a.
        minimum: (a, b) of the least value of the grid, in lengths of t.
        least: that value.
        center: the value at s = t.
        gradient: the length of the gradient at s = t, over all logits.
        slope: the length of its part in the plane: where it is not 0, s = t is not least, however coarse the grid.
        curvature: the second derivatives along d1 and d2 at s = t, added.
    """

    method: str
    temperature: float
    values: np.ndarray
    minimum: tuple[float, float]
    least: float
    center: float
    gradient: float
    slope: float
    curvature: float


def random_teacher(classes: int, seed: int) -> Tensor:
    """A teacher's logits, (C,) float64: normal numbers scaled to length 1.

    Raises:
        ValueError: fewer than 2 classes, or a seed that is no whole number from 0.
    """
    _check_whole("classes", classes, least=2)
    teacher = torch.randn(classes, dtype=torch.float64, generator=_generator(seed, stream=0))
    return teacher / teacher.norm()


def make_plane(teacher: Tensor, label: int, *, seed: int = 0, points: int = 101) -> Plane:
    """A plane through `teacher` along two random directions, which depend on the seed and the number of classes alone.

    Args:
        teacher: t, (C,), floating point, finite, C >= 2.
        label: y, 0..C-1.
        seed: of d1 and d2.
        points: odd, at least 3.

    Raises:
        ValueError: not so, or t of length 0.
    """
    if teacher.dim() != 1 or len(teacher) < 2 or not teacher.is_floating_point():
        raise ValueError(
            f"teacher: expected floating point (C,) with C >= 2, got {tuple(teacher.shape)} {teacher.dtype}"
        )
    teacher = teacher.detach().cpu().double()
    if not (teacher.isfinite().all() and teacher.norm() > 0):
        raise ValueError(f"teacher: expected finite logits, not all 0, got {teacher[:8].tolist()}")
    _check_whole("label", label, least=0)
    if label >= len(teacher):
        raise ValueError(f"label: expected a class from 0 to {len(teacher) - 1}, got {label}")
    _check_whole("points", points, least=3)
    if points % 2 == 0:
        raise ValueError(f"points: expected an odd number, so that s = t is one of them, got {points}")
    drawn = torch.randn(len(teacher), 2, dtype=torch.float64, generator=_generator(seed, stream=1))
    first, second = torch.linalg.qr(drawn).Q.unbind(1)
    return Plane(teacher, label, first.clone(), second.clone(), points)


def surface(plane: Plane, method: str, temperature: float) -> Surface:
    """The loss `method` on every point of the plane.

    Raises:
        ValueError: an unknown method, or a temperature that is not positive and finite.
    """
    if method not in LOSSES:
        raise ValueError(unknown("loss", method, LOSSES))
    loss = LOSSES[method]
    values = torch.stack([_rows(loss, plane, line, temperature) for line in plane.lines()]).numpy()
    b, a = np.unravel_index(int(values.argmin()), values.shape)
    axis, middle = plane.axis, plane.points // 2
    (gradient,) = _gradients(loss, plane, plane.teacher[None], temperature)
    return Surface(
        method=method,
        temperature=temperature,
        values=values,
        minimum=(float(axis[a]), float(axis[b])),
        least=float(values[b, a]),
        center=float(values[middle, middle]),
        gradient=float(gradient.norm()),
        slope=float((torch.stack([plane.first, plane.second]) @ gradient).norm()),
        curvature=_curvature(loss, plane, temperature),
    )


def _rows(loss: RowLoss, plane: Plane, students: Tensor, temperature: float) -> Tensor:
    labels = torch.full((len(students),), plane.label)
    return loss(students, plane.teacher.expand_as(students), labels, temperature)


def _gradients(loss: RowLoss, plane: Plane, students: Tensor, temperature: float) -> Tensor:
    """Each row's gradient, (N, C)."""
    students = students.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(_rows(loss, plane, students, temperature).sum(), students)
    return gradients


def _curvature(loss: RowLoss, plane: Plane, temperature: float) -> float:
    """From differences of the gradient: both ways of the plane at once, and of any loss."""
    step, ways = _STEP * plane.length, torch.stack([plane.first, plane.second])
    ahead = _gradients(loss, plane, plane.teacher + step * ways, temperature)
    behind = _gradients(loss, plane, plane.teacher - step * ways, temperature)
    return float(((ahead - behind) * ways).sum() / (2 * step))


def _generator(seed: int, stream: int) -> torch.Generator:
    """Streams of one seed are apart, so that a teacher of a run and a random one see the same directions."""
    _check_whole("seed", seed, least=0)
    return torch.Generator().manual_seed(2 * seed + stream)


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")


def numbers(plane: Plane, surfaces: Sequence[Surface]) -> dict[str, Any]:
    """All that describes a landscape, for JSON; the grids themselves are `grids`."""
    return {
        "plane": "s = t + a d1 + b d2, a and b in lengths of t",
        "label": plane.label,
        "classes": len(plane.teacher),
        "teacher_length": plane.length,
        "teacher_argmax": int(plane.teacher.argmax()),
        "points": plane.points,
        "reach": REACH,
        "surfaces": [
            {
                "method": each.method,
                "temperature": each.temperature,
                "minimum": {"a": each.minimum[0], "b": each.minimum[1], "value": each.least},
                "at_teacher": {
                    "value": each.center,
                    "gradient_norm": each.gradient,
                    "gradient_norm_in_plane": each.slope,
                    "curvature_in_plane": each.curvature,
                },
                "highest": float(each.values.max()),
            }
            for each in surfaces
        ],
        "notes": [NOTES[name] for name in dict.fromkeys(each.method for each in surfaces) if name in NOTES],
    }


def grids(plane: Plane, surfaces: Sequence[Surface]) -> dict[str, np.ndarray]:
    """What `numpy.savez` keeps so that a landscape can be drawn again: axis, t, d1, d2, and a grid for each surface."""
    vectors = {"teacher": plane.teacher, "d1": plane.first, "d2": plane.second}
    return {
        "axis": plane.axis,
        **{name: vector.numpy() for name, vector in vectors.items()},
        **{f"{each.method}_{each.temperature:g}": each.values for each in surfaces},
    }


COLOR_MAP = "viridis"  # from dark to light in step with the value, for every eye
_NAMES = {"rkl": "Reverse KL", "js": "Jensen-Shannon", "dist": "DIST, inter term", "plkl": "PL-KL"}
_LEVELS = 12
_TICKS = (-REACH, 0, REACH)
_FACETS = 50  # of the surface along a side: more would not be seen
_WIDTH = 2.5  # inches of a column
# For three dimensions: no walls, and a grid that is faint by its color, since the style's alpha has no effect there.
_SOLID: dict[Any, Any] = {"grid.color": FAINT} | {f"axes3d.{name}axis.panecolor": "none" for name in "xyz"}
_DARK, _LIGHT = "#14171b", "#ffffff"  # a mark may lie on any color of the map, so it is dark with a light edge


def landscapes(plane: Plane, surfaces: Sequence[Surface], caption: str, *, shared: bool = False) -> Figure:
    """A column for each surface, its heights and colors from its least value up.

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
        figure.suptitle(text, x=0.01, ha="left", fontsize=TEXT_PT, linespacing=1.35, parse_math=False)
    return figure


def _relief(ax: Axes3D, plane: Plane, surface: Surface, low: float, high: float) -> None:
    a, b = np.meshgrid(plane.axis, plane.axis)
    ax.plot_surface(
        a,
        b,
        surface.values,
        rcount=_FACETS,
        ccount=_FACETS,
        cmap=COLOR_MAP,
        vmin=low,
        vmax=high,
        linewidth=0,
        antialiased=False,
        rasterized=True,  # thousands of facets: an image inside the SVG
    )
    ax.set_zlim(low, high)
    ax.view_init(elev=32, azim=-55)
    ax.set_box_aspect((1, 1, 0.75))
    ax.set_xticks(_TICKS)
    ax.set_yticks(_TICKS)
    ax.zaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.tick_params(labelsize=TEXT_PT - 2, pad=-3)
    ax.zaxis.set_tick_params(pad=1)
    ax.set_xlabel("a / |t|", labelpad=-7, fontsize=TEXT_PT - 1)
    ax.set_ylabel("b / |t|", labelpad=-7, fontsize=TEXT_PT - 1)
    name = _NAMES.get(surface.method, surface.method.upper())
    ax.set_title(f"{name}, τ = {surface.temperature:g}", fontsize=TEXT_PT + 1, fontweight="bold", pad=9)


def _contours(ax: Axes, plane: Plane, surface: Surface, levels: np.ndarray) -> None:
    """Bands between the levels, the least value as a ring and s = t as a cross, and both in numbers below."""
    axis, values = plane.axis, np.clip(surface.values, levels[0], levels[-1])
    ax.contourf(axis, axis, values, levels=levels, cmap=COLOR_MAP)
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
    least, center = told_apart(surface.least, surface.center)
    text = f"○ least {least} at ({a:.3g}, {b:.3g})\n+ s = t {center}, |∇| {shown(surface.gradient, 2)}"
    return text.replace("-", "\N{MINUS SIGN}")


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as few digits, from 4 on, as tell them apart."""
    digits = next((digits for digits in range(4, 9) if shown(one, digits) != shown(other, digits)), 4)
    return shown(one, digits), shown(other, digits)


def shown(value: float, digits: int) -> str:
    """0 where rounding alone is left of a value."""
    return f"{0 if abs(value) < 1e-12 else value:.{digits}g}"
