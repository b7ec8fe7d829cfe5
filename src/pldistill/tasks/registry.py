"""The tasks by name. Another is a folder, and a line here: `TASKS["depth"] = SPEC`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pldistill.methods.combination import JOINT, combine
from pldistill.methods.spec import MethodSpec
from pldistill.specs import unknown
from pldistill.tasks import classification, detection, language, segmentation
from pldistill.tasks.spec import Metric, TaskSpec

TASKS: dict[str, TaskSpec] = {
    "classification": classification.SPEC,
    "detection": detection.SPEC,
    "language": language.SPEC,
    "segmentation": segmentation.SPEC,
}
DEFAULT = "classification"


def find_task(name: str) -> TaskSpec:
    """The task of this name.

    Raises:
        ValueError: naming the tasks that there are.
    """
    if name not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[name]


def find_method(name: str, task: str = DEFAULT) -> MethodSpec:
    """The method of this name with its defaults for the task; `kd+at` is both.

    Raises:
        ValueError: naming the methods that the task knows.
    """
    known, kind = find_task(task).methods, "method" if task == DEFAULT else f"method of {task}"
    if JOINT in name:
        return combine(name, known, kind)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]


class _Metrics(Mapping[str, Metric]):
    """What all tasks measure, by its name in the records: a view, so that it has those of a task that came later."""

    def __getitem__(self, name: str) -> Metric:
        for spec in TASKS.values():
            if name in spec.metrics:
                return spec.metrics[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for spec in TASKS.values() for name in spec.metrics))

    def __len__(self) -> int:
        return sum(1 for _ in self)


METRICS: Mapping[str, Metric] = _Metrics()


def task_of(result: Mapping[str, Any]) -> TaskSpec:
    """The task of a finished run, by its `result.json`: the one whose score it has.

    Raises:
        ValueError: for a result of no known task.
    """
    having = [spec for spec in TASKS.values() if spec.result_key(spec.score) in result]
    for spec in having:  # a score may be nothing: a detector that was shown nothing to find has no AP
        if len(having) == 1 or result[spec.result_key(spec.score)] is not None:
            return spec
    scores = ", ".join(spec.result_key(spec.score) for spec in TASKS.values())
    raise ValueError(f"score: expected one of {scores}, got {', '.join(result) or 'nothing'}")
