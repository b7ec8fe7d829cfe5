"""A run's folder, there and back: `train` leaves one, `load_run` opens it, and what a finished one is good for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pldistill import distributed, models, precision, record
from pldistill.files import held, is_new, refuse_held
from pldistill.paths import kind_of, require_new_or_folder
from pldistill.recipe import Recipe
from pldistill.record import MODEL, TEXTS, RunRecord
from pldistill.tasks.base import Placement, Task, make_task
from pldistill.teachers.cache import with_cache
from pldistill.training import best
from pldistill.training.best import BestEpoch, keeps_best
from pldistill.training.build import assemble, make_accelerator, precision_of
from pldistill.training.loop import Callback, Loop, Saves, restore_state
from pldistill.training.preflight import introduction, preflight
from pldistill.training.progress import SilentCallback

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pldistill.tasks.detection.weights import LoadedDetector


@dataclass(frozen=True)
class Run:
    """A run's folder, opened.

    Attributes:
        record: the files of the folder.
    """

    record: RunRecord

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.record.folder

    @property
    def recipe(self) -> Recipe:
        """What was asked for; where the run is finished, its files must be what it wrote."""
        self.record.read_result()
        return record.stored_recipe(self.record)

    @property
    def result(self) -> dict[str, Any]:
        """The figures of `result.json`.

        Raises:
            ValueError: if the run is not finished.
        """
        result = self.record.read_result()
        if result is None:
            raise ValueError(f"run {str(self.folder)!r} is not finished: go on with --out {self.folder} --resume")
        return result

    def load(self) -> models.LoadedFolder:
        """Give the trained classifier with its classes and input statistics."""
        return models.load_folder(self.folder)

    def load_detector(self) -> LoadedDetector:
        """Give the trained detector with its classes and input statistics."""
        from pldistill.tasks.detection.weights import load_detector  # brings torchvision's detectors

        return load_detector(self.folder)


def load_run(path: Path | str) -> Run:
    """Open a run's folder.

    Raises:
        ValueError: where there is none.
    """
    return Run(record.load_run(path))


def train(
    recipe: Recipe,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    workers: int = 2,
    download: bool = False,
    callback: Callback | None = None,
    checkpoint_minutes: float = 10.0,
    checkpoint_steps: int | None = None,
    keep: str = "best,last",
) -> Run:
    """Train the recipe's student and leave a run folder.

    Several processes, started by `accelerate launch` or `torchrun`, train it together, with `batch_size` images each
    in a step. All must see the run's folder; the first writes it.

    Args:
        recipe: what to train.
        out: the run's folder, new or empty; None is `runs/` and the recipe's name. No other process can use it until
            the run ends.
        resume: go on with the run in `out` from its checkpoint, bit for bit; a finished run is returned as it is, and
            one that was not begun begins. So the same call can be repeated until it ends.
        device: auto, cpu, cuda or mps.
        workers: processes that decode images of a folder; their number changes no figure.
        download: fetch CIFAR where it is missing.
        callback: is told of steps and epochs; None for silence.
        checkpoint_minutes: the state is saved after so many within an epoch too, beside the end of each epoch.
        checkpoint_steps: and after every so many steps of an epoch; None for no such number.
        keep: `best,last` keeps the best epoch's model beside the last one's, in `best/` of the folder; `last` does not.

    Raises:
        ValueError: for a folder that another process uses; for anything in the recipe that does not fit, before a file
            is written.
        Interrupted: after SIGINT or SIGTERM, with the state saved.
        NonFiniteLoss: at a NaN or infinite term; the last good checkpoint stays.
    """
    saves, keeps = Saves(checkpoint_minutes, checkpoint_steps), keeps_best(keep)
    recipe = with_cache(recipe)
    run = RunRecord(Path(out) if out is not None else Path("runs") / recipe.name())
    accelerator = make_accelerator(recorded_precision(run, recipe) if resume else recipe.amp, device)
    with claim(run, recipe, resume) as begun:
        if begun is not None:
            _train(run, recipe, accelerator, begun, workers, download, callback, saves, keeps)
    return Run(run)


def _train(
    run: RunRecord,
    recipe: Recipe,
    accelerator: Accelerator,
    resume: bool,
    workers: int,
    download: bool,
    callback: Callback | None,
    saves: Saves,
    keeps: bool,
) -> None:
    """Train in a folder that this process holds."""
    data, task = open_images(recipe, download), make_task(recipe)
    shown = callback if callback is not None and distributed.is_main_process() else SilentCallback()
    for note in (precision.warning(recipe.amp, accelerator.device), *data.notes()):
        if note is not None:
            shown.warn(note)
    loop = distributed.run_on_all(lambda: assemble(recipe, data, run, accelerator, workers=workers, callback=shown))
    loop.saves, loop.best = saves, BestEpoch(task, data, recipe, run) if keeps else None

    def check() -> dict[str, Any] | None:
        return preflight(recipe, data, loop.teacher, accelerator=accelerator, workers=workers, callback=shown)

    skipped, marks = {part: list(bad) for part, bad in data.skipped.items()}, task.marks(data)
    about = {**({"skipped_images": skipped} if skipped else {}), **({"data_sha256": marks} if marks else {})}
    env = begin(loop, resume=resume, check=check, about=about)
    timed = distributed.run_on_main(lambda: shown.wants_time)
    for line in introduction(loop, data, env, timed=timed):
        shown.tell(line)
    complete(loop, data, task, env["teacher_sha256"])


def evaluate(
    run: Run,
    *,
    data: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    workers: int = 2,
    weights: str = "last",
) -> dict[str, Any]:
    """Measure a finished run's model on the validation split of `data`, by default the run's own.

    In the run's precision where the device computes in it natively, else in float32; `precision` says which it was.
    Gives the number of images, `notes` of what a user should know of the data, and of a classifier top1 and top5 in
    percent and val_loss in nats, of a detector AP, AP50, AP75, APs, APm and APl in percent. `batch_size` images are in
    memory at a time, None for what fits the task (256, of a detector 8); it changes no figure. The weights are those of
    the last epoch, or with `best` of the best one.

    Raises:
        ValueError: if the classes differ from those that the model knows, or the weights were not kept.
    """
    folder = model_folder(run, weights)
    wanted = recorded_precision(run.record, run.recipe)
    accelerator = make_accelerator("auto" if wanted == "bf16" else "off", device)
    if wanted == "fp16" and accelerator.device.type == "cuda":
        accelerator = make_accelerator(wanted, device)
    place = Placement(accelerator.device, workers, distributed.rank(), distributed.world_size())
    task = make_task(run.recipe)
    count = task.spec.scored_at_once if batch_size is None else batch_size
    figures = task.measure(folder, run.recipe, data, count, place, accelerator.autocast)
    return {**figures, "precision": precision_of(accelerator)}


def predict(
    run: Run, images: Sequence[Path | str], *, top: int = 5, weights: str = "last"
) -> list[list[tuple[str, float]]]:
    """Give the first `top` classes of each image with their probabilities, in float32 on the CPU.

    The weights are those of the last epoch, or with `best` of the best one.

    Raises:
        ValueError: for an image that is missing or cannot be read, for a run of another task, and where the weights
            were not kept.
    """
    task = make_task(run.recipe)
    if task.spec.predictions != "classes":
        raise ValueError(f"run {str(run.folder)!r}: expected one that gives an image classes, got {run.recipe.task}")
    answers = task.predict(model_folder(run, weights), images)
    return [[(answer["class"], answer["probability"]) for answer in ranked[:top]] for ranked in answers]


def model_folder(run: Run, weights: str) -> Path:
    """The folder of a finished run's model: of the last epoch, or with `best` of the best one.

    Raises:
        ValueError: for another word, or where the best epoch's were not kept.
    """
    if weights not in ("best", "last"):
        raise ValueError(f"weights: expected best or last, got {weights!r}")
    if weights == "last":
        return run.folder
    if not any(name.startswith(f"{best.FOLDER}/") for name in run.result.get("sha256") or {}):
        raise ValueError(
            f"weights: expected last, for run {str(run.folder)!r} kept no best (--keep best,last does), got 'best'"
        )
    return run.folder / best.FOLDER


def begin(
    loop: Loop,
    *,
    resume: bool,
    check: Callable[[], dict[str, Any] | None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Open the folder of a loop's run, or go on from its checkpoint; give its environment, with what is known `about`.

    A new run is checked first; one that goes on was, and its teacher must be the same.
    """
    env = record.environment(device=loop.accelerator.device, world_size=distributed.world_size())
    env |= about or {}
    env["precision"] = precision_of(loop.accelerator)
    if check is not None and not resume:
        env["preflight"] = distributed.run_on_all(check)
    env |= loop.teacher.record() if loop.teacher is not None else {"teacher_sha256": None}
    distributed.run_on_main(lambda: _open_folder(loop.record, loop.recipe, env, resume))
    if resume:
        distributed.run_on_all(lambda: restore_state(loop))
    return env


def complete(loop: Loop, data: Any, task: Task[Any, Any], teacher_sha256: str | None) -> None:
    """Train to the end, make sure that the teacher is what it was, and leave the model and the result."""
    loop.run()
    if loop.teacher is not None and loop.teacher.fingerprint() != teacher_sha256:
        raise AssertionError("the teacher's weights or buffers changed during training")
    distributed.run_on_main(lambda: _finish(loop, data, task))


def recorded_precision(run: RunRecord, recipe: Recipe) -> str:
    """What a run that goes on began with, whatever `auto` would be on this machine."""
    env = run.read_environment() if run.begun and kind_of(run.folder / "env.json") is not None else {}
    return precision.of_record(recipe.to_dict(), env)


def open_images(recipe: Recipe, download: bool) -> Any:
    """Open the data in every process; the first of several downloads what is missing before the others look for it."""
    task = make_task(recipe)
    if download and distributed.world_size() > 1:
        distributed.run_on_main(lambda: task.open(recipe, download=True).spec)
        download = False
    return distributed.run_on_all(lambda: task.open(recipe, download=download))


@contextmanager
def claim(run: RunRecord, recipe: Recipe, resume: bool) -> Iterator[bool | None]:
    """Hold the folder that a run is to be made in; of several processes the first does.

    Gives whether the run in it goes on (or begins), and None for a finished one, whose folder is left as it is.

    Raises:
        ValueError: for a folder that another process holds; without `resume` for one that is not new, and with it for
            one that is not new and not the recipe's.
    """
    with ExitStack() as stack:

        def enter() -> bool | None:
            try:
                begun = goes_on(run, recipe, resume)  # what is refused is refused before the folder is touched
            except ValueError:
                refuse_held(run.folder)  # who is at work in it is the reason
                raise
            if not (begun and run.finished):
                stack.enter_context(held(run.folder))
                begun = goes_on(run, recipe, resume)
            return None if begun and run.finished else begun

        yield distributed.run_on_main(enter)


def goes_on(run: RunRecord, recipe: Recipe, resume: bool) -> bool:
    """Whether the recipe's run goes on in its folder, finished or not; False where it begins.

    Raises:
        ValueError: for a folder that is neither new nor the recipe's run's.
    """
    require_new_or_folder(run.folder, "out")
    if resume and run.begun:
        _check_same(run, recipe)
        return True
    if not is_new(run.folder):
        if resume:
            raise ValueError(f"resume: expected a run in {str(run.folder)!r}, got none")
        hint = "; add --resume to go on with the run in it" if run.begun else ""
        raise ValueError(f"out: expected a new or empty folder, got {str(run.folder)!r}, which is not{hint}")
    return False


def _check_same(run: RunRecord, recipe: Recipe) -> None:
    """Check that the folder's run is the recipe's."""
    stored, given = record.stored_recipe(run).to_dict(), recipe.to_dict()
    for name, value in stored.items():
        if given[name] != value:
            raise ValueError(f"resume: expected the run's own {name}, {value!r}, got {given[name]!r}")


def _open_folder(run: RunRecord, recipe: Recipe, env: dict[str, Any], resume: bool) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        run.write_environment(env)
        run.write_recipe(recipe.to_dict())
        return
    first = run.read_environment()
    if first["teacher_sha256"] != env["teacher_sha256"]:
        raise ValueError(f"resume: teacher {recipe.teacher!r} is not the one the run began with: its weights differ")
    if first.get("teacher_cache") != env.get("teacher_cache"):
        raise ValueError(f"resume: teacher_cache {recipe.teacher_cache!r} is not the one the run began with")
    if first["world_size"] != env["world_size"]:
        raise ValueError(
            f"resume: expected {first['world_size']} processes, as the run began with, got {env['world_size']}"
        )
    if first.get("skipped_images") != env.get("skipped_images"):
        raise ValueError(
            "resume: other images can be read than when the run began; it left out "
            f"{sum(map(len, first.get('skipped_images', {}).values()))}, now it would leave out "
            f"{sum(map(len, env.get('skipped_images', {}).values()))}"
        )
    for part, digest in env.get("data_sha256", {}).items():
        if first.get("data_sha256", {}).get(part, digest) != digest:  # older records have none
            raise ValueError(f"resume: data {recipe.data!r} is not what the run began with: its {part} part differs")
    run.write_environment({**first, "resumed": [*first.get("resumed", []), env]})


def _skipped(data: Any) -> dict[str, Any]:
    """How many images of each part were left out, where some were."""
    counts = {part: len(bad) for part, bad in data.skipped.items() if bad}
    return {"skipped_images": counts} if counts else {}


def _finish(loop: Loop, data: Any, task: Task[Any, Any]) -> None:
    """Export the model and write the result."""
    model, run, recipe = loop.evaluated, loop.record, loop.recipe
    task.save(model, run.folder, data, recipe)
    task.show(model, loop.teacher, run, data)
    rows = run.epochs()
    kept = [] if loop.best is None else loop.best.files()
    if not kept:
        best.drop(run.folder, task.spec.files)
    run.write_result(
        {
            "method": recipe.method,
            "student": recipe.student,
            "teacher": recipe.teacher,
            "data": recipe.data,
            **_skipped(data),
            **({"warnings": [*warnings.values()]} if (warnings := loop.warnings(rows)) else {}),
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            **task.result(rows, data),
            "seconds": sum(row["seconds"] for row in rows),
            "images_per_second": sum(row["images_per_second"] for row in rows) / len(rows),
            "parameters": models.count_parameters(model.model),
            "teacher_parameters": None if loop.teacher is None else loop.teacher.count_parameters(),
        },
        files=[*TEXTS, *MODEL, *task.spec.files, *kept],
    )
