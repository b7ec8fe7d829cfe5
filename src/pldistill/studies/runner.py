"""Run a study: what is finished is kept, what is not goes on, what fails is marked, and the table is written."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pldistill import launch
from pldistill.files import held, write_atomically
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.reports.comparison import Comparison, Entry
from pldistill.reports.comparison_frames import comparison_frame
from pldistill.reports.comparison_tables import comparison_document
from pldistill.reports.html import through_html, write_report
from pldistill.reports.render import csv_text, html_section, markdown
from pldistill.studies.study import Plan, PlannedRun
from pldistill.teachers.cache import is_complete
from pldistill.training.cache_teacher import CacheCallback, SilentCacheCallback, make_teacher_cache
from pldistill.training.progress import StudyProgress
from pldistill.training.run import train

# What may go wrong in one cell and leave the others sound: bad input, memory, a device, a file, an infinite loss.
FAILURES = (ValueError, ArithmeticError, RuntimeError, OSError)


def reproduce(
    plan: Plan,
    out: Path,
    *,
    callback: StudyProgress,
    cache_callback: CacheCallback | None = None,
    device: str = "auto",
    workers: int = 2,
    download: bool = False,
) -> Comparison:
    """Make every run of the plan that is not finished, then write the table and the page in `out`.

    A teacher cache that runs are to read and that is not there yet is made first: `cache_callback` is told of it.

    A cell that fails is marked with its reason and tried again by the next call; its teacher's failure fails it too.
    No other process can use the folder until the study ends.

    Raises:
        ValueError: for a folder that another process uses, and for several processes, which train a run together but
            not a study.
        Interrupted: after SIGINT or SIGTERM, with the state saved; the same call goes on.
    """
    if launch.launched() > 1:
        raise ValueError(
            f"processes: expected one for a study, got {launch.launched()}; `--print-commands` gives the line of "
            "each run, to be started with several"
        )
    how = {"device": device, "workers": workers, "download": download}
    with held(out):
        _make_all(plan, out, callback=callback, cache_callback=cache_callback or SilentCacheCallback(), **how)
        comparison = write_tables(plan, out)
        write_page(plan, out, comparison)
    return comparison


def _make_all(plan: Plan, out: Path, *, callback: StudyProgress, cache_callback: CacheCallback, **how: Any) -> None:
    """Make every run that is not finished."""
    callback.open(len(plan.runs))
    try:
        for cell in plan.runs:
            if not cell.record.finished:
                _make(cell, plan, out, callback=callback, cache_callback=cache_callback, **how)
                write_tables(plan, out)
            if cell.record.finished:  # what went wrong after its last row, as a full disk, is over with it
                _mark(out, cell).unlink(missing_ok=True)
            callback.close_cell(cell.name, cell.record.read_result(), failure(out, cell))
    finally:
        callback.close()


def _make(
    cell: PlannedRun, plan: Plan, out: Path, *, callback: StudyProgress, cache_callback: CacheCallback, **how: Any
) -> None:
    """Train one cell; what goes wrong is written beside the cells."""
    mark = _mark(out, cell)
    try:
        if cell.teacher is not None and not cell.teacher.record.finished:
            raise ValueError(f"{cell.teacher.name} is not finished")
        if cell.recipe.teacher_cache is not None:
            make_teacher_cache(cell.recipe, callback=cache_callback, **how)
        train(cell.recipe, out=cell.folder, resume=cell.record.begun, callback=callback, keep="last", **how)
    except FAILURES as error:
        mark_failure(mark, error)


def mark_failure(mark: Path, error: BaseException) -> str:
    """Write beside the cells why one failed, on one line, and give that line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, reason.encode())
    return reason


def _mark(out: Path, cell: PlannedRun) -> Path:
    return out / "failures" / f"{cell.folder.name}.txt"


def failure(out: Path, cell: PlannedRun) -> str | None:
    """Why the cell's last attempt failed; None where it did not, or where the run was finished since."""
    mark = _mark(out, cell)
    return mark.read_text(encoding="utf-8") if mark.is_file() and not cell.record.finished else None


def compare(plan: Plan, out: Path) -> Comparison:
    """The study's table from the records that are there, whoever made them."""
    study = plan.study
    teachers = {column: cell for column in plan.columns if (cell := plan.teacher_of(column)) is not None}
    return Comparison(
        title=study.title,
        entries=tuple(
            _entry(plan, out, column, row, factor)
            for column in plan.columns
            for row in plan.rows
            for factor in plan.scales
        ),
        teachers={column: cell.record if cell.record.begun else None for column, cell in teachers.items()},
        label=plan.label,
        protocol=study.protocol,
        published_source=study.source,
        notes=study.notes,
        layout=study.layout,
        facts=study.facts,
    )


def _entry(plan: Plan, out: Path, column: str, row: str, factor: float) -> Entry:
    cells = [cell for cell in plan.cells if (cell.column, cell.row, cell.scale) == (column, row, factor)]
    reasons = {cell.recipe.seed: failure(out, cell) for cell in cells}
    return Entry(
        row=row,
        column=column,
        records=tuple(cell.record for cell in cells if cell.record.begun),
        planned=plan.seeds,
        failures=tuple(f"seed {seed}: {reason}" for seed, reason in reasons.items() if reason is not None),
        published=plan.study.published(row, column),
        variant="" if factor == 1 else f"scale {factor:g}",
    )


def files(name: str, out: Path) -> dict[str, Path]:
    """Where a study's table and page lie: studies that share a folder's runs have each their own."""
    return {kind: out / f"{name}.{kind}" for kind in ("md", "csv", "html")}


def write_tables(plan: Plan, out: Path) -> Comparison:
    """Write the table as it stands, as Markdown and CSV."""
    comparison = compare(plan, out)
    write_reports(comparison, out, plan.study.name, [])
    return comparison


def write_page(plan: Plan, out: Path, comparison: Comparison) -> None:
    """Write the page: the table, then every run's curves and environment. Without any run there is none."""
    records = [cell.record for cell in plan.runs if cell.record.begun]
    write_reports(comparison, out, plan.study.name, records)


def write_reports(comparison: Comparison, out: Path, name: str, records: Sequence[RunRecord]) -> None:
    """Write a comparison as Markdown and CSV and, where there are `records`, the page with their curves."""
    paths = files(name, out)
    out.mkdir(parents=True, exist_ok=True)
    document = comparison_document(comparison)
    write_atomically(paths["md"], markdown(document).encode())
    write_atomically(paths["csv"], csv_text(comparison_frame(comparison)).encode())
    if records:
        section = html_section(document, through_html(comparison))
        write_report(records, paths["html"], title=comparison.title, sections=[section])


def commands(plan: Plan, processes: int = 1) -> list[str]:
    """One line a run: the teachers' first, the teacher caches' that are to be made, then the others', in any order.

    Empty lines stand between what must be finished before what follows begins.

    Args:
        plan: the runs.
        processes: how many share each run's batch; then a line begins with `torchrun`, and the batches that one
            process would take one after the other are spread over them.

    Raises:
        ValueError: where the batches of a step cannot be spread evenly over so many.
    """
    teachers = [_command(cell, processes) for cell in plan.teachers]
    stores = {cell.recipe.teacher_cache: cell.recipe for cell in plan.runs if cell.recipe.teacher_cache is not None}
    asking = [_store_command(recipe) for store, recipe in stores.items() if not is_complete(Path(str(store)))]
    return [
        *teachers,
        "",
        *([*asking, ""] if asking else []),
        *(_command(cell, processes) for cell in plan.runs if cell.row != "teacher"),
    ]


def _store_command(recipe: Recipe) -> str:
    """The line that makes the teacher cache a run reads."""
    given = {
        "data": recipe.data,
        "teacher": recipe.teacher,
        "views": recipe.views,
        "augment-seed": recipe.view_seed,
        "image-size": recipe.image_size,
        "out": recipe.teacher_cache,
    }
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    flags = [] if recipe.hflip is None else ["--hflip" if recipe.hflip else "--no-hflip"]
    trusted = ["--trust-teacher"] if recipe.trust_teacher else []
    return shlex.join(["pldistill", "cache", *words, *flags, *trusted])


def _command(cell: PlannedRun, processes: int) -> str:
    recipe, words = cell.recipe, ["pldistill", "train"]
    if processes > 1:
        if recipe.accumulate % processes:
            raise ValueError(
                f"processes: expected a divisor of the {recipe.accumulate} batches of {recipe.batch_size} that "
                f"{cell.name} takes a step, got {processes}"
            )
        recipe = recipe.model_copy(update={"accumulate": recipe.accumulate // processes})
        words = ["torchrun", "--nproc-per-node", str(processes), "-m", *words]
    words += [*_flags(recipe), "--out", str(cell.folder)]
    if cell.record.begun:
        words.append("--resume")
    return shlex.join(words)


def _flags(recipe: Recipe) -> Iterable[str]:
    """The command line's flags for every field that is not at its default."""
    for name, value in recipe.to_dict().items():
        default = recipe.task_spec.defaults.get(name, Recipe.model_fields[name].default)
        if name in ("options", "task_options", "weights") or value == default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        else:
            yield from (flag, str(value))
    spec, of_task = recipe.method_spec, recipe.task_spec.option_defaults
    given_and_default = (
        ("--option", recipe.options, spec.options),
        ("--task-option", recipe.task_options, of_task),
    )
    for flag, given, defaults in given_and_default:
        for name, value in given.items():
            if value != defaults[name]:
                yield from (flag, f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    for name, weight in recipe.weights.items():
        if weight != spec.weights[name]:
            yield from ("--weight", f"{name}={weight}")
