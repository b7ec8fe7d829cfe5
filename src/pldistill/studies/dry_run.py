"""What a study will cost before it starts: its runs, each with an estimate of its time as soon as that is known."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from pldistill.launch import Interrupted
from pldistill.record import duration
from pldistill.studies.runner import FAILURES
from pldistill.studies.study import PlannedRun
from pldistill.studies.untrained import in_words, open_or_stand_in, seconds_of, time_untrained, work_of
from pldistill.training.build import make_accelerator
from pldistill.training.timing import Rates

_LEAST, _MOST = 0.3, 4.0  # seconds, a budget
# A budget is for one round of steps; growing batches, the optimizer and the validation take about as long again each.
_SHARE = 1 / 4

_NOT_TIMED = f"{'not timed':>12}"

Timer = Callable[[PlannedRun, Any, str, float], Rates]


def forecast(
    runs: Sequence[PlannedRun],
    *,
    console: Console,
    device: str = "auto",
    download: bool = False,
    limit: float,
    timer: Timer = time_untrained,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Print the runs: what is finished with its own time, the others with an estimate for this machine, and the sum.

    Distinct work is timed once. When `limit` seconds are over, or at Ctrl-C, what is left is listed as not timed. What
    reading and augmenting the images, a teacher cache and the start of a run cost is left out.

    Args:
        runs: in the order in which they are printed.
        console: where.
        device: auto, cpu, cuda or mps.
        download: fetch data that is missing.
        limit: seconds that the timing may take; the step that is under way at its end is waited for.
        timer: gives the rates of (run, its data, device, a budget in seconds).
        clock: in seconds.

    Raises:
        ValueError: for images of unknown number or a device that are not there, and a limit that is not above 0.
        Interrupted: after Ctrl-C, when all is printed.
    """
    if not limit > 0:
        raise ValueError(f"time_limit: expected a number of seconds above 0, got {limit:g}")
    make_accelerator(runs[0].recipe.amp, device)  # refuses a device that is not there
    timings = _Timings(runs, console=console, device=device, download=download, limit=limit, timer=timer, clock=clock)
    _list(runs, timings, console)
    if timings.stopped:
        raise Interrupted("stopped: the runs that are not timed are not in the sum", signal.SIGINT)


def _list(runs: Sequence[PlannedRun], timings: _Timings, console: Console) -> None:
    """Print a line for each run, and the sum of what is left."""
    width = max(len(run.name) for run in runs)
    left, known, seconds = 0, 0, 0.0
    for run in runs:
        result = run.record.read_result()
        if result is not None:
            _print(console, f"{run.name:<{width}}  {duration(result['seconds']):>12}  finished")
            continue
        expected, left = timings.seconds(run), left + 1
        if isinstance(expected, float):
            known, seconds = known + 1, seconds + expected
            expected = f"{about(expected):>12}"
        done = f"  {len(run.record.epochs())}/{run.recipe.epochs} epochs" if run.record.begun else ""
        _print(console, f"{run.name:<{width}}  {expected}{done}")
    if not left:
        _print(console, f"left: nothing, all {len(runs)} runs are finished")
        return
    least = "" if known == left else "at least "
    how = f"{known} of {left} runs timed, without the reading of images"
    _print(console, f"left: {least}{about(seconds)} on this machine, {how}")


def about(seconds: float) -> str:
    """Seconds as one plans with them: from two days on in days."""
    days = seconds / 86_400
    return duration(seconds) if days < 2 else f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


class _Timings:
    """The rates of distinct work, each timed when a run first asks, while there is time.

    Attributes:
        stopped: whether Ctrl-C came.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        *,
        console: Console,
        device: str,
        download: bool,
        limit: float,
        timer: Timer,
        clock: Callable[[], float],
    ) -> None:
        self.console, self.device, self.download = console, device, download
        self.timer, self.clock, self.end = timer, clock, clock() + limit
        self.waiting = {work_of(run) for run in runs if not run.record.finished}
        self.rates: dict[str, Rates | str] = {}
        self.data: dict[str, Any] = {}
        self.stopped = False

    def seconds(self, run: PlannedRun) -> float | str:
        """Seconds that are left of a run, or why they are not known."""
        work = work_of(run)
        try:
            rates = self.rates[work] if work in self.rates else self._time(run, work)
            return rates if isinstance(rates, str) else seconds_of(run, self._open(run), rates)
        except KeyboardInterrupt:
            self.stopped = True
            return _NOT_TIMED

    def _time(self, run: PlannedRun, work: str) -> Rates | str:
        remaining = self.end - self.clock()
        if self.stopped or remaining <= 0:
            return _NOT_TIMED
        budget = min(max(_SHARE * remaining / len(self.waiting), _LEAST), _MOST)
        with _working(self.console, f"timing {in_words(run)} ..."):
            data = self._open(run)
            try:
                rates = self.timer(run, data, self.device, budget)
            except FAILURES as error:  # the other runs may go well
                rates = f"fails: {' '.join(str(error).split())}"
        self.waiting.discard(work)
        self.rates[work] = rates
        return rates

    def _open(self, run: PlannedRun) -> Any:
        recipe = run.recipe
        key = json.dumps([recipe.data, recipe.image_size, recipe.unlabelled, recipe.task_options], sort_keys=True)
        if key not in self.data:
            self.data[key] = open_or_stand_in(recipe, download=self.download)
        return self.data[key]


@contextmanager
def _working(console: Console, message: str) -> Iterator[None]:
    """Show what is being done: a line that goes again in a terminal, one that stays elsewhere."""
    if console.is_terminal:
        with console.status(escape(message)):
            yield
    else:
        _print(console, message)
        yield


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
