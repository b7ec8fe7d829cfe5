"""The verb that names what can be named: methods, models, data, tasks, studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pldistill.cli.options import Spread, console, default_of, panel_of, whole
from pldistill.specs import accepted, schema_of, unknown

if TYPE_CHECKING:
    from pldistill.methods import MethodSpec, Option
    from pldistill.reports.render import Document


def list_(what: Annotated[str, typer.Argument(help="methods, models, data, tasks, recipe or studies.")]) -> None:
    """List what can be named: methods with options, defaults and source; models; data; tasks; a recipe's fields."""
    tables = {
        "methods": _methods,
        "models": _models,
        "data": _data,
        "tasks": _tasks,
        "recipe": _recipe,
        "studies": _studies,
    }
    if what not in tables:
        raise ValueError(unknown("list", what, tables))
    console.print(tables[what](), markup=True)


def _methods() -> Group:
    from pldistill.tasks.registry import TASKS

    return Group(*_apart((name, _methods_of(task.methods)) for name, task in TASKS.items()))


def _methods_of(methods: Mapping[str, MethodSpec]) -> Table:
    table = Table("method", "options", "weights", "source", box=None)
    for name, spec in methods.items():
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
    from pldistill.methods import Ramp

    return f"{weight.to:g}@{weight.over:.4g}" if isinstance(weight, Ramp) else f"{weight:g}"


# Parameters for 100 classes, and stages; written down, so that listing them builds none. The tests build them.
MODELS: Mapping[str, tuple[int, str]] = {
    "resnet8": (83_892, "relu layer1 layer2 layer3"),
    "resnet20": (278_324, "relu layer1 layer2 layer3"),
    "resnet56": (861_620, "relu layer1 layer2 layer3"),
    "resnet8x4": (1_233_540, "relu layer1 layer2 layer3"),
    "resnet32x4": (7_433_860, "relu layer1 layer2 layer3"),
    "cifar_resnet50": (23_705_252, "relu layer1 layer2 layer3 layer4"),
    "wrn_40_1": (569_780, "conv1 block1 block2 block3"),
    "wrn_40_2": (2_255_156, "conv1 block1 block2 block3"),
    "cifar_mobilenetv2": (812_836, "conv1 blocks.1 blocks.2 blocks.4 blocks.6"),
}


def _models() -> Table:
    from pldistill.tasks.registry import TASKS

    others = [f"with --task {name}: {task.models}" for name, task in TASKS.items() if task.models]
    caption = "\n".join(["for 100 classes; and every classifier of timm, by its name", *others])
    table = Table("model", "parameters", "stages (taps)", box=None, caption=caption, caption_justify="left")
    for name, (parameters, stages) in MODELS.items():
        table.add_row(name, f"{parameters:,}", stages)
    return table


def _data() -> Group:
    from pldistill.tasks.registry import TASKS

    return Group(*_apart((name, _sources(task.open_sources())) for name, task in TASKS.items()))


def _sources(known: Mapping[str, Any]) -> Table:
    table = Table("data", "what", box=None)
    for source in known.values():
        table.add_row(escape(source.grammar), source.description)
    return table


def _tasks() -> Table:
    from pldistill.tasks.registry import TASKS

    table = Table("task", "options (--task-option KEY=VALUE)", "what", box=None)
    for name, task in TASKS.items():
        if not task.option_defaults:
            table.add_row(name, "", "")
        for place, (option, field) in enumerate(task.options.model_fields.items()):
            table.add_row("" if place else name, _options({option: field.default}), field.description)
    return table


def _recipe() -> Table:
    from pldistill.recipe import PANELS, Recipe

    table = Table(box=None)
    table.add_column("field", no_wrap=True)
    for head in ("default", "values", "what"):
        table.add_column(head)
    for panel in PANELS:
        table.add_row(f"[bold]{panel}[/]", "", "", "")
        for name, field in Recipe.model_fields.items():
            if panel_of(field) == panel:
                table.add_row(f"  {name}", default_of(field), accepted(schema_of(Recipe, name)), field.description)
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


app = typer.Typer(help="Time parts of the library on this machine.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Time parts of the library on this machine."""


@app.command(cls=Spread)
def losses(
    shape: Annotated[list[str] | None, typer.Option(metavar="NxC", help="Rows and classes; default five.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[str, typer.Option(metavar="N", help="Of torch.")] = "1",
    rounds: Annotated[str, typer.Option(metavar="N", help="How often each loss is timed.")] = "11",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[bool, typer.Option("--memory", help="Also the memory, of shapes of 10^6 logits.")] = False,
) -> None:
    """Time the losses of logits, forward and backward, beside plain eager KD (cross-entropy + tau^2 KL)."""
    from pldistill import bench

    shapes = [bench.read_shape(text) for text in shape] if shape else bench.SHAPES
    cases = [bench.Case(*each, dtype, device) for each in shapes]
    times, count = whole("rounds", rounds, least=1), whole("threads", threads, least=1)

    from pldistill.reports.render import terminal

    with bench.threads(count):
        for case in cases:
            for graph in (False, True) if device == "cuda" else (False,):
                lines = bench.compare(bench.LOSSES, case, rounds=times, graph=graph, memory=memory and not graph)
                console.print(terminal(losses_document(lines)))


def losses_document(lines: Sequence[Mapping[str, Any]]) -> Document:
    """The lines of one case (`bench.compare`) as a table: medians, with quartiles; ratios are of the same round."""
    import pandas as pd

    from pldistill import bench
    from pldistill.reports.render import Document, Section, Table, formatted

    frame, first = pd.DataFrame(lines), lines[0]
    on = " on CUDA, as graphs" if first["mode"] == "graph" else {"cpu": "", "cuda": " on CUDA"}[first["device"]]
    middle, low, high = (
        formatted(1000 * frame[name].astype(float), ".3g") for name in ("seconds", "seconds_q1", "seconds_q3")
    )
    cells = {
        "loss": frame["what"].tolist(),
        "ms": middle,
        "quartiles": [start and f"{start} to {end}" for start, end in zip(low, high, strict=True)],
        f"/ {bench.KD}": formatted(frame["to_kd"], ".2f"),
        "/ listing": formatted(frame["to_listing"], ".2f"),
        "/ floor": formatted(frame["to_floor"], ".2f"),
        "bytes/logit": formatted(frame["bytes_per_logit"], ".1f"),
        "": frame["note"].tolist(),
    }
    table = Table.of(pd.DataFrame({title: texts for title, texts in cells.items() if any(texts)}), words=[""])
    title = f"{first['rows']} x {first['classes']}, {first['dtype']}{on}"
    return Document("", (), (Section(title, tables=(table,)),))
