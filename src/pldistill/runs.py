"""A run's folder, there and back: `train` leaves one, `load_run` opens it, and what a finished one is good for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pldistill import models, processes, record, snapshot
from pldistill.assemble import assemble, make_accelerator
from pldistill.data import Dataset, Loader, make_loader, open_data, with_unlabelled
from pldistill.data.pictures import read_picture
from pldistill.loop import Loop, Watch
from pldistill.models import Net
from pldistill.preflight import preflight
from pldistill.progress import Silent
from pldistill.recipe import Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.stored import with_store
from pldistill.tasks.classification import Validation


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
        """What was asked for."""
        return make_recipe(self.record.read_recipe())

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
        """Give the trained net with its classes and input statistics."""
        return models.load_folder(self.folder)


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
    watch: Watch | None = None,
) -> Run:
    """Train the recipe's student and leave a run folder.

    Several processes, started by `accelerate launch` or `torchrun`, train it together, with `batch_size` pictures each
    in a step. All must see the run's folder; the first writes it.

    Args:
        recipe: what to train.
        out: the run's folder, new or empty; None is `runs/` and the recipe's name.
        resume: go on with the run in `out` from its checkpoint, bit for bit; a finished run is returned as it is.
        device: auto, cpu, cuda or mps.
        workers: processes that decode pictures of a folder; their number changes no figure.
        download: fetch CIFAR where it is missing.
        watch: who looks on; None for silence.

    Raises:
        ValueError: for anything in the recipe that does not fit, before a file is written.
        Interrupted: after SIGINT or SIGTERM, with the state saved.
        NonFiniteLoss: at a NaN or infinite term; the last good checkpoint stays.
    """
    recipe = with_store(recipe)
    run = RunRecord(Path(out) if out is not None else Path("runs") / recipe.name())
    accelerator = make_accelerator(recipe.amp, device)
    if processes.on_first(lambda: _finished(run, recipe, resume)):
        return Run(run)
    dataset = open_pictures(recipe, download)
    shown = watch if watch is not None and processes.first() else Silent()
    loop = processes.everywhere(lambda: assemble(recipe, dataset, run, accelerator, workers=workers, watch=shown))
    env = record.environment(device=accelerator.device, world_size=processes.count())
    if not resume:  # a run that goes on has asked, and its teacher must be the same
        env["preflight"] = processes.everywhere(
            lambda: preflight(recipe, dataset, loop.teacher, accelerator=accelerator, workers=workers, watch=shown)
        )
    asked = loop.teacher.record() if loop.teacher is not None else {"teacher_sha256": None}
    processes.on_first(lambda: _open_folder(run, recipe, {**env, **asked}, resume))
    if resume:
        processes.everywhere(lambda: snapshot.restore(loop))
    loop.run()
    if loop.teacher is not None and loop.teacher.fingerprint() != asked["teacher_sha256"]:
        raise AssertionError("the teacher's weights or buffers changed during training")
    processes.on_first(lambda: _finish(loop, dataset))
    return Run(run)


def evaluate(
    run: Run, *, data: str | None = None, batch_size: int = 256, device: str = "auto", workers: int = 2
) -> dict[str, float | None]:
    """Measure a finished run's net on the validation split of `data`, by default the run's own, in the run's precision.

    Gives top1 and top5 in percent, val_loss in nats and the number of pictures.

    Raises:
        ValueError: if the classes differ from those that the net knows.
    """
    loaded = run.load()
    accelerator = make_accelerator(run.recipe.amp, device)

    def open_loader() -> Loader:
        dataset = open_data(data or run.recipe.data, image_size=loaded.image_size)
        if dataset.classes != tuple(loaded.classes):
            raise ValueError(
                f"data {dataset.spec!r}: expected the run's {len(loaded.classes)} classes ({_first(loaded.classes)}), "
                f"got {len(dataset.classes)} ({_first(dataset.classes)})"
            )
        return make_loader(
            dataset.val,
            batch_size=batch_size,
            image_size=loaded.image_size,
            augment=None,
            seed=0,
            shuffle=False,
            device=accelerator.device,
            workers=workers,
            rank=processes.rank(),
            world=processes.count(),
        )

    loader = processes.everywhere(open_loader)
    net = Net(loaded.model, mean=loaded.mean, std=loaded.std).to(accelerator.device)
    figures = Validation(loader, None, accelerator.autocast)(net)
    return {
        "top1": figures["top1"],
        "top5": figures["top5"],
        "val_loss": figures["val_loss"],
        "pictures": loader.num_samples,
    }


@torch.no_grad()
def predict(run: Run, pictures: Sequence[Path | str], *, top: int = 5) -> list[list[tuple[str, float]]]:
    """Give the first `top` classes of each picture with their probabilities, in float32 on the CPU.

    Raises:
        ValueError: for a picture that is missing or cannot be read.
    """
    loaded = run.load()
    net = Net(loaded.model, mean=loaded.mean, std=loaded.std).eval()
    images = torch.stack([read_picture(str(picture), loaded.image_size) for picture in pictures])
    best = net(images).logits.softmax(dim=1).topk(min(top, len(loaded.classes)), dim=1)
    return [
        [(loaded.classes[index], probability) for index, probability in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def open_pictures(recipe: Recipe, download: bool) -> Dataset:
    """Open the data in every process; the first of several downloads what is missing before the others look for it."""

    def open_(download: bool) -> Dataset:
        dataset = open_data(recipe.data, image_size=recipe.image_size, download=download)
        return dataset if recipe.unlabelled is None else with_unlabelled(dataset, recipe.unlabelled, download=download)

    if download and processes.count() > 1:
        processes.on_first(lambda: open_(download=True).spec)
        download = False
    return processes.everywhere(lambda: open_(download))


def _finished(run: RunRecord, recipe: Recipe, resume: bool) -> bool:
    """Check that the folder is new, or holds the run that is resumed; say whether that one is finished."""
    if resume:
        return _same_run(run, recipe).finished
    _refuse_used(run.folder)
    return False


def _refuse_used(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "; add --resume to go on with the run in it" if RunRecord(folder).begun else ""
        raise ValueError(f"out: expected a new or empty folder, got {str(folder)!r}, which is not{hint}")


def _same_run(run: RunRecord, recipe: Recipe) -> RunRecord:
    """Check that the folder's run is the recipe's."""
    if not run.begun:
        raise ValueError(f"resume: expected a run in {str(run.folder)!r}, got none")
    stored, given = make_recipe(run.read_recipe()).to_dict(), recipe.to_dict()
    for name, value in stored.items():
        if given[name] != value:
            raise ValueError(f"resume: expected the run's own {name}, {value!r}, got {given[name]!r}")
    return run


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
    run.write_environment({**first, "resumed": [*first.get("resumed", []), env]})


def _finish(loop: Loop, dataset: Dataset) -> None:
    """Export the net and write the result.

    The best epoch is the best on the held-out pictures where there are some: chosen without a look at those that score
    it. Otherwise it is the best on the validation split itself.
    """
    net, run, recipe = loop.evaluated, loop.record, loop.recipe
    mean, std = net.mean.flatten().tolist(), net.std.flatten().tolist()
    models.save_folder(
        net.model, run.folder, classes=dataset.classes, mean=mean, std=std, image_size=dataset.image_size
    )
    rows = run.epochs()
    choice = "top1" if dataset.holdout is None else "holdout_top1"
    last, best = rows[-1], max(rows, key=lambda row: row[choice])
    held = {} if dataset.holdout is None else {"holdout_last": last[choice], "holdout_best": best[choice]}
    seconds = sum(row["seconds"] for row in rows)
    run.write_result(
        {
            "method": recipe.method,
            "student": recipe.student,
            "teacher": recipe.teacher,
            "data": recipe.data,
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "top1_last": last["top1"],
            "top1_best": best["top1"],
            "best_epoch": best["epoch"],
            **held,
            "top5_last": last["top5"],
            "kl_last": last["kl"],
            # Rows that an earlier version wrote have none of these.
            **{f"{name}_last": last.get(name) for name in ("agreement", "overlap5", "kendall")},
            "seconds": seconds,
            "images_per_second": sum(row["images_per_second"] for row in rows) / len(rows),
            "parameters": models.count_parameters(net.model),
            "teacher_top1": last.get("teacher_top1"),
            "teacher_parameters": None if loop.teacher is None else loop.teacher.count_parameters(),
        }
    )
