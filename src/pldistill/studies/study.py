"""A study: the rows and columns of a published table as recipes; its plan: what each run trains, and where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pldistill.recipe import Ramp, Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.reports.comparison import Facts, Panels, TableLayout
from pldistill.specs import data_label, split_spec, unknown
from pldistill.tasks.registry import DEFAULT, find_method

Fields = Mapping[str, Any]
Figures = Mapping[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Scale:
    """How much of a study is done.

    Attributes:
        label: what every table of it must say; empty for the whole protocol.
        setting: fields of the recipe, over the study's own.
        teacher: fields of the teachers' recipe, over those.
        data: the images, where the user names none.
        train: how many training images the students see; None for all.
        pairs: the pairs of models, where the user names none; None for all.
        seeds: runs of a cell, where the user gives no number.
        teachers: whether they are trained by the study, carry published weights, or answer with random ones.
        models: (row, column) to other models, (teacher, student), than the column's; None for those.
    """

    label: str = ""
    setting: Fields = field(default_factory=dict)
    teacher: Fields = field(default_factory=dict)
    data: str | None = None
    train: int | None = None
    pairs: tuple[str, ...] | None = None
    seeds: int = 3
    teachers: Literal["trained", "pretrained", "random"] = "trained"
    models: Callable[[str, str], tuple[str, str]] | None = None


def nothing_of_its_own(row: str, column: str, setting: Fields) -> Fields:
    """What a row has of its own in a column, in most studies."""
    return {}


@dataclass(frozen=True)
class Study:
    """A published table: its columns are pairs of models, or one pair in several settings; its rows methods.

    Attributes:
        name: what `pldistill reproduce` calls it.
        title: of the table.
        protocol: of the whole study, in one line.
        source: how a header names the published figures.
        published: (row, column) to the published figures, metric to mean and deviation; empty where there are none.
        data: the images of the published table, without a path.
        also: what else `data` is called: of COCO the folder's name is all that is known.
        pairs: column to (teacher, student).
        rows: row to the fields of its recipe.
        setting: the fields of every recipe.
        scales: by name.
        by_pair: (row, column, setting of the scale) to what the row has of its own there.
        home: the folder below `runs/` that its runs share with other studies; empty for one of its own.
        layout: how its table is shown.
        facts: column to what the paper says of its models.
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
    layout: TableLayout = field(default_factory=Panels)
    facts: Mapping[str, Facts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        row: the method's row; "teacher" for a teacher.
        column: the pair of models.
        scale: the factor on all of its weights.
        models: names of teacher and student; of a teacher's own run None and its own.
        recipe: what to train.
        folder: where, under the study's folder; its name ends in a hash of all that the run computes.
        teacher: the run of its teacher, where the study trains it and the method asks it.
    """

    row: str
    column: str
    scale: float
    models: tuple[str | None, str]
    recipe: Recipe
    folder: Path
    teacher: PlannedRun | None = None

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
    cells: tuple[PlannedRun, ...]

    @property
    def teachers(self) -> tuple[PlannedRun, ...]:
        """The teachers that the study trains, each once."""
        return tuple(_unique(cell.teacher for cell in self.cells if cell.teacher is not None))

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Teachers and cells, in that order; what several rows share is there once."""
        return (*self.teachers, *_unique(self.cells))

    def teacher_of(self, column: str) -> PlannedRun | None:
        """The run of a column's teacher, where the study trains one."""
        return next((cell.teacher for cell in self.cells if cell.column == column and cell.teacher is not None), None)


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
    teacher_cache: str | None = None,
    views: int | None = None,
) -> Plan:
    """Lay out the runs. Nothing is read or written.

    Args:
        study: the table.
        out: the study's folder.
        scale: how much of it, a key of `study.scales`.
        data: the images; None where the scale has its own.
        pairs: some of the columns; all where empty.
        rows: some of the rows; all where empty.
        seeds: runs of a cell.
        validation: training images to hold out, on which "best" is then chosen.
        sweep: factors on every method's whole loss, beside the default, 1.
        teacher_cache: where the teacher caches are of the methods that need logits alone; `{teacher}` in it stands for
        the
            model's name. All seeds share a teacher's cache: their runs have augment_seed 0. With `{seed}`, which stands
            for the run's, there is one for each.
        views: of every student's images, so that what has a teacher cache is fairly compared with what has none.

    Raises:
        ValueError: for a name that the study has not, data that nobody named, or stores without a number of views.
    """
    if scale not in study.scales:
        raise ValueError(unknown("scale", scale, study.scales))
    chosen = study.scales[scale]
    columns = _known("pair", pairs or chosen.pairs or tuple(study.pairs), study.pairs)
    names = _known("method", rows or tuple(study.rows), study.rows)
    count = chosen.seeds if seeds is None else seeds
    spec = data or chosen.data
    if spec is None:
        raise ValueError(
            f"data: expected the images for scale {scale!r}, as {study.data.partition(':')[0]}:PATH, got none"
        )
    if sweep and validation is None:
        raise ValueError("sweep_scale: expected --validation N beside it, images to choose on, got none")
    if teacher_cache is not None and views is None:
        raise ValueError(
            "teacher_cache: expected --views N beside it, for the runs that have no teacher cache too, got none"
        )
    factors = (1.0, *sorted({factor for factor in sweep if factor != 1}))
    whole = narrowed(spec, validation=validation)
    setting = {**study.setting, **chosen.setting}
    cells = tuple(
        _cell(_Place(study, chosen, row, column, factor, out, teacher_cache, views), {**setting, "seed": seed}, whole)
        for seed in range(count)
        for column in columns
        for row in names
        for factor in factors
    )
    return Plan(study, _label(study, chosen, whole, views), columns, names, factors, count, cells)


def _label(study: Study, scale: Scale, data: str, views: int | None) -> str:
    """What a table must say where it is not the whole protocol on the images of the published one."""
    images = data_label(data)
    other = "" if images in (study.data, *study.also, scale.data) else f"other images: {images}"
    again = "" if views is None else f"{views} augmented views of each image, in turn"
    return "; ".join(part for part in (scale.label, other, again) if part)


def _known(kind: str, given: Sequence[str], known: Mapping[str, object]) -> tuple[str, ...]:
    for name in given:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    return tuple(dict.fromkeys(given))


def narrowed(spec: str, **counts: int | None) -> str:
    """The data specification with further options."""
    for name, count in counts.items():
        if count is not None:
            _, path, options = split_spec(spec)
            spec += f"{',' if path or options else ':'}{name}={count}"
    return spec


@dataclass(frozen=True)
class _Place:
    """Where in which study a cell stands."""

    study: Study
    scale: Scale
    row: str
    column: str
    factor: float
    out: Path
    cache: str | None = None
    views: int | None = None

    @property
    def models(self) -> tuple[str, str]:
        """Teacher and student."""
        return self.study.pairs[self.column] if self.scale.models is None else self.scale.models(self.row, self.column)


def _cell(place: _Place, setting: Fields, whole: str) -> PlannedRun:
    """A run; `whole` are the images that its teacher learns from, if it is trained here."""
    study, row, (teacher_model, student) = place.study, place.row, place.models
    own = study.by_pair(row, place.column, setting)
    data = narrowed(whole, train=place.scale.train)
    fields = {**setting, **study.rows[row], **own, "student": student, "data": data}
    for name in ("options", "task_options"):
        fields[name] = {**setting.get(name, {}), **study.rows[row].get(name, {}), **own.get(name, {})}
    fields |= {} if place.views is None else {"views": place.views}
    teacher, spec = None, find_method(fields["method"], fields.get("task", DEFAULT))
    if spec.needs_teacher:
        if place.scale.teachers == "trained":
            teacher = _teacher(place, {**setting, "data": whole, "seed": 0})
        random = "random:" if place.scale.teachers == "random" else ""
        fields["teacher"] = str(teacher.folder) if teacher is not None else random + teacher_model
        if place.cache is not None and spec.taps is None:
            store = place.cache.replace("{teacher}", teacher_model)
            fields["teacher_cache"] = store.replace("{seed}", str(fields["seed"]))
    if place.cache is not None and "{seed}" not in place.cache:
        fields["augment_seed"] = 0  # one teacher cache for all seeds, and the same crops for what has none
    recipe = make_recipe(fields)
    if place.factor != 1:
        recipe = scaled(recipe, place.factor)
    # Named by what is run, not by row and column: tables that share a run share its folder.
    models = _as_file("-".join([teacher_model, student] if recipe.teacher else [student]))
    times = "" if place.factor == 1 else f"-x{place.factor:g}"
    name = f"{recipe.method}{times}-seed{recipe.seed}-{recipe_hash(recipe, teacher and teacher.recipe)}"
    folder = place.out / "cells" / models / name
    return PlannedRun(row, place.column, place.factor, (teacher_model, student), recipe, folder, teacher)


def _teacher(place: _Place, setting: Fields) -> PlannedRun:
    # A pair's own learning rate is its student's: the large model trains at the study's.
    model = place.models[0]
    recipe = make_recipe({**setting, **place.scale.teacher, "student": model, "method": "ce"})
    folder = place.out / "teachers" / f"{_as_file(model)}-{recipe_hash(recipe)}"
    return PlannedRun("teacher", place.column, 1.0, (None, model), recipe, folder)


def _as_file(model: str) -> str:
    return model.replace("/", "_").replace(":", "-")


def _unique(cells: Iterable[PlannedRun]) -> Iterable[PlannedRun]:
    """The first cell of each folder."""
    found: dict[Path, PlannedRun] = {}
    for cell in cells:
        found.setdefault(cell.folder, cell)
    return found.values()


def scaled(recipe: Recipe, factor: float, *, task: bool = True) -> Recipe:
    """The recipe with every weight, the task's too unless `task` is False, times `factor`."""
    if factor == 1:
        return recipe
    weights = {
        name: weight
        if name == "task" and not task
        else Ramp(weight.to * factor, weight.over)
        if isinstance(weight, Ramp)
        else weight * factor
        for name, weight in recipe.weights.items()
    }
    return recipe.model_copy(update={"weights": weights})


def recipe_hash(recipe: Recipe, teacher: Recipe | None = None) -> str:
    """Ten hexadecimal digits of what a run computes, wherever its images, its teacher's folder and cache lie.

    Fields and options at their default have no part in it, so one that is added later leaves every address as it was.
    """
    content = {**recipe.model_dump(mode="json", exclude_defaults=True), "data": data_label(recipe.data)}
    defaults = recipe.method_spec.options
    content["options"] = {name: value for name, value in recipe.options.items() if value != defaults[name]}
    defaults = recipe.task_spec.option_defaults
    content["task_options"] = {name: value for name, value in recipe.task_options.items() if value != defaults[name]}
    if not content["task_options"]:
        del content["task_options"]
    if teacher is not None:
        content["teacher"] = recipe_hash(teacher)
    if recipe.teacher_cache is not None:
        content["teacher_cache"] = Path(recipe.teacher_cache).name
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
