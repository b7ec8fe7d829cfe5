"""The verbs of the command line that work on whole studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pldistill.cli.options import Device, Workers, console, positive, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pldistill.studies.search import Job, Size
    from pldistill.studies.study import PlannedRun, Scale


def reproduce(
    study: Annotated[str, typer.Argument(help="table1 to table13, cifar100-sgd; see `pldistill list studies`.")],
    data: Annotated[str | None, typer.Option(help="The images, as cifar100:PATH or imagenet:PATH.")] = None,
    pairs: Annotated[list[str] | None, typer.Option(help="Some pairs of models; default all.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Some rows; default all.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N", help="Runs of a cell; default the table's own, short and smoke 1.")
    ] = None,
    scale: Annotated[str, typer.Option(help="full, short or smoke.")] = "full",
    validation: Annotated[
        str | None, typer.Option(metavar="N", help="Training images to hold out and choose on.")
    ] = None,
    sweep_scale: Annotated[
        list[str] | None, typer.Option(metavar="X", help="Factors on every loss, to choose from.")
    ] = None,
    teacher_cache: Annotated[
        str | None, typer.Option(help="Stores of `pldistill cache`; {teacher} and {seed} stand for a run's own.")
    ] = None,
    views: Annotated[str | None, typer.Option(metavar="N", help="Augmented versions of an image, in turn.")] = None,
    processes: Annotated[
        str, typer.Option(metavar="N", help="Processes of each printed command, that share its batch.")
    ] = "1",
    out: Annotated[Path | None, typer.Option(help="The study's folder; default below runs/.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs with an estimate of their time.")] = False,
    time_limit: Annotated[
        str, typer.Option(metavar="SECONDS", help="How long --dry-run may time models; the rest is listed untimed.")
    ] = "120",
    print_commands: Annotated[
        bool, typer.Option("--print-commands", help="Print a `pldistill train` line for each run.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    device: Device = "auto",
    workers: Workers = "2",
) -> None:
    """Make a published table: measured beside published. Interrupted or not, the same line goes on."""
    from pldistill.studies import FIGURES, READ_FROM, SEARCHES, find_study
    from pldistill.studies.search import lay_out
    from pldistill.studies.study import plan

    limit = positive("time_limit", time_limit)
    # What follows a line that is not refused is imported where it is used: it brings torch and matplotlib.
    if study in FIGURES:
        from pldistill.studies.figures import measured, reproduce_figure

        out = out or Path("runs") / "imagenet"
        points, label = measured(out, scale=scale, data=data)
        reproduce_figure(study, out, measured=points, label=label, console=console)
        return
    if study in SEARCHES:
        fixed = {"validation": validation, "sweep_scale": sweep_scale, "teacher_cache": teacher_cache, "views": views}
        for name, given in fixed.items():
            if given:
                raise ValueError(f"{name}: expected none, for {study} fixes it, got {given!r}")
        search = SEARCHES[study]
        job = lay_out(
            search,
            out=out or Path("runs") / study,
            scale=scale,
            data=_images(data, search.data, search.sizes.get(scale), dry_run),
            columns=pairs or (),
            rows=methods or (),
            seeds=None if seeds is None else whole("seeds", seeds, least=1),
        )
        count = whole("workers", workers, least=0)
        _search(job, device, count, download, limit=limit if dry_run else None, commands=print_commands)
        return
    found = find_study(study)
    out = out or Path("runs") / (found.home or found.name)
    layout = plan(
        found,
        out=out,
        scale=scale,
        data=_images(data, found.data, found.scales.get(scale), dry_run),
        pairs=pairs or (),
        rows=methods or (),
        seeds=None if seeds is None else whole("seeds", seeds, least=1),
        validation=None if validation is None else whole("validation", validation, least=1),
        sweep=tuple(positive("sweep_scale", text) for text in sweep_scale or ()),
        teacher_cache=teacher_cache,
        views=None if views is None else whole("views", views, least=1),
    )
    count = whole("workers", workers, least=0)

    from pldistill.studies import runner as studies

    if print_commands:
        print("\n".join(studies.commands(layout, processes=whole("processes", processes, least=1))))
        return
    if dry_run:
        _forecast(layout.runs, device, download, limit)
        return
    if study in READ_FROM:
        from pldistill.studies.timetable import timetable

        console.print(timetable(layout, out), crop=False)
        return

    from pldistill.reports.comparison_tables import comparison_document
    from pldistill.reports.render import terminal
    from pldistill.training.progress import CacheProgress, StudyProgress

    how = {"device": device, "workers": count, "download": download}
    comparison = studies.reproduce(
        layout, out, callback=StudyProgress(console), cache_callback=CacheProgress(console), **how
    )
    console.print(terminal(comparison_document(comparison)))
    files = studies.files(found.name, out)
    console.print(f"table   {files['md']}, {files['csv']}", soft_wrap=True)
    if files["html"].exists():
        console.print(f"report  {files['html']}", soft_wrap=True)
    failed = sum(len(entry.failures) for entry in comparison.entries)
    if failed:
        console.print(f"{failed} runs failed; the same line tries them again", style="red")
        raise typer.Exit(1)


def _images(data: str | None, name: str, scale: Scale | Size | None, dry_run: bool) -> str | None:
    """The images that were named; for a dry run, which needs none on the disk, else the study's own by name."""
    if data is not None or not dry_run or scale is None or scale.data is not None:
        return data
    return name if ":" in name else f"{name}:{name}"


def _forecast(runs: Sequence[PlannedRun], device: str, download: bool, limit: float) -> None:
    """Print what the runs will cost; the first line comes before torch, which takes its seconds."""
    said = f"{len(runs)} runs; some steps of each pair of models are timed, for at most {limit:g} s (--time-limit)"
    console.print(said, soft_wrap=True)

    from pldistill.studies.dry_run import forecast

    forecast(runs, console=console, device=device, download=download, limit=limit)


def _search(job: Job, device: str, workers: int, download: bool, *, limit: float | None, commands: bool) -> None:
    """Run a search, or with a limit of seconds say what it comes to."""
    if commands:
        raise ValueError(
            "print_commands: expected a study whose runs are known, got a search, whose next run follows "
            "from the last; several processes of the same line share its rows"
        )
    from pldistill.studies.search import least_runs, outline, run_search

    if limit is not None:
        console.print(outline(job), soft_wrap=True)
        console.print("the runs that are made in any case:")
        _forecast(least_runs(job), device, download, limit)
        return
    from pldistill.reports.comparison_tables import comparison_document
    from pldistill.reports.render import terminal
    from pldistill.studies.runner import files
    from pldistill.training.progress import CacheProgress, StudyProgress

    how = {"device": device, "workers": workers, "download": download}
    comparison = run_search(job, callback=StudyProgress(console), cache_callback=CacheProgress(console), **how)
    console.print(terminal(comparison_document(comparison)))
    paths = files(job.search.name, job.out)
    console.print(f"table   {paths['md']}, {paths['csv']}\nreport  {paths['html']}", soft_wrap=True)


def landscape(
    methods: Annotated[list[str] | None, typer.Option(help="Losses; default dist kd pld.")] = None,
    temperatures: Annotated[list[str] | None, typer.Option(metavar="X", help="Default 1; figure 3 has four.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run whose model is the teacher; default random logits.")] = None,
    data: Annotated[str | None, typer.Option(help="The run's images, where they lie elsewhere by now.")] = None,
    image: Annotated[str, typer.Option(metavar="N", help="Which image of their validation split.")] = "0",
    classes: Annotated[str, typer.Option(metavar="N", help="Of the random teacher.")] = "100",
    label: Annotated[str | None, typer.Option(help="A class, or argmax; default the image's, or argmax.")] = None,
    points: Annotated[str, typer.Option(metavar="N", help="Of the grid along a side, odd.")] = "101",
    seed: Annotated[str, typer.Option(metavar="N", help="Of the teacher and the plane.")] = "0",
    out: Annotated[Path, typer.Option(help="The folder of the figures.")] = Path("runs/landscape"),
) -> None:
    """Draw losses over a plane of student logits around a teacher's, and say where they are least."""
    from pldistill.studies.landscapes import METHODS, run_landscape

    run_landscape(
        methods or METHODS,
        [positive("temperatures", text) for text in temperatures or ["1"]],
        out,
        run=run,
        data=data,
        image=whole("image", image, least=0),
        classes=whole("classes", classes, least=2),
        label=label,
        points=whole("points", points, least=3),
        seed=whole("seed", seed, least=0),
        console=console,
    )
