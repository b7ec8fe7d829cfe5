"""A study: the rows and columns of a published table as recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pldistill.analysis.layouts import Facts, Layout, Panels
from pldistill.recipe import Recipe
from pldistill.record import RunRecord

Fields = Mapping[str, Any]
Figures = Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Scale:
    """How much of a study is done.

    Attributes:
        label: what every table of it must say; empty for the whole protocol.
        setting: fields of the recipe, over the study's own.
        teacher: fields of the teachers' recipe, over those.
        data: the pictures, where the user names none.
        train: how many training pictures the students see; None for all.
        pairs: the pairs of nets, where the user names none; None for all.
        seeds: runs of a cell, where the user gives no number.
        teachers: whether they are trained by the study, carry published weights, or answer with random ones.
        nets: (row, column) to other nets, (teacher, student), than the column's; None for those.
    """

    label: str = ""
    setting: Fields = field(default_factory=dict)
    teacher: Fields = field(default_factory=dict)
    data: str | None = None
    train: int | None = None
    pairs: tuple[str, ...] | None = None
    seeds: int = 3
    teachers: Literal["trained", "pretrained", "random"] = "trained"
    nets: Callable[[str, str], tuple[str, str]] | None = None


def nothing_of_its_own(row: str, column: str, setting: Fields) -> Fields:
    """What a row has of its own in a column, in most studies."""
    return {}


@dataclass(frozen=True)
class Study:
    """A published table: its columns are pairs of nets, or one pair in several settings; its rows methods.

    Attributes:
        name: what `pldistill reproduce` calls it.
        title: of the table.
        protocol: of the whole study, in one line.
        source: how a header names the published figures.
        published: (row, column) to the published figures, metric to mean and deviation; empty where there are none.
        data: the pictures of the published table, without a path.
        also: what else `data` is called: of COCO the folder's name is all that is known.
        pairs: column to (teacher, student).
        rows: row to the fields of its recipe.
        setting: the fields of every recipe.
        scales: by name.
        by_pair: (row, column, setting of the scale) to what the row has of its own there.
        home: the folder below `runs/` that its runs share with other studies; empty for one of its own.
        layout: how its table is shown.
        facts: column to what the paper says of its nets.
        notes: what is said under the table.
    """

    name: str
    title: str
    protocol: str
    source: str
    published: Callable[[str, str], Figures]
    data: str
    pairs: Mapping[str, tuple[str, str]]
    rows: Mapping[str, Fields]
    setting: Fields
    scales: Mapping[str, Scale]
    by_pair: Callable[[str, str, Fields], Fields] = nothing_of_its_own
    also: tuple[str, ...] = ()
    home: str = ""
    layout: Layout = field(default_factory=Panels)
    facts: Mapping[str, Facts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        row: the method's row; "teacher" for a teacher.
        column: the pair of nets.
        scale: the factor on all of its weights.
        nets: names of teacher and student; of a teacher's own run None and its own.
        recipe: what to train.
        folder: where, under the study's folder; its name ends in a hash of all that the run computes.
        teacher: the run of its teacher, where the study trains it and the method asks it.
    """

    row: str
    column: str
    scale: float
    nets: tuple[str | None, str]
    recipe: Recipe
    folder: Path
    teacher: Cell | None = None

    @property
    def record(self) -> RunRecord:
        """The files of its folder."""
        return RunRecord(self.folder)

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.row == "teacher":
            return f"teacher {self.recipe.student}"
        scaled = "" if self.scale == 1 else f" x{self.scale:g}"
        return f"{self.column} {self.row}{scaled} seed {self.recipe.seed}"
