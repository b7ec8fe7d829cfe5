"""The verbs of the command line: each reads its arguments, calls the library and prints."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pldistill import __version__
from pldistill.cli import lists, runs, studies
from pldistill.cli.options import PAIRS, Device, Spread, Weights, Workers, console, positive, whole, with_fields
from pldistill.recipe import Recipe, make_recipe, read_recipe
from pldistill.specs import unknown
from pldistill.tasks.registry import DEFAULT
from pldistill.tasks.spec import Metric

# By task, the module of `studies`.
DEMOS = {DEFAULT: "demo", "language": "language_demo", "segmentation": "segmentation_demo"}


class Verbs(TyperGroup):
    """The verbs. They read no terminal: an EOFError is a file's, not the Ctrl-D that Typer takes it for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty value, which no option or argument takes: a path of no letters would be the working folder.

        Raises:
            ValueError: naming the option before it.
        """
        for before, word in zip(["", *args], args, strict=False):
            flag, equals, value = word.partition("=")
            if not word or (flag.startswith("--") and equals and not value):
                named = flag or (before if before.startswith("-") else "")
                raise ValueError(f"{named.lstrip('-').replace('-', '_') or 'arguments'}: expected a value, got ''")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; an EOFError becomes a ValueError."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise ValueError(f"a file ends too soon: {error or 'EOFError'}") from error


app = typer.Typer(
    name="pldistill",
    cls=Verbs,
    help="Distill a large model into a small one, by Plackett-Luce distillation and what it is compared with.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Distill a large model into a small one."""
    if version:
        console.print(f"pldistill {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and the report.")] = None,
    task: Annotated[
        str,
        typer.Option(
            help="classification, language (causal models on the King James Bible) or segmentation (drawn shapes)."
        ),
    ] = "classification",
    smoke: Annotated[bool, typer.Option("--smoke", help="The same path in seconds, on a handful of samples.")] = False,
    device: Device = "auto",
) -> None:
    """Train a teacher and small students of several methods on embedded data; end with a table and a report."""
    if task not in DEMOS:
        raise ValueError(unknown("task with a demo", task, DEMOS))
    run_demo = import_module(f"pldistill.studies.{DEMOS[task]}").run_demo  # brings matplotlib
    name = "demo" if task == DEFAULT else f"demo-{task}"
    folder = out or Path("runs") / (f"{name}-smoke" if smoke else name)
    run_demo(folder, smoke=smoke, device=device, console=console)


@app.command()
@with_fields(Recipe.model_fields)
def train(
    fields: dict[str, Any],
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json; the other options override it.", rich_help_panel="Output")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default runs/ and a name.", rich_help_panel="Output")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out, or begin it there.", rich_help_panel="Output"),
    ] = False,
    checkpoint_minutes: Annotated[
        str,
        typer.Option(
            metavar="X",
            help="Save the state after so many minutes of an epoch too; changes no figure.",
            rich_help_panel="Output",
        ),
    ] = "10",
    checkpoint_steps: Annotated[
        str | None,
        typer.Option(metavar="N", help="And after every so many steps of an epoch.", rich_help_panel="Output"),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(metavar="best,last|last", help="The models that are kept.", rich_help_panel="Output"),
    ] = "best,last",
    download: Annotated[
        bool, typer.Option("--download", help="Fetch CIFAR where it is missing.", rich_help_panel="Data")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel="Training")] = "auto",
    workers: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Processes that decode a folder's images; changes no figure.",
            rich_help_panel="Training",
        ),
    ] = "2",
) -> None:
    """Train a model: a teacher (--method ce) or a student from a teacher."""
    full = make_recipe(_over_stored(fields, recipe, out, resume))
    before = resume and out is not None and (out / "result.json").exists()
    count, minutes = whole("workers", workers, least=0), positive("checkpoint_minutes", checkpoint_minutes)
    steps = None if checkpoint_steps is None else whole("checkpoint_steps", checkpoint_steps, least=1)

    from pldistill.training import run as training  # once nothing of the line is refused: it brings torch
    from pldistill.training.progress import ProgressBar

    run = training.train(
        full,
        out=out,
        resume=resume,
        device=device,
        workers=count,
        download=download,
        callback=ProgressBar(console, full.task_spec.samples),
        checkpoint_minutes=minutes,
        checkpoint_steps=steps,
        keep=keep,
    )
    result, again = run.result, "already " if before else ""
    console.print(
        f"{again}finished: {_figures(result)}, {result['seconds']:.0f} s: {run.folder}",
        soft_wrap=True,
    )


def _figures(result: Mapping[str, Any]) -> str:
    """What a finished run came to: its score, the best epoch's, the next metric and the teacher's score."""
    from pldistill.record import last_of
    from pldistill.tasks.registry import task_of

    spec = task_of(result)
    (name, metric), *rest = list(spec.metrics.items())[:2]
    best = f"(best {metric.show(result[f'{name}_best'])} in epoch {result['best_epoch']})"
    said = f"{metric.short} {metric.show(last_of(result, name))} {best}"
    for other, about in rest:
        said += f", {about.short} {about.show(last_of(result, other))}"
    teacher = result.get(f"teacher_{name}")
    return said if teacher is None else f"{said}; the teacher {metric.show(teacher)}"


_CROSS_ENTROPY = Metric("cross-entropy", "the mean over the validation images, in nats", 4, lower=True, unit="")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[
        str | None, typer.Option(help="Other data with the same classes, for a detector or with some of them.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N", help="Images at a time; changes no figure. Default 256, of a detector 8.")
    ] = None,
    device: Device = "auto",
    workers: Workers = "2",
    weights: Weights = "last",
) -> None:
    """Measure a run's model on its validation images."""
    from pldistill import precision
    from pldistill.training import run as training

    opened = training.load_run(run)
    count = None if batch_size is None else whole("batch_size", batch_size, least=1)
    counts = {"batch_size": count, "workers": whole("workers", workers, least=0)}
    figures = training.evaluate(opened, data=data, device=device, weights=weights, **counts)
    for note in figures["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    metrics = {"val_loss": _CROSS_ENTROPY, **opened.recipe.task_spec.metrics}
    said = "  ".join(
        f"{metrics[name].short} {metrics[name].show(value)}" for name, value in figures.items() if name in metrics
    )
    console.print(
        f"{said}  {figures['images']} {opened.recipe.task_spec.samples}  {precision.NAMES[figures['precision']]}",
        soft_wrap=True,
    )


app.command()(runs.predict)
app.command()(runs.calibrate)
app.command()(runs.report)
app.command(cls=Spread)(studies.reproduce)
app.command(cls=Spread)(studies.landscape)
app.command()(runs.cache)
app.add_typer(lists.app, name="bench")
app.command(name="list")(lists.list_)


def _over_stored(fields: dict[str, Any], recipe: Path | None, out: Path | None, resume: bool) -> dict[str, Any]:
    """Lay the command line's fields over those of a recipe file, or of the run that is resumed where it was begun."""
    from pldistill.record import RunRecord

    if recipe is None and resume:
        if out is None:
            raise ValueError("resume: expected the run's folder as --out, got none")
        if RunRecord(out).begun:
            recipe = out / "recipe.json"
        elif not {name for name, field in Recipe.model_fields.items() if field.is_required()} <= set(fields):
            raise ValueError(f"resume: expected a run in {str(out)!r}, got none")  # nor a recipe to begin one with
    if recipe is None:
        return fields
    stored = read_recipe(recipe)
    other_task = fields.get("task", stored.get("task", DEFAULT)) != stored.get("task", DEFAULT)
    if other_task or fields.get("method", stored.get("method")) != stored.get("method"):
        # Another method's options and weights are not this one's.
        dropped = PAIRS if other_task else ("options", "weights")
        stored = {name: value for name, value in stored.items() if name not in dropped}
    merged = {**stored, **fields}
    for name in PAIRS:
        merged[name] = {**stored.get(name, {}), **fields.get(name, {})}
    for name, field in Recipe.model_fields.items():
        if field.is_required() and merged.get(name) is None:
            raise ValueError(f"recipe {str(recipe)!r}: expected the field {name!r}, got none; --{name} gives it")
    return merged
