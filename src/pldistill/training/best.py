"""The best epoch's model, in `best/` of the run's folder, as the task saves one.

It is written when an epoch is the best so far, after the epoch's row and before its checkpoint: whatever ends the run
in between, the epoch is trained again and its model is written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pldistill.files import write_atomically
from pldistill.json_files import read_object
from pldistill.recipe import Recipe
from pldistill.record import MODEL, RunRecord
from pldistill.tasks.base import Task

FOLDER, EPOCH = "best", "epoch.json"
KEEPS = {"best,last": True, "last": False}


def keeps_best(keep: str) -> bool:
    """Whether the best epoch's model is kept beside the last one's.

    Raises:
        ValueError: for anything but `best,last` and `last`.
    """
    if not isinstance(keep, str) or keep not in KEEPS:
        raise ValueError(f"keep: expected {' or '.join(KEEPS)}, got {keep!r}")
    return KEEPS[keep]


@dataclass
class BestEpoch:
    """Who keeps the best epoch's model.

    Attributes:
        task: says what is best, and saves the model.
        data: the run's.
        recipe: the run's.
        record: the run's files.
    """

    task: Task[Any, Any]
    data: Any
    recipe: Recipe
    record: RunRecord
    _best: Mapping[str, Any] | None = field(init=False, default=None)

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return self.record.folder / FOLDER

    def offer(self, model: Any, row: Mapping[str, Any]) -> None:
        """Save the model if its epoch, whose row was written last, is the best of all."""
        before = self.record.epochs()[:-1] if self._best is None else [self._best]
        self._best = self.task.best_row([*before, row], self.data)
        if self._best is not row:
            return
        self.folder.mkdir(exist_ok=True)
        (self.folder / EPOCH).unlink(missing_ok=True)  # what is there is no epoch's until all of it is
        self.task.save(model, self.folder, self.data, self.recipe)
        write_atomically(self.folder / EPOCH, json.dumps(self._of(row)).encode())

    def files(self) -> list[str]:
        """What the folder has of the best epoch, to be recorded.

        Nothing is left where it has another one's: where an epoch that was trained again came out otherwise, or where
        a part of the run was made with `keep="last"`.
        """
        best = self.task.best_row(self.record.epochs(), self.data)
        if read_epoch(self.record.folder) == self._of(best):
            return [f"{FOLDER}/{name}" for name in (*MODEL, *self.task.spec.files, EPOCH)]
        drop(self.record.folder, self.task.spec.files)
        return []

    def _of(self, row: Any) -> dict[str, Any]:
        choice = self.task.choice(self.data)
        return {"epoch": row["epoch"], choice: row[choice]}


def read_epoch(folder: Path) -> dict[str, Any] | None:
    """Which epoch's model a run's folder keeps as the best, with its score; None where it keeps none."""
    try:
        return read_object(folder / FOLDER / EPOCH)
    except ValueError:
        return None


def drop(folder: Path, files: Sequence[str] = ()) -> None:
    """Take away the model of an epoch that is not the best, with the task's own files; what others put there stays."""
    best = folder / FOLDER
    for name in (EPOCH, *MODEL, *files):
        (best / name).unlink(missing_ok=True)
    if best.is_dir() and not any(best.iterdir()):
        best.rmdir()
