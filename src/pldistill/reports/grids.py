"""A table whose columns stand in groups (paper, measured, chosen), as Markdown, for a terminal and as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_WORDS = ("method", "variant")  # the columns that hold no numbers, beside the first
_FOLD = 28  # a first column that is wider may be folded in a terminal, to no less


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
    rule = ["---" if words else "---:" for words in _holds_words(grid)]
    lines = [[f"**{escaped(text)}**" if bold else escaped(text) for text, bold in line] for line in grid.lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, rule, *lines])


def markdown_list(items: Sequence[str]) -> str:
    """A GitHub list."""
    return "\n".join(f"- {escaped(item)}" for item in items)


def escaped(text: str) -> str:
    """On one line, with what Markdown would take for its own marks escaped."""
    return re.sub(r"([\\|<*`])", r"\\\1", " ".join(text.split()))


@dataclass(frozen=True)
class FittedGrid:
    """A grid for a terminal, without the columns of one name; in several tables where the terminal is too narrow."""

    grid: Grid
    label: str
    without: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = [index for index, (_, name) in enumerate(self.grid.header) if name != self.without]
        tables = _fitting(self.grid, self.label, shown, options.max_width)
        tight = len(tables) > 1 or _folds(self.grid)
        for at, columns in enumerate(tables):
            if at > 0:
                yield ""
            yield rich_grid(self.grid, self.label, columns, tight=tight)


def rich_grid(grid: Grid, label: str, columns: Sequence[int] | None = None, *, tight: bool = False) -> Table:
    """A table for a terminal, of some of the columns; a tight one is as narrow as its figures and longest words."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = range(len(grid.header)) if columns is None else columns
    words = _holds_words(grid)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    folds = _folds(grid)
    for at in shown:
        width = _width(grid, label, at) - 2 if tight else None
        table.add_column(Text(_title(*grid.header[at], label)), justify="left" if words[at] else "right", width=width)
    for line in grid.lines:
        texts = ((at, *line[at]) for at in shown)
        table.add_row(
            *(Text(text, style="bold" if bold else "", no_wrap=at > 0 or not folds) for at, text, bold in texts)
        )
    return table


def _fitting(grid: Grid, label: str, shown: Sequence[int], room: int) -> list[list[int]]:
    """The columns in as few tables as `room` characters allow, the first column in each of them."""
    tables: list[list[int]] = []
    for at in shown[1:]:
        wider = [*tables[-1], at] if tables else []
        if wider and sum(_width(grid, label, each) for each in wider) <= room:
            tables[-1] = wider
        else:
            tables.append([shown[0], at])
    return tables or [list(shown)]


def _width(grid: Grid, label: str, at: int) -> int:
    """How many characters a column takes in a terminal at least, with what stands between two."""
    texts = [line[at][0] for line in grid.lines]
    words = _title(*grid.header[at], label).split()
    if at == 0:
        words += [word for text in texts if len(text) > _FOLD for word in text.split()]
        texts = [text for text in texts if len(text) <= _FOLD]
    return max(map(len, (*words, *texts)), default=0) + 2


def _folds(grid: Grid) -> bool:
    return any(len(line[0][0]) > _FOLD for line in grid.lines)


def _holds_words(grid: Grid) -> list[bool]:
    return [at == 0 or name in _WORDS for at, (_, name) in enumerate(grid.header)]


def html_grid(grid: Grid, label: str) -> Markup:
    """Two rows of headers: whose figures, with the label, and which."""
    groups, names = Markup(""), Markup("")
    for group, members in groupby(grid.header, key=lambda column: column[0]):
        title = f"{group}, {label}" if label and group not in ("", "paper") else group
        start = Markup('<th scope="colgroup" class="{}" colspan="{}">').format(
            "number" if group == "paper" else "", len(list(members))
        )
        groups += start + Markup("{}</th>").format(title)
    kinds = ["" if words else "number" for words in _holds_words(grid)]
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
