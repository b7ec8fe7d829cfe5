"""The verbs of the command line: each reads its arguments, calls the library and prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pldistill import __version__
from pldistill.cli import lists, runs, studies
from pldistill.cli.options import Device, Spread, Workers, console, whole
from pldistill.tasks.spec import Metric

app = typer.Typer(
    name="pldistill",
    help="Distill a large classifier into a small one, by Plackett-Luce distillation and what it is compared with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Distill a large classifier into a small one."""
    if version:
        console.print(f"pldistill {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and the report.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="The same path in seconds, on a handful of images.")] = False,
    device: Device = "auto",
) -> None:
    """Train a teacher and four students (CE, KD, DIST, PLD) on embedded images; end with a table and a report."""
    from pldistill.studies.demo import run_demo  # brings matplotlib

    run_demo(out or Path("runs/demo-smoke" if smoke else "runs/demo"), smoke=smoke, device=device, console=console)


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Option(help="A recipe.json; the other options override it.")] = None,
    task: Annotated[str | None, typer.Option(help="classification (default) or detection.")] = None,
    data: Annotated[str | None, typer.Option(help="glyphs, cifar100:PATH, folder:PATH, coco:PATH, ...")] = None,
    student: Annotated[str | None, typer.Option(help="The model to train; see `pldistill list models`.")] = None,
    method: Annotated[str | None, typer.Option(help="See `pldistill list methods`; ce trains a teacher.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A run folder, NAME, NAME@FILE, ensemble:A+B.")] = None,
    teacher_checkpoint: Annotated[str | None, typer.Option(help="Weights of a teacher given by name.")] = None,
    teacher_cache: Annotated[str | None, typer.Option(help="A teacher cache that `pldistill cache` made.")] = None,
    pretrained: Annotated[bool | None, typer.Option("--pretrained", help="Start from timm's weights.")] = None,
    student_checkpoint: Annotated[str | None, typer.Option(help="Start from these weights.")] = None,
    new_head: Annotated[bool | None, typer.Option("--new-head", help="A fresh classifier on given weights.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the method; repeatable.")] = None,
    weight: Annotated[list[str] | None, typer.Option(help="TERM=VALUE or TERM=TO@PART (a ramp); repeatable.")] = None,
    task_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the task; repeatable.")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Default 20; in detection 12.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N", help="Default 128; in detection 8.")] = None,
    image_size: Annotated[str | None, typer.Option(metavar="N", help="Side in pixels; default the data's own.")] = None,
    lr: Annotated[str | None, typer.Option(metavar="X", help="Default 0.05; in detection 0.01.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd (default), adamw, or any of timm's.")] = None,
    momentum: Annotated[str | None, typer.Option(metavar="X", help="Default 0.9.")] = None,
    weight_decay: Annotated[str | None, typer.Option(metavar="X", help="Default 5e-4; in detection 1e-4.")] = None,
    decay_all: Annotated[bool | None, typer.Option(help="Weight decay on biases and norms too (default).")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine (default), step, two-step, constant.")] = None,
    warmup_epochs: Annotated[str | None, typer.Option(metavar="X", help="Default 0.")] = None,
    label_smoothing: Annotated[str | None, typer.Option(metavar="X", help="Of the cross-entropy; default 0.")] = None,
    clip_grad: Annotated[str | None, typer.Option(metavar="X", help="Largest gradient norm.")] = None,
    ema: Annotated[str | None, typer.Option(metavar="X", help="Decay of a moving average of the weights.")] = None,
    amp: Annotated[str | None, typer.Option(help="auto (default): what fits the device; bf16, fp16 or off.")] = None,
    channels_last: Annotated[bool | None, typer.Option(help="Memory layout (default on).")] = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="torch.compile the student.")] = None,
    hflip: Annotated[bool | None, typer.Option(help="Mirror training images; default the data's choice.")] = None,
    mixup: Annotated[str | None, typer.Option(metavar="X", help="Mixup's alpha; default 0, none.")] = None,
    cutmix: Annotated[str | None, typer.Option(metavar="X", help="CutMix's alpha; default 0, none.")] = None,
    mix_probability: Annotated[str | None, typer.Option(metavar="X", help="Part of the batches that mix.")] = None,
    repeats: Annotated[str | None, typer.Option(metavar="N", help="Augmented copies of an image an epoch.")] = None,
    views: Annotated[str | None, typer.Option(metavar="N", help="Augmented versions of an image, in turn.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="folder:PATH of images without labels.")] = None,
    class_map: Annotated[str | None, typer.Option(help="JSON: the teacher's classes in the data's.")] = None,
    trust_teacher: Annotated[bool | None, typer.Option("--trust-teacher", help="Even if it knows nothing.")] = None,
    accumulate: Annotated[str | None, typer.Option(metavar="N", help="Batches a step; default 1.")] = None,
    relation: Annotated[str | None, typer.Option(help="local or global, for methods that relate a batch.")] = None,
    sync_batchnorm: Annotated[bool | None, typer.Option("--sync-batchnorm", help="Over all processes.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Default 0.")] = None,
    augment_seed: Annotated[
        str | None, typer.Option(metavar="N", help="Of the augmentation; default the seed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/ and a name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    device: Device = "auto",
    workers: Workers = "2",
) -> None:
    """Train a model: a teacher (--method ce) or a student from a teacher."""
    from pldistill.recipe import Recipe, make_recipe

    fields = {name: value for name, value in locals().items() if name in Recipe.model_fields and value is not None}
    fields |= {"options": _pairs("option", option), "weights": _pairs("weight", weight)}
    fields["task_options"] = _pairs("task_option", task_option)
    full = make_recipe(_over_stored(fields, recipe, out, resume))
    before = resume and out is not None and (out / "result.json").exists()
    count = whole("workers", workers, least=0)

    from pldistill.training import run as training  # once nothing of the line is refused: it brings torch
    from pldistill.training.progress import ProgressBar

    run = training.train(
        full,
        out=out,
        resume=resume,
        device=device,
        workers=count,
        download=download,
        callback=ProgressBar(console),
    )
    result, again = run.result, "already " if before else ""
    console.print(
        f"{again}finished: {_figures(result)}, {result['seconds']:.0f} s: {run.folder}",
        highlight=False,
        soft_wrap=True,
    )


def _figures(result: Mapping[str, Any]) -> str:
    """What a finished run came to: its score, the best epoch's, the next metric and the teacher's score."""
    from pldistill.record import last_of
    from pldistill.tasks.registry import task_of

    spec = task_of(result)
    score, second, *_ = spec.metrics.items()
    name, metric = score
    best = f"(best {metric.show(result[f'{name}_best'])} in epoch {result['best_epoch']})"
    said = f"{metric.short} {metric.show(last_of(result, name))} {best}"
    if (value := last_of(result, second[0])) is not None:
        said += f", {second[1].short} {second[1].show(value)}"
    teacher = result.get(f"teacher_{name}")
    return said if teacher is None else f"{said}; the teacher {metric.show(teacher)}"


_CROSS_ENTROPY = Metric("cross-entropy", "the mean over the validation images, in nats", 4, lower=True, unit="")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[str | None, typer.Option(help="Other data with the same classes.")] = None,
    batch_size: Annotated[str, typer.Option(metavar="N", help="Images at a time; changes no figure.")] = "256",
    device: Device = "auto",
    workers: Workers = "2",
) -> None:
    """Measure a run's model on its validation images."""
    from pldistill import precision
    from pldistill.training import run as training

    opened = training.load_run(run)
    counts = {"batch_size": whole("batch_size", batch_size, least=1), "workers": whole("workers", workers, least=0)}
    figures = training.evaluate(opened, data=data, device=device, **counts)
    metrics = {"val_loss": _CROSS_ENTROPY, **opened.recipe.task_spec.metrics}
    said = "  ".join(
        f"{metrics[name].short} {metrics[name].show(value)}"
        for name, value in figures.items()
        if name in metrics and value is not None
    )
    console.print(
        f"{said}  {figures['images']} images  {precision.NAMES[figures['precision']]}",
        highlight=False,
        soft_wrap=True,
    )


app.command()(runs.predict)
app.command()(runs.report)
app.command(cls=Spread)(studies.reproduce)
app.command(cls=Spread)(studies.landscape)
app.command()(runs.cache)
app.add_typer(lists.app, name="bench")
app.command(name="list")(lists.list_)


_PAIRS = ("options", "weights", "task_options")


def _pairs(kind: str, given: list[str] | None) -> dict[str, str]:
    """Read KEY=VALUE arguments."""
    pairs: dict[str, str] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{kind}: expected KEY=VALUE, got {text!r}")
        pairs[key] = value
    return pairs


def _over_stored(fields: dict[str, Any], recipe: Path | None, out: Path | None, resume: bool) -> dict[str, Any]:
    """Lay the command line's fields over those of a recipe file, or of the run that is resumed."""
    from pldistill.recipe import read_recipe
    from pldistill.record import RunRecord

    if recipe is None and resume:
        if out is None:
            raise ValueError("resume: expected the run's folder as --out, got none")
        if not RunRecord(out).begun:
            raise ValueError(f"resume: expected a run in {str(out)!r}, got none")
        recipe = out / "recipe.json"
    if recipe is None:
        return fields
    stored = read_recipe(recipe)
    other_task = fields.get("task", stored.get("task", "classification")) != stored.get("task", "classification")
    if other_task or fields.get("method", stored.get("method")) != stored.get("method"):
        # Another method's options and weights are not this one's.
        dropped = _PAIRS if other_task else ("options", "weights")
        stored = {name: value for name, value in stored.items() if name not in dropped}
    merged = {**stored, **fields}
    for name in _PAIRS:
        merged[name] = {**stored.get(name, {}), **fields[name]}
    return merged
