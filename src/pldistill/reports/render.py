"""Tables for people: a frame of texts as Markdown, as HTML and for a terminal; a frame of numbers as CSV.

Whatever the project shows in a table goes through these four. A `Document` is tables with headings and notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.table import Table as RichTable

_FOLD = 28  # words that take more columns of a terminal may be folded, to no less


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        frame: (lines, columns) of texts. A column is named (group, name): whose figure, `measured`, and which.
        bold: which of them are the best, of the same shape; None for none.
        label: the protocol's mark, at every header but the paper's; empty for the published protocol.
        words: names of columns that hold no numbers, beside the first, which says what a line is.
    """

    frame: pd.DataFrame
    bold: pd.DataFrame | None = None
    label: str = ""
    words: tuple[str, ...] = ("variant",)

    @classmethod
    def of(cls, frame: pd.DataFrame, bold: pd.DataFrame | None = None, words: Sequence[str] = ()) -> Table:
        """A table whose columns have no groups, from texts by title; `bold` may lack some of the columns."""
        titles = pd.MultiIndex.from_product([[""], frame.columns])
        marks = None if bold is None else bold.reindex(columns=frame.columns, fill_value=False).set_axis(titles, axis=1)
        return cls(frame.set_axis(titles, axis=1), marks, words=tuple(words))

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(group, name) of each column."""
        return [(str(group), str(name)) for group, name in self.frame.columns]

    @property
    def titles(self) -> list[str]:
        """What heads each column where no line of groups stands above it."""
        return [_title(group, name, self.label) for group, name in self.columns]

    @property
    def is_words(self) -> list[bool]:
        """For each column, whether it is aligned as words."""
        return [at == 0 or name in self.words for at, (_, name) in enumerate(self.columns)]

    @property
    def lines(self) -> list[list[tuple[str, bool]]]:
        """(text, whether bold) of every cell, line by line."""
        bold = [[False] * len(self.columns)] * len(self.frame) if self.bold is None else self.bold.to_numpy().tolist()
        texts = self.frame.to_numpy(dtype=object).tolist()
        return [list(zip(line, marks, strict=True)) for line, marks in zip(texts, bold, strict=True)]


@dataclass(frozen=True)
class Section:
    """Tables under one heading, a sentence above them and footnotes below; texts may be empty."""

    title: str
    said: str = ""
    tables: tuple[Table, ...] = ()
    footnotes: tuple[str, ...] = ()
    level: int = 3


@dataclass(frozen=True)
class Document:
    """A title, what is to be known first, the sections, and how to read them."""

    title: str
    above: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()


def plus_minus(mean: float | None, std: float | None, digits: int) -> str:
    """`1,234.50 ± 0.25`; the mean alone where there is no deviation, nothing where there is no mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:,.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


def spread_texts(means: pd.Series, stds: pd.Series, digits: int) -> list[str]:
    """`plus_minus` of every line."""
    return [plus_minus(mean, std, digits) for mean, std in zip(means, stds, strict=True)]


def formatted(values: Iterable[float | str | None], form: str) -> list[str]:
    """Each value in a format (`,.2f`), nothing where there is none or an empty text."""
    return ["" if value is None or value == "" or pd.isna(value) else format(float(value), form) for value in values]


def signed(value: float | None, digits: int) -> str:
    """A difference with its sign, nothing for none."""
    return "" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def minus(first: str, second: str) -> str:
    """What heads a difference."""
    return f"{first} \N{MINUS SIGN} {second}"


def _title(group: str, name: str, label: str) -> str:
    if (group, name) in (("measured", "n"), ("chosen", "variant")):
        return "n" if name == "n" else "chosen"
    labelled = label and group and group != "paper" and name != "n"
    return f"{group} {name}".strip() + (f" ({label})" if labelled else "")


def csv_text(frame: pd.DataFrame) -> str:
    """The frame without its index, in full precision; what is not known is empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def markdown(document: Document) -> str:
    """Headings, GitHub tables and lists."""
    parts = [f"## {escaped(document.title)}"] if document.title else []
    parts += map(escaped, document.above)
    for section in document.sections:
        parts += [f"{'#' * section.level} {escaped(section.title)}"] if section.title else []
        parts += [escaped(section.said)] if section.said else []
        parts += map(markdown_table, section.tables)
        parts += [_markdown_list(section.footnotes)] if section.footnotes else []
    parts += ["How to read it:", _markdown_list(document.notes)] if document.notes else []
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A GitHub table, numbers on the right, the best in bold."""
    rule = ["---" if words else "---:" for words in table.is_words]
    body = [[f"**{escaped(text)}**" if bold else escaped(text) for text, bold in line] for line in table.lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(map(escaped, table.titles)), rule, *body])


def _markdown_list(items: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def escaped(text: str) -> str:
    """On one line, with what Markdown would take for its own marks escaped."""
    return re.sub(r"([\\|<*`])", r"\\\1", " ".join(text.split()))


def html_section(document: Document, figures: Iterable[Markup] = ()) -> str:
    """A `<section>` for the report's page, in the page's own style; `figures` stand under the tables."""
    parts = [Markup("<h2>{}</h2>").format(document.title)]
    parts += [Markup("<p>{}</p>").format(line) for line in document.above]
    for section in document.sections:
        heading = Markup("<h{0}>{1}</h{0}>").format(section.level, section.title)
        parts += [heading] if section.title else []
        parts += [Markup('<p class="soft">{}</p>').format(section.said)] if section.said else []
        parts += map(html_table, section.tables)
        parts += [Markup('<p class="soft">{}</p>').format(note) for note in section.footnotes]
    parts += figures
    notes = Markup("").join(Markup("<li>{}</li>").format(note) for note in document.notes)
    parts.append(Markup('<ul class="soft">{}</ul>').format(notes))
    return str(Markup("<section>\n{}\n</section>\n").format(Markup("\n").join(parts)))


def html_table(table: Table) -> Markup:
    """Whose figures in a first line of headers, where they are named, and which in a second."""
    groups = Markup("")
    for group, members in groupby(group for group, _ in table.columns):
        title = f"{group}, {table.label}" if table.label and group not in ("", "paper") else group
        kind = "number" if group == "paper" else ""
        cell = Markup('<th scope="colgroup" class="{}" colspan="{}">{}</th>')
        groups += cell.format(kind, len(list(members)), title)
    kinds = ["" if words else "number" for words in table.is_words]
    names = Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format(kind, name or ("top-1" if group == "paper" else ""))
        for kind, (group, name) in zip(kinds, table.columns, strict=True)
    )
    body = Markup("")
    for (first, _), *others in table.lines:
        body += Markup('<tr><th scope="row">{}</th>').format(first)
        for kind, (text, bold) in zip(kinds[1:], others, strict=True):
            content = Markup("<strong>{}</strong>").format(text) if bold else text
            body += Markup('<td class="{}">{}</td>').format(kind, content)
        body += Markup("</tr>\n")
    head = Markup("<tr>{}</tr>\n").format(groups) if any(group for group, _ in table.columns) else Markup("")
    head += Markup("<tr>{}</tr>").format(names)
    return Markup('<div class="wide"><table>\n<thead>{}</thead>\n<tbody>{}</tbody>\n</table></div>').format(head, body)


def terminal(document: Document) -> Group:
    """The same for a terminal; a table that is too wide for it is several, each with the leading words."""
    from rich.console import Group
    from rich.text import Text

    parts = [Text(document.title, style="bold")] if document.title else []
    parts += map(Text, document.above)
    for section in document.sections:
        parts += [Text(""), Text(section.title, style="bold")] if section.title else [Text("")]
        parts += [Text(section.said)] if section.said else []
        parts += [FittedTable(table) for table in section.tables]
        parts += map(Text, section.footnotes)
    return Group(*parts, Text(""), *(Text(note, style="dim") for note in document.notes))


@dataclass(frozen=True)
class FittedTable:
    """A table as rich draws it: one where the terminal is wide enough, else several."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [_width(self.table, at) for at in range(len(self.table.columns))]
        titles = sum(max(len(title) + 2, width) for title, width in zip(self.table.titles, widths, strict=True))
        tight = titles > options.max_width or _folds(self.table, 0)
        for number, columns in enumerate(_fitting(self.table.is_words, widths, options.max_width)):
            yield from [""] if number else []
            yield _rich_table(self.table, columns, widths if tight else None)


def _rich_table(table: Table, columns: Sequence[int], widths: Sequence[int] | None) -> RichTable:
    """Some of the columns; with `widths` as narrow as their figures and longest words."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for at in columns:
        width = None if widths is None else widths[at] - 2
        justify = "left" if table.is_words[at] else "right"
        drawn.add_column(Text(table.titles[at]), justify=justify, width=width, overflow="fold")
    for line in table.lines:
        texts = [(at, *line[at]) for at in columns]
        drawn.add_row(
            *(Text(text, style="bold" if bold else "", no_wrap=not _folds(table, at)) for at, text, bold in texts)
        )
    return drawn


def _fitting(is_words: Sequence[bool], widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns in as few tables as `room` characters allow, the leading words in each of them."""
    count = next((at for at, words in enumerate(is_words) if not words), len(is_words))
    lead = list(range(count))
    while len(lead) > 1 and sum(widths[at] for at in lead) > room // 2:
        lead.pop()
    tables = [lead]
    for at in range(len(lead), len(is_words)):
        wider = [*tables[-1], at]
        if sum(widths[column] for column in wider) <= room or len(tables[-1]) == len(lead):
            tables[-1] = wider
        else:
            tables.append([*lead, at])
    return tables


def _folds(table: Table, at: int) -> bool:
    return table.is_words[at] and any(len(line[at][0]) > _FOLD for line in table.lines)


def _width(table: Table, at: int) -> int:
    """How many characters a column takes in a terminal at least, with what stands between two."""
    texts = [line[at][0] for line in table.lines]
    words = table.titles[at].split()
    if table.is_words[at]:
        words += [word for text in texts if len(text) > _FOLD for word in text.split()]
        texts = [text for text in texts if len(text) <= _FOLD]
    return max(map(len, (*words, *texts)), default=0) + 2
