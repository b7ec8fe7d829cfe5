"""Run records to one frame, a line a run; which of them may be averaged, what to call these, and their means.

Averaged are runs whose recipes agree in everything but the seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pldistill.paths import kind_of
from pldistill.precision import of_record
from pldistill.recipe import completed
from pldistill.record import RunRecord
from pldistill.specs import data_label, model_label

# Where and with how many hands a run was made, not what it computes.
_ASIDE = {"seed", "out", "device", "workers", "resume", "download"}
# The order in which a name takes up what sets it apart from others.
_TELLING = ("student", "data", "teacher", "epochs")


def over_seeds(values: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`mean`, sample deviation `std` (divided by n - 1; NaN for one run) and `count` of the column `value`, by `by`.

    What has no value in one of its runs has no line: there is no mean over a part of the runs.
    """
    spread = values.groupby(list(by), sort=False, dropna=False)["value"].agg(["mean", "std", "count", "size"])
    return spread[spread["count"] == spread["size"]].drop(columns="size").reset_index()


@dataclass(frozen=True)
class RecordedRun:
    """What a record says of its run.

    `settings` is the recipe flattened to dotted keys, without the seed and what changes no number, and the start of the
    hash of the teacher's weights: a teacher that was trained anew in the same folder is another teacher.
    """

    record: RunRecord
    recipe: dict[str, Any]
    settings: dict[str, str]
    env: dict[str, Any]
    result: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def seed(self) -> str:
        return str(self.recipe.get("seed", ""))

    @property
    def planned(self) -> int:
        return self.recipe["epochs"]

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return self.record.epochs()


def read_run(record: RunRecord) -> RecordedRun:
    """Read a record.

    Raises:
        ValueError: where its recipe lacks data, student, method or epochs, or where the run is finished and
            metrics.jsonl has not a row for each of them.
    """
    recipe = record.read_recipe()
    for key, kind in (("data", str), ("student", str), ("method", str), ("epochs", int)):
        if not isinstance(recipe.get(key), kind):
            where = record.folder / "recipe.json"
            raise ValueError(f"{where}: expected {key!r} as {kind.__name__}, got {recipe.get(key)!r}")
    recipe = completed(recipe)
    # A run that was stopped in its first second may have its recipe and nothing else yet.
    env = {} if kind_of(record.folder / "env.json") is None else record.read_environment()
    settings = {key: value for key, value in flatten(recipe).items() if key not in _ASIDE}
    settings["amp"] = of_record(recipe, env)
    if (weights := env.get("teacher_sha256")) is not None:
        settings["teacher_sha256"] = str(weights)[:12]
    run = RecordedRun(record, recipe, settings, env, record.read_result())
    _ = run.epochs  # here and not when they are drawn: rows that a finished run lost are refused
    return run


def run_frame(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """A line a run: `recipe.NAME` (dotted, as text, NaN where it has none), `run`, `seed`, `machine`, the figures.

    Figures are the numbers of `result.json` under their own names, NaN in unfinished runs; `minutes` of the whole run;
    and `label_weight`, the part of the loss's weight that the label has.
    """
    lines = [_line(run) for run in runs]
    return pd.DataFrame(lines, columns=None if lines else ["run", "seed", "finished", "machine", "minutes"])


def _line(run: RecordedRun) -> dict[str, Any]:
    result = run.result or {}
    figures = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    weights = (run.env.get("preflight") or {}).get("weights", {})
    return {
        **{f"recipe.{name}": value for name, value in run.settings.items()},
        **figures,
        "run": run,
        "seed": run.seed,
        "finished": run.result is not None,
        "machine": f"{run.env.get('device_name')}, {run.env.get('world_size')}",
        "minutes": None if result.get("seconds") is None else result["seconds"] / 60,
        "label_weight": weights.get("label"),
    }


def figures_by(runs: pd.DataFrame, by: str, names: Sequence[str]) -> pd.DataFrame:
    """Lines of (`by`, figure, mean, std, count) over the seeds of a run frame, for the figures `names`."""
    numbers = runs.reindex(columns=[by, *names]).astype(dict.fromkeys(names, float))
    return over_seeds(numbers.melt(by, names, "figure", "value"), [by, "figure"])


def wide_figures(runs: pd.DataFrame, by: str, names: Mapping[str, str]) -> pd.DataFrame:
    """The same with a line each of `by`, its index, as `NAME_mean` and `NAME_std`; `names` are name to figure."""
    wide = figures_by(runs, by, list(names.values())).pivot(index=by, columns="figure", values=["mean", "std"])
    parts = {f"{name}_{part}": (part, figure) for name, figure in names.items() for part in ("mean", "std")}
    return wide.reindex(columns=pd.MultiIndex.from_tuples(parts.values())).set_axis(list(parts), axis=1)


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    `name` is unlike the other groups' names: that of their folder, without the seed in it, where the user gave it;
    else the method with what tells it from the others. `label` is the name, with the student where there are several
    here. `setting` is what sets the group apart from others of the same method, models, data and epochs, empty for
    most. `teaches` says that another run here learned from one of these.
    """

    name: str
    label: str
    setting: str
    teacher: str | None
    teaches: bool
    runs: tuple[RecordedRun, ...]

    @property
    def method(self) -> str:
        return self.runs[0].recipe["method"]

    @property
    def student(self) -> str:
        return model_label(self.runs[0].recipe["student"])

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

    def run_name(self, run: RecordedRun) -> str:
        """The group's name, with the seed where the group holds more than one run."""
        return self.name if len(self.runs) == 1 else f"{self.name}, seed {run.seed}"


def group_runs(records: Iterable[RunRecord]) -> list[Group]:
    """Read the records and put together what may be averaged, in order of first appearance.

    Raises ValueError where there is no record, or a recipe lacks data, student, method or epochs.
    """
    frame = run_frame(map(read_run, records))
    if frame.empty:
        raise ValueError("records: expected at least one run record, got none")
    settings = [name for name in frame if str(name).startswith("recipe.")]
    groups = [tuple(group["run"]) for _, group in frame.groupby(settings, sort=False, dropna=False)]
    first = [runs[0] for runs in groups]
    labels = [_labels(run) for run in first]
    alike = [[run for run, label in zip(first, labels, strict=True) if label == mine] for mine in labels]
    learnt_from = {Path(str(run.recipe.get("teacher"))).resolve() for run in frame["run"]}
    names = _names(groups, [_name(at, labels, first) for at in range(len(groups))])
    students = {label["student"] for label in labels}
    shown = [
        name if len(students) == 1 or label["student"] in name else f"{name}, {label['student']}"
        for name, label in zip(names, labels, strict=True)
    ]
    return [
        Group(
            name=names[at],
            label=shown[at],
            setting=_setting(runs[0], alike[at]),
            teacher=labels[at]["teacher"] or None,
            teaches=any(run.folder.resolve() in learnt_from for run in runs),
            runs=runs,
        )
        for at, runs in enumerate(groups)
    ]


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested dicts as dotted keys, each value as text: `{"options": {"t": 4.0}}` is `{"options.t": "4.0"}`."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose value is not the same in all of `settings`, in order of first appearance."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def _labels(run: RecordedRun) -> dict[str, str]:
    """What the tables show of a run's identity."""
    return {
        "method": run.recipe["method"],
        "student": model_label(run.recipe["student"]),
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
            return model_label(str(run.read_recipe().get("student", folder.name)))
    return folder.name or str(teacher)


def _names(groups: Sequence[Sequence[RecordedRun]], others: Sequence[str]) -> list[str]:
    """Each group's name by its folders, of which it needs more where two are alike; else the one of `others`."""
    given = [_given_name(runs, 1) for runs in groups]
    longer = [_given_name(runs, 2) for runs in groups]
    names = [
        (name if given.count(name) == 1 else more if longer.count(more) == 1 else None) or other
        for name, more, other in zip(given, longer, others, strict=True)
    ]
    return names if len(set(names)) == len(names) else list(others)


def _given_name(runs: Sequence[RecordedRun], parts: int) -> str | None:
    """The last parts of the runs' path, alike but for the seed at the end; None where they differ or we named them."""
    names = set()
    for run in runs:
        *above, folder = run.folder.resolve().parts
        if _is_ours(folder, run):
            return None
        if len(runs) > 1 or f"seed{run.seed}" in folder:
            folder = re.sub(rf"([-_. ]?seed[-_=]?|[-_. ]s?)?{re.escape(run.seed)}$", "", folder, flags=re.IGNORECASE)
        names.add("/".join([*above, *([folder] if folder else [])][-parts:]))
    return names.pop() if len(names) == 1 else None


def _is_ours(folder: str, run: RecordedRun) -> bool:
    """Whether a folder has its name from `Recipe.name` or from a study, and not from the user."""
    data, method = data_label(run.recipe["data"]), run.recipe["method"]
    named = folder.startswith(f"{data}-") and folder.endswith(f"-{method}-seed{run.seed}")
    return named or re.search(r"-[0-9a-f]{10}$", folder) is not None


def _name(index: int, labels: Sequence[Mapping[str, str]], first: Sequence[RecordedRun]) -> str:
    """The method and, one by one, what is still needed to tell the group from the others of its method."""
    mine, settings = labels[index], first[index].settings
    parts = [mine["method"]]
    rivals = [at for at in range(len(labels)) if at != index and labels[at]["method"] == mine["method"]]
    telling = [(key, mine[key] or f"no {key}", [label[key] == mine[key] for label in labels]) for key in _TELLING]
    for key in differing([settings, *(first[rival].settings for rival in rivals)]):
        alike = [run.settings.get(key) == settings.get(key) for run in first]
        telling.append((key, _assignment(key, settings.get(key)), alike))
    for _, text, alike in telling:
        left = [rival for rival in rivals if alike[rival]]
        if len(left) < len(rivals):
            parts.append(text)
            rivals = left
    assert not rivals, "groups differ in a setting by construction"
    return " ".join(parts)


def _setting(run: RecordedRun, alike: Sequence[RecordedRun]) -> str:
    keys = differing([other.settings for other in alike])
    return ", ".join(_assignment(key, run.settings.get(key)) for key in keys)


def _assignment(key: str, value: str | None) -> str:
    return f"{key.rpartition('.')[2]}={'unset' if value is None else value}"


def machine_name(env: Mapping[str, Any]) -> str:
    """The machine of an `env.json`, as far as a run's time depends on it.

    Its GPU, then processor and cores; threads where the processor does the work; processes where there are several.
    """
    parts = [name for name in dict.fromkeys((env.get("device_name"), env.get("cpu"))) if name]
    parts += [str(env["cpu_capability"])] if env.get("cpu_capability") and env.get("device") in ("cpu", None) else []
    parts += [f"{env['cores']} core" + "s" * (str(env["cores"]) != "1")] if env.get("cores") else []
    parts += [f"threads: {env['threads']}"] if env.get("threads") and env.get("device") == "cpu" else []
    parts += [f"processes: {env['world_size']}"] if str(env.get("world_size") or 1) != "1" else []
    return ", ".join(parts) or "unknown machine"
