"""The verb of the command line that asks a teacher once and keeps its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pldistill.cli_studies import Device, Workers, console, positive, whole
from pldistill.recipe import Recipe, make_recipe
from pldistill.teachers.cache import About
from pldistill.training.cache_teacher import store_answers


def cache(
    data: Annotated[str, typer.Option(help="The pictures, as cifar100:PATH.")],
    teacher: Annotated[str, typer.Option(help="A run folder, NAME, NAME@FILE, ensemble:A+B.")],
    views: Annotated[str, typer.Option(metavar="N", help="Augmented versions of each training picture.")],
    out: Annotated[Path, typer.Option(help="The store's folder; the same line goes on with one that is begun.")],
    top_k: Annotated[str, typer.Option(metavar="K|all", help="Classes stored of a training picture.")] = "all",
    temperature: Annotated[
        str, typer.Option(metavar="X", help="At which the mass of the others is exact: the method's.")
    ] = "4",
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="The runs' own, where they have no augment seed; default 0.")
    ] = None,
    augment_seed: Annotated[
        str | None, typer.Option(metavar="N", help="Of the augmentation: the runs'; default the seed.")
    ] = None,
    teacher_checkpoint: Annotated[str | None, typer.Option(help="Weights of a teacher given by name.")] = None,
    class_map: Annotated[str | None, typer.Option(help="JSON: the teacher's classes in the data's.")] = None,
    trust_teacher: Annotated[bool | None, typer.Option("--trust-teacher", help="Even if it knows nothing.")] = None,
    image_size: Annotated[str | None, typer.Option(metavar="N", help="Side in pixels; default the data's own.")] = None,
    hflip: Annotated[bool | None, typer.Option(help="Mirror training pictures; default the data's choice.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="folder:PATH of pictures without labels.")] = None,
    amp: Annotated[str | None, typer.Option(help="auto (default): what fits the device; bf16, fp16 or off.")] = None,
    channels_last: Annotated[bool | None, typer.Option(help="Memory layout (default on).")] = None,
    batch_size: Annotated[str, typer.Option(metavar="N", help="Pictures asked about at a time.")] = "256",
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    device: Device = "auto",
    workers: Workers = "2",
) -> None:
    """Ask a teacher once: store its answers, for `--teacher-cache` of train and reproduce."""
    fields = {name: value for name, value in locals().items() if name in Recipe.model_fields and value is not None}
    del fields["views"]
    # Of a run's recipe only what decides the answers; they are for any student, and any method of the logits.
    recipe = make_recipe({**fields, "student": "any", "method": "kd"})
    about = store_answers(
        recipe,
        out,
        views=whole("views", views, least=1),
        places=None if top_k == "all" else whole("top_k", top_k, least=1),
        temperature=positive("temperature", temperature),
        device=device,
        workers=whole("workers", workers, least=0),
        download=download,
        watch=Shown(console),
    )
    console.print(f"finished: {about.views} views, {out}", highlight=False, soft_wrap=True)


class Shown:
    """A line that says how large the store will be, and a bar over all that is asked."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("pictures, left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def warn(self, message: str) -> None:
        """Print what a user should know."""
        self.console.print(f"note: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def tell(self, message: str) -> None:
        """Print what is about to be done."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def begin(self, about: About, done: int) -> None:
        """Say the size and open the bar."""
        count = about.views * about.pictures + about.validation_pictures
        already = f"; {done:,} of {count:,} pictures were asked before" if done else ""
        self.console.print(size_line(about) + already, highlight=False, soft_wrap=True)
        self.task = self.bar.add_task(about.teacher, total=count, completed=done)
        self.bar.start()

    def asked(self, pictures: int) -> None:
        """Move the bar."""
        self.bar.advance(self.task, pictures)

    def end(self) -> None:
        """Close the bar."""
        self.bar.stop()


def size_line(about: About) -> str:
    """What a store takes on the disk, and of what."""
    record, total = about.form.dtype.itemsize, sum(about.sizes().values())
    return (
        f"{total / 1e6:,.1f} MB: {about.views} views of {about.pictures:,} pictures, {about.places} of "
        f"{about.classes} classes each ({record} bytes), and {about.validation_pictures:,} validation pictures"
    )
