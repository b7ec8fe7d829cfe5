"""A study: the rows and columns of a published table as recipes, and the runs that it takes to fill it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pldistill import methods
from pldistill.analysis.groups import data_label
from pldistill.recipe import Ramp, Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.spec import split_spec
from pldistill.suggest import unknown

Fields = Mapping[str, Any]


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
    """

    label: str = ""
    setting: Fields = field(default_factory=dict)
    teacher: Fields = field(default_factory=dict)
    data: str | None = None
    train: int | None = None
    pairs: tuple[str, ...] | None = None
    seeds: int = 3


@dataclass(frozen=True)
class Study:
    """A published table: its columns are pairs of nets, its rows methods.

    Attributes:
        name: what `pldistill reproduce` calls it.
        title: of the table.
        protocol: of the whole study, in one line.
        published: the table's key in `results.yaml`, and how a header names its figures.
        data: the pictures of the published table, without a path.
        pairs: column to (teacher, student).
        rows: row to the fields of its recipe.
        by_pair: (row, column) to what the row has of its own there.
        setting: the fields of every recipe.
        scales: by name.
    """

    name: str
    title: str
    protocol: str
    published: tuple[str, str]
    data: str
    pairs: Mapping[str, tuple[str, str]]
    rows: Mapping[str, Fields]
    by_pair: Callable[[str, str], Fields]
    setting: Fields
    scales: Mapping[str, Scale]


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        row: the method's row; "teacher" for a teacher.
        column: the pair of nets.
        scale: the factor on all of its weights.
        recipe: what to train.
        folder: where, under the study's folder; its name ends in a hash of all that the run computes.
    """

    row: str
    column: str
    scale: float
    recipe: Recipe
    folder: Path

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


@dataclass(frozen=True)
class Plan:
    """The runs of a study in the order in which they are made: teachers, then seed by seed."""

    study: Study
    label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    scales: tuple[float, ...]
    seeds: int
    teachers: Mapping[str, Cell]
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> tuple[Cell, ...]:
        """Teachers and cells, in that order."""
        return (*self.teachers.values(), *self.cells)


def plan(
    study: Study,
    *,
    out: Path,
    scale: str = "full",
    data: str | None = None,
    pairs: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: int | None = None,
    validation: int | None = None,
    sweep: Sequence[float] = (),
) -> Plan:
    """Lay out the runs. Nothing is read or written.

    Args:
        study: the table.
        out: the study's folder.
        scale: how much of it, a key of `study.scales`.
        data: the pictures; None where the scale has its own.
        pairs: some of the columns; all where empty.
        rows: some of the rows; all where empty.
        seeds: runs of a cell.
        validation: training pictures to hold out, on which "best" is then chosen.
        sweep: factors on every method's whole loss, beside the default, 1.

    Raises:
        ValueError: for a name that the study has not, or data that nobody named.
    """
    if scale not in study.scales:
        raise ValueError(unknown("scale", scale, study.scales))
    chosen = study.scales[scale]
    columns = _known("pair", pairs or chosen.pairs or tuple(study.pairs), study.pairs)
    names = _known("method", rows or tuple(study.rows), study.rows)
    count = chosen.seeds if seeds is None else seeds
    spec = data or chosen.data
    if spec is None:
        raise ValueError(f"data: expected the pictures for scale {scale!r}, as cifar100:PATH, got none")
    if sweep and validation is None:
        raise ValueError("sweep_scale: expected --validation N beside it, pictures to choose on, got none")
    factors = (1.0, *sorted({factor for factor in sweep if factor != 1}))
    whole = _narrowed(spec, validation=validation)
    setting = {**study.setting, **chosen.setting}
    teachers = {column: _teacher(study, chosen, column, {**setting, "data": whole}, out) for column in columns}
    setting["data"] = _narrowed(whole, train=chosen.train)
    cells = tuple(
        _cell(study, column, row, factor, {**setting, "seed": seed}, teachers[column], out)
        for seed in range(count)
        for column in columns
        for row in names
        for factor in factors
    )
    return Plan(study, _label(study, chosen, whole), columns, names, factors, count, teachers, cells)


def _label(study: Study, scale: Scale, data: str) -> str:
    """What a table must say where it is not the whole protocol on the pictures of the published one."""
    pictures = data_label(data)
    other = "" if pictures in (study.data, scale.data) else f"other pictures: {pictures}"
    return "; ".join(part for part in (scale.label, other) if part)


def _known(kind: str, given: Sequence[str], known: Mapping[str, object]) -> tuple[str, ...]:
    for name in given:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    return tuple(dict.fromkeys(given))


def _narrowed(spec: str, **counts: int | None) -> str:
    """The data specification with further options."""
    for name, count in counts.items():
        if count is not None:
            _, path, options = split_spec(spec)
            spec += f"{',' if path or options else ':'}{name}={count}"
    return spec


def _teacher(study: Study, scale: Scale, column: str, setting: Fields, out: Path) -> Cell:
    # A pair's own learning rate is its student's: the large net trains at the study's.
    recipe = make_recipe({**setting, **scale.teacher, "student": study.pairs[column][0], "method": "ce"})
    return Cell("teacher", column, 1.0, recipe, out / "teachers" / f"{recipe.student}-{address(recipe)}")


def _cell(study: Study, column: str, row: str, factor: float, setting: Fields, teacher: Cell, out: Path) -> Cell:
    fields = {**setting, **study.rows[row], **study.by_pair(row, column), "student": study.pairs[column][1]}
    fields["options"] = {**study.rows[row].get("options", {}), **study.by_pair(row, column).get("options", {})}
    asked = {"teacher": str(teacher.folder)} if methods.find(fields["method"]).needs_teacher else {}
    recipe = make_recipe(fields | asked)
    if factor != 1:
        recipe = scaled(recipe, factor)
    # Named by what is run, not by row and column: tables that share a run share its folder.
    nets = "-".join([teacher.recipe.student, recipe.student] if recipe.teacher else [recipe.student])
    name = (
        f"{recipe.method}{'' if factor == 1 else f'-x{factor:g}'}-seed{recipe.seed}-{address(recipe, teacher.recipe)}"
    )
    return Cell(row, column, factor, recipe, out / "cells" / nets / name)


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with every weight, the task's too, times `factor`."""
    weights = {
        name: Ramp(weight.to * factor, weight.over) if isinstance(weight, Ramp) else weight * factor
        for name, weight in recipe.weights.items()
    }
    return recipe.model_copy(update={"weights": weights})


def address(recipe: Recipe, teacher: Recipe | None = None) -> str:
    """Ten hexadecimal digits of what a run computes, wherever its pictures and its teacher's folder lie.

    Fields and options at their default have no part in it, so one that is added later leaves every address as it was.
    """
    content = {**recipe.model_dump(mode="json", exclude_defaults=True), "data": data_label(recipe.data)}
    defaults = methods.find(recipe.method).options
    content["options"] = {name: value for name, value in recipe.options.items() if value != defaults[name]}
    if recipe.teacher is not None:
        assert teacher is not None
        content["teacher"] = address(teacher)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
