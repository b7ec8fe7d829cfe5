"""Which runs may be averaged: those whose recipes agree in everything but the seed. And what to call them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pldistill.precision import of_record
from pldistill.recipe import completed
from pldistill.record import RunRecord
from pldistill.specs import data_label

# Where and with how many hands a run was made, not what it computes.
_ASIDE = {"seed", "out", "device", "workers", "resume", "download"}
# The order in which a name takes up what sets it apart from others.
_TELLING = ("student", "data", "teacher", "epochs")


@dataclass(frozen=True)
class Run:
    """One record, read once.

    `settings` is the recipe flattened to dotted keys, without the seed and what changes no number, and the start of the
    hash of the teacher's weights: a teacher that was trained anew in the same folder is another teacher.
    """

    folder: Path
    recipe: dict[str, Any]
    settings: dict[str, str]
    env: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None

    @property
    def seed(self) -> str:
        return str(self.recipe.get("seed", ""))

    @property
    def planned(self) -> int:
        return self.recipe["epochs"]


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    `name` is short and unlike the other groups' names; `setting` is what sets the group apart from others of the same
    method, models, data and epochs, empty for most. `teaches` says that another run here learned from one of these.
    """

    name: str
    setting: str
    teacher: str | None
    teaches: bool
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        return self.runs[0].recipe["method"]

    @property
    def student(self) -> str:
        return self.runs[0].recipe["student"]

    @property
    def data(self) -> str:
        return data_label(self.runs[0].recipe["data"])

    @property
    def epochs(self) -> int:
        return self.runs[0].planned

    @property
    def block(self) -> tuple[str, str, int]:
        """What must agree for two groups to stand in one contest: data, student and epochs."""
        return self.data, self.student, self.epochs

    def run_name(self, run: Run) -> str:
        """The group's name, with the seed where the group holds more than one run."""
        return self.name if len(self.runs) == 1 else f"{self.name}, seed {run.seed}"


def group_runs(records: Iterable[RunRecord]) -> list[Group]:
    """Read the records and put together what may be averaged, in order of first appearance.

    Raises ValueError where there is no record, or a recipe lacks data, student, method or epochs.
    """
    runs = [_read(record) for record in records]
    if not runs:
        raise ValueError("records: expected at least one run record, got none")
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    groups = list(together.values())
    first = [members[0] for members in groups]
    labels = [_labels(run) for run in first]
    learnt_from = {Path(str(run.recipe.get("teacher"))).resolve() for run in runs}
    return [
        Group(
            name=_name(index, labels, first),
            setting=_setting(run, [other for other, seen in zip(first, labels, strict=True) if seen == labels[index]]),
            teacher=labels[index]["teacher"] or None,
            teaches=any(member.folder.resolve() in learnt_from for member in members),
            runs=tuple(members),
        )
        for index, (run, members) in enumerate(zip(first, groups, strict=True))
    ]


def flatten(recipe: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested dicts as dotted keys, each value as text: `{"options": {"t": 4.0}}` is `{"options.t": "4.0"}`."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """The keys whose value is not the same in all of `settings`, in order of first appearance."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def _read(record: RunRecord) -> Run:
    recipe = record.read_recipe()
    for key, kind in (("data", str), ("student", str), ("method", str), ("epochs", int)):
        if not isinstance(recipe.get(key), kind):
            where = record.folder / "recipe.json"
            raise ValueError(f"{where}: expected {key!r} as {kind.__name__}, got {recipe.get(key)!r}")
    recipe = completed(recipe)
    # A run that was stopped in its first second may have its recipe and nothing else yet.
    env = record.read_environment() if (record.folder / "env.json").is_file() else {}
    weights = env.get("teacher_sha256")
    settings = {key: value for key, value in flatten(recipe).items() if key not in _ASIDE}
    settings["amp"] = of_record(recipe, env)
    return Run(
        folder=record.folder,
        recipe=recipe,
        settings=settings | ({} if weights is None else {"teacher_sha256": str(weights)[:12]}),
        env=env,
        epochs=tuple(record.epochs()),
        result=record.read_result(),
    )


def _labels(run: Run) -> dict[str, str]:
    """What the tables show of a run's identity."""
    return {
        "method": run.recipe["method"],
        "student": run.recipe["student"],
        "data": data_label(run.recipe["data"]),
        "teacher": _teacher_label(run.recipe.get("teacher"), run.folder.parent),
        "epochs": f"{run.planned} epochs",
    }


def _teacher_label(teacher: Any, beside: Path) -> str:
    """The teacher's model: what its run trained where that run is still there, else the last part of the path.

    Runs that were moved together are looked for `beside` the student's.
    """
    if teacher is None:
        return ""
    folder = Path(str(teacher))
    for place in (folder, beside / folder.name):
        if (run := RunRecord(place)).begun:
            return str(run.read_recipe().get("student", folder.name))
    return folder.name or str(teacher)


def _name(index: int, labels: list[dict[str, str]], first: list[Run]) -> str:
    """The method and, one by one, what is still needed to tell the group from the others of its method."""
    mine, parts = labels[index], [labels[index]["method"]]
    others = [other for other in range(len(labels)) if other != index and labels[other]["method"] == mine["method"]]
    for key in _TELLING:
        left = [other for other in others if labels[other][key] == mine[key]]
        if len(left) < len(others):
            parts.append(mine[key] or f"no {key}")
            others = left
    for key in differing([first[index].settings, *(first[other].settings for other in others)]):
        value = first[index].settings.get(key)
        left = [other for other in others if first[other].settings.get(key) == value]
        if len(left) < len(others):
            parts.append(_assignment(key, value))
            others = left
    assert not others, "groups differ in a setting by construction"
    return " ".join(parts)


def _setting(run: Run, alike: list[Run]) -> str:
    keys = differing([other.settings for other in alike])
    return ", ".join(_assignment(key, run.settings.get(key)) for key in keys)


def _assignment(key: str, value: str | None) -> str:
    return f"{key.rpartition('.')[2]}={'unset' if value is None else value}"
