"""How every figure looks: colours, ink, letters; SVG text that stands alone or sits in a page, and files."""

from __future__ import annotations

import html
import io
import re
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pldistill.files import write_atomically

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
SMALL = 9
_DPI = 160  # of PNG files

_RC = {
    "svg.hashsalt": "pldistill",
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": SMALL,
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
        picture = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.set_facecolor(GROUNDS[0])
            figure.set_dpi(_DPI)
            FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
        write_atomically(paths[1], picture.getvalue())
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
