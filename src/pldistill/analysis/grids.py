"""A table whose columns stand in groups (paper, measured, chosen), as Markdown, for a terminal and as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from rich.table import Table

_WORDS = ("method", "variant")  # the columns that hold no numbers


@dataclass(frozen=True)
class Grid:
    """A table: (group, name) of its columns, and its lines of (text, bold); the first column names the line."""

    header: tuple[tuple[str, str], ...]
    lines: tuple[tuple[tuple[str, bool], ...], ...]


def _title(group: str, name: str, label: str) -> str:
    """A column's title where no row of groups stands above it."""
    if (group, name) in (("measured", "n"), ("chosen", "variant")):
        return {"n": "n", "variant": "chosen"}[name]
    labelled = label and group and group != "paper" and name != "n"
    return f"{group} {name}".strip() + (f" ({label})" if labelled else "")


def markdown_grid(grid: Grid, label: str) -> str:
    """A GitHub table; the label stands in the header of every measured column."""
    names = [escaped(_title(group, name, label)) for group, name in grid.header]
    rule = ["---" if name in _WORDS else "---:" for _, name in grid.header]
    lines = [[f"**{escaped(text)}**" if bold else escaped(text) for text, bold in line] for line in grid.lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, rule, *lines])


def markdown_list(items: Sequence[str]) -> str:
    """A GitHub list."""
    return "\n".join(f"- {escaped(item)}" for item in items)


def escaped(text: str) -> str:
    """On one line, with what Markdown would take for its own marks escaped."""
    return re.sub(r"([\\|<*`])", r"\\\1", " ".join(text.split()))


def rich_grid(grid: Grid, label: str, without: str | None = None) -> Table:
    """A table for a terminal, without the columns of one name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [index for index, (_, name) in enumerate(grid.header) if name != without]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for group, name in (grid.header[index] for index in shown):
        table.add_column(Text(_title(group, name, label)), justify="left" if name in _WORDS else "right")
    for line in grid.lines:
        table.add_row(*(Text(line[at][0], style="bold" if line[at][1] else "", no_wrap=True) for at in shown))
    return table


def html_grid(grid: Grid, label: str) -> Markup:
    """Two rows of headers: whose figures, with the label, and which."""
    groups, names = Markup(""), Markup("")
    for group, members in groupby(grid.header, key=lambda column: column[0]):
        title = f"{group}, {label}" if label and group not in ("", "paper") else group
        start = Markup('<th scope="colgroup" class="{}" colspan="{}">').format(
            "number" if group == "paper" else "", len(list(members))
        )
        groups += start + Markup("{}</th>").format(title)
    kinds = ["" if name in _WORDS else "number" for _, name in grid.header]
    for kind, (_, name) in zip(kinds, grid.header, strict=True):
        names += Markup('<th scope="col" class="{}">{}</th>').format(kind, name or "top-1")
    body = Markup("")
    for line in grid.lines:
        body += Markup('<tr><th scope="row">{}</th>').format(line[0][0])
        for kind, (text, bold) in zip(kinds[1:], line[1:], strict=True):
            shown = Markup("<strong>{}</strong>").format(text) if bold else text
            body += Markup('<td class="{}">{}</td>').format(kind, shown)
        body += Markup("</tr>\n")
    head = Markup("<tr>{}</tr>\n<tr>{}</tr>").format(groups, names)
    return Markup('<div class="wide"><table>\n<thead>{}</thead>\n<tbody>{}</tbody>\n</table></div>').format(head, body)
