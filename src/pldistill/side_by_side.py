"""Several small runs at once on a CPU: a process each with its part of the cores.

A small network gains next to nothing by a second core: two of them at once, a core each, take the time of one. Each run
is the one that `runs.train` would make; a signal stops all of them with their state saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pldistill.interrupt import Interrupted, Interrupts
from pldistill.recipe import Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.runs import train

MOST = 4  # runs at once
_LOOK = 0.2  # seconds


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


def train_side_by_side(jobs: Sequence[Job], *, device: str, done: Callable[[RunRecord], None]) -> None:
    """Make the runs, in any order; `done` is called with each that is finished.

    Raises:
        Interrupted: after SIGINT or SIGTERM, with the state of every run saved.
        ValueError: for what a recipe does not fit, as `runs.train`; the other runs end first.
    """
    waiting = [job for job in jobs if not RunRecord(job.folder).finished]
    for job in jobs:
        if job not in waiting:
            done(RunRecord(job.folder))
    count = min(workers_for(device), len(waiting))
    if count < 1:
        return
    threads = max(1, torch.get_num_threads() // count)
    context = multiprocessing.get_context("spawn")  # a fork of a process that has computed may hang
    with Interrupts() as interrupts, ProcessPoolExecutor(count, context, _prepare, (threads,)) as pool:
        running = {pool.submit(_run, job.recipe.to_dict(), str(job.folder), device): job for job in waiting}
        stopped = False
        left: set[Future[_Ended]] = set(running)
        while left:
            finished, left = wait(left, timeout=_LOOK)
            for future in finished:
                if not future.cancelled() and not _raise(future.result(), stopped):
                    done(RunRecord(running[future].folder))
            if interrupts.received is not None:
                stopped = True
                for future in left:
                    future.cancel()
                left = {future for future in left if not future.cancelled()}
                for process in list((pool._processes or {}).values()):  # again and again: one may not listen yet
                    if process.pid is not None and process.is_alive():
                        os.kill(process.pid, signal.SIGTERM)
        if stopped:
            number = interrupts.received or signal.SIGTERM
            raise Interrupted("stopped; nothing is lost: the same line goes on", number)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches the parent, which tells its children; they listen while they train.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(recipe: dict[str, Any], folder: str, device: str) -> _Ended:
    try:
        train(make_recipe(recipe), out=folder, resume=RunRecord(folder).begun, device=device)
    except Interrupted:
        return _Ended("Interrupted")
    except (ValueError, ArithmeticError, OSError) as error:
        return _Ended(type(error).__name__, (str(error),))
    return _Ended()


def _raise(ended: _Ended, stopped: bool) -> bool:
    """Whether a run did not come to its end; raises what was wrong with it, unless all were stopped."""
    if ended.error and not stopped and ended.error != "Interrupted":
        raise ValueError(*ended.arguments)
    return bool(ended.error)
