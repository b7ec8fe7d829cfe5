"""Several small runs at once on a CPU: a process each with its part of the cores.

A small network gains next to nothing by a second core: two of them at once, a core each, take the time of one. Each run
is the one that `runs.train` would make; a signal, or the caller's death, stops all of them with their state saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pldistill.launch import Interrupted, Interrupts
from pldistill.recipe import Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.training.run import train

MOST = 4  # runs at once
_LOOK = 0.2  # seconds
_AT_WORK = threading.Event()  # in a worker: a run is going on


class Job(NamedTuple):
    """A run to be made, or gone on with."""

    recipe: Recipe
    folder: Path


class _Ended(NamedTuple):
    """How a run ended in its process: an error of a known kind comes back as its name and its arguments."""

    error: str = ""
    arguments: tuple[Any, ...] = ()


def workers_for(device: str) -> int:
    """How many runs at once: one on a GPU, on a CPU one for each core, `MOST` at most."""
    if device not in ("auto", "cpu") or (device == "auto" and torch.cuda.is_available()):
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, MOST))


class SideBySide:
    """Runs that go on in processes of their own while the caller does something else; to be used in a `with`.

    What ends the `with` before its runs have ended stops them with their state saved. So does the caller's death.
    """

    def __init__(self, device: str, most: int = MOST) -> None:
        self.device = device
        self.count = max(1, min(workers_for(device), most))
        self.threads = max(1, torch.get_num_threads() // self.count)
        context = multiprocessing.get_context("spawn")  # a fork of a process that has computed may hang
        self._pool = ProcessPoolExecutor(self.count, context, _prepare, (self.threads,))
        self._running: dict[Future[_Ended], Sequence[Job]] = {}

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._stop()
        self._pool.shutdown()

    def begin(self, jobs: Sequence[Job], *, in_turn: bool = False) -> None:
        """Start the runs: as many at once as there are workers, or, `in_turn`, one after another on one of them."""
        for lane in [jobs] if in_turn else [[job] for job in jobs]:
            runs = [(job.recipe.to_dict(), str(job.folder)) for job in lane]
            self._running[self._pool.submit(_run, runs, self.device)] = lane

    def wait(self, done: Callable[[RunRecord], None]) -> None:
        """Wait for all that was begun; `done` is called with each run that is finished.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with the state of every run saved.
            ValueError: for what a recipe does not fit, as `runs.train`.
        """
        with Interrupts() as interrupts:
            left: set[Future[_Ended]] = set(self._running)
            while left:
                finished, left = wait(left, timeout=_LOOK)
                for future in finished:
                    lane = self._running.pop(future)
                    if not _raise(future.result()):
                        for job in lane:
                            done(RunRecord(job.folder))
                if interrupts.received is not None:
                    self._stop()
                    raise Interrupted("stopped; nothing is lost: the same line goes on", interrupts.received)

    def _stop(self) -> None:
        """Let every run save its state and end."""
        left = {future for future in self._running if not future.cancel()}
        while left:
            for process in list((self._pool._processes or {}).values()):  # again and again: one may not listen yet
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
            left = wait(left, timeout=_LOOK).not_done


def train_side_by_side(jobs: Sequence[Job], *, device: str, done: Callable[[RunRecord], None]) -> None:
    """Make the runs, in any order; `done` is called with each that is finished.

    Raises:
        Interrupted: after SIGINT or SIGTERM, with the state of every run saved.
        ValueError: for what a recipe does not fit, as `runs.train`; the other runs save their state and end.
    """
    waiting = [job for job in jobs if not RunRecord(job.folder).finished]
    for job in jobs:
        if job not in waiting:
            done(RunRecord(job.folder))
    if waiting:
        with SideBySide(device, len(waiting)) as runs:
            runs.begin(waiting)
            runs.wait(done)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches the parent, which tells its children; they listen while they train.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run whose parent was killed saves its state and ends: nobody is there to wait for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while _AT_WORK.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LOOK)
    os._exit(1)


def _run(runs: Sequence[tuple[dict[str, Any], str]], device: str) -> _Ended:
    _AT_WORK.set()
    try:
        for recipe, folder in runs:
            train(make_recipe(recipe), out=folder, resume=RunRecord(folder).begun, device=device, keep="last")
    except Interrupted:
        return _Ended("Interrupted")
    except (ValueError, ArithmeticError, OSError) as error:
        return _Ended(type(error).__name__, (str(error),))
    finally:
        _AT_WORK.clear()
    return _Ended()


def _raise(ended: _Ended) -> bool:
    """Whether a run was stopped before its end; raises what was wrong with it."""
    if ended.error and ended.error != "Interrupted":
        raise ValueError(*ended.arguments)
    return bool(ended.error)
