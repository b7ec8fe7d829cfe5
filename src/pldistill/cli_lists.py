"""The verb that names what can be named: methods, models, data, tasks, studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pldistill.cli_studies import console
from pldistill.data import SOURCES
from pldistill.methods import BY_TASK, Option, Ramp
from pldistill.models import build, count_parameters, list_models, stages
from pldistill.specs import unknown
from pldistill.task_options import TASKS
from pldistill.tasks.detection.sources import BOX_SOURCES


def list_(what: Annotated[str, typer.Argument(help="methods, models, data, tasks or studies.")]) -> None:
    """List what can be named: methods with options, defaults and source; models; data; tasks; studies."""
    tables = {"methods": _methods, "models": _models, "data": _data, "tasks": _tasks, "studies": _studies}
    if what not in tables:
        raise ValueError(unknown("list", what, tables))
    console.print(tables[what]())


def _methods() -> Group:
    return Group(*_apart((task, _methods_of(task)) for task in BY_TASK))


def _methods_of(task: str) -> Table:
    table = Table("method", "options", "weights", "source", box=None)
    for name, spec in BY_TASK[task].items():
        weights = "\n".join(f"{term}={_short(weight)}" for term, weight in spec.weights.items())
        said = spec.source + (f"\n[dim]{spec.note}[/]" if spec.note else "")
        table.add_row(name, _options(spec.options), weights, said)
    return table


def _apart(tables: Iterable[tuple[str, Table]]) -> Iterable[Any]:
    """Each task's table under its name."""
    for at, (task, table) in enumerate(tables):
        yield Text(f"{'' if at == 0 else chr(10)}--task {task}", style="bold")
        yield table


def _options(options: Mapping[str, Option]) -> str:
    return "\n".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()
    )


def _short(weight: Any) -> str:
    return f"{weight.to:g}@{weight.over:.4g}" if isinstance(weight, Ramp) else f"{weight:g}"


def _models() -> Table:
    caption = (
        "for 100 classes; and every classifier of timm, by its name\n"
        "with --task detection: fasterrcnn:BACKBONE, Faster R-CNN with FPN on torchvision's ResNets and mobilenet_v2, "
        "or on any net of timm that gives the maps of four stages"
    )
    table = Table("model", "parameters", "stages (taps)", box=None, caption=caption, caption_justify="left")
    for name in list_models():
        with torch.device("meta"):
            model = build(name, num_classes=100)
        count = count_parameters(model)
        table.add_row(name, f"{count:,}", " ".join(stages(model)))
    return table


def _data() -> Group:
    return Group(
        *_apart((task, _sources(known)) for task, known in (("classification", SOURCES), ("detection", BOX_SOURCES)))
    )


def _sources(known: Mapping[str, Any]) -> Table:
    table = Table("data", "what", box=None)
    for source in known.values():
        table.add_row(escape(source.grammar), source.description)
    return table


def _tasks() -> Table:
    table = Table("task", "options (--task-option KEY=VALUE)", box=None)
    for name, spec in TASKS.items():
        table.add_row(name, _options(spec.options))
    return table


def _studies() -> Table:
    from pldistill.studies import FIGURES, READ_FROM, SEARCHES, STUDIES
    from pldistill.studies.study import plan

    caption = "runs: of the full scale, teachers and seeds among them; what tables share is run once"
    table = Table("study", "what", "runs", "scales", box=None, caption=caption, caption_justify="left")
    for study in STUDIES.values():
        layout = plan(study, out=Path("runs"), data=f"{study.data.partition(':')[0]}:PATH")
        table.add_row(study.name, escape(study.title), str(len(layout.runs)), " ".join(study.scales))
    for search in SEARCHES.values():
        size = search.sizes["full"]
        least = sum(len(axis.values) for row in search.rows.values() for axis in row.axes) * len(size.teachers)
        table.add_row(search.name, escape(search.title), f"{least} or more", " ".join(search.sizes))
    for name, other in READ_FROM.items():
        table.add_row(name, f"minutes a run, read from the folder of {other}", "", "")
    for name in FIGURES:
        what = "all figures" if name == "all" else f"the paper's {name.replace('figure', 'Figure ')}, drawn"
        table.add_row(name, what, "", "")
    return table
