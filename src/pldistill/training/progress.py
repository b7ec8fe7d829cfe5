"""Callbacks that show a run: none, or a progress bar in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pldistill import distributed
from pldistill.record import METRICS, duration, percent, score_in
from pldistill.specs import visible
from pldistill.teachers.cache import CacheMetadata
from pldistill.training.distiller import EpochMetrics


class SilentCallback:
    """Shows nothing."""

    wants_time = False

    def warn(self, message: str) -> None:
        """Do nothing."""

    def tell(self, message: str) -> None:
        """Do nothing."""

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
        """Do nothing."""

    def step(self, epoch: int, tally: EpochMetrics) -> None:
        """Do nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class ProgressBar:
    """A bar over the whole run with images a second, time left and terms, and a line for each epoch.

    Where the output is no terminal, a line every `LINE_EVERY` seconds stands in for the bar.
    """

    wants_time = True
    LINE_EVERY = 30.0
    FIRST_AFTER = 5.0  # seconds of steps, after which the time that is left is said once

    def __init__(self, console: Console, samples: str = "images") -> None:
        self.console, self.samples = console, samples
        self.bar = self._new_bar()
        self.epochs = self.batches = 0
        self.title = ""
        self.said_time = False
        self.last_line = time.monotonic()

    def warn(self, message: str) -> None:
        """Print what a user should know before the run, which goes on."""
        self.console.print(f"note: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def tell(self, message: str) -> None:
        """Print what is about to be done."""
        self._print(message)

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
        """Open the bar."""
        self.epochs, self.batches = epochs, batches
        self.title, self.said_time, self.last_line = title, False, time.monotonic()
        self.bar = self._new_bar()
        self.task = self.bar.add_task(title, total=epochs * batches, completed=done * batches, terms="", rate="")
        self.bar.start()
        so_far = f", {done} done" if done else ""
        self.console.print(Text.assemble((visible(title), "bold"), f": {epochs} epochs of {batches} steps{so_far}"))

    def step(self, epoch: int, tally: EpochMetrics) -> None:
        """Move the bar."""
        terms = " ".join(f"{name} {term['weighted']:.4g}" for name, term in tally.terms().items())
        rate = f"{distributed.world_size() * tally.seen / tally.seconds:,.0f} {self.samples}/s"
        done = epoch * self.batches + tally.batches
        self.bar.update(self.task, completed=done, terms=terms, rate=rate)
        now = time.monotonic()
        seconds = (self.epochs * self.batches - done) * tally.seconds / tally.batches
        left = f"about {duration(seconds)} left"
        if not self.said_time and tally.seconds > self.FIRST_AFTER < seconds:
            self.said_time = True
            self.tell(f"time: {left} at {rate}, without the validation")
        if not self.console.is_terminal and now - self.last_line > self.LINE_EVERY:
            self.last_line = now
            where = f"epoch {epoch + 1}/{self.epochs} batch {tally.batches}/{self.batches}"
            self._print(f"  {self.title} {where}  {terms}  {rate}  {left}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        terms = "  ".join(f"{name} {term['weighted']:.4g}" for name, term in row["terms"].items())
        self.bar.update(self.task, completed=row["epoch"] * self.batches)
        self.console.print(
            f"  epoch {row['epoch']:>3}/{self.epochs}  {terms}  train {row['train_top1']:5.2f} %  "
            f"{_scores(row)}  {row['images_per_second']:,.0f} {self.samples}/s  {row['seconds']:.1f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Close the bar."""
        self.bar.stop()

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[terms]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )


def _scores(row: Mapping[str, Any]) -> str:
    """What an epoch's validation gave, in a few words."""
    metrics = {name: metric for name, metric in METRICS.items() if metric.in_progress and row.get(name) is not None}
    return "  ".join(
        f"{'val ' if metric.unit == '%' else ''}{metric.short} {metric.show(row[name], width=5)}"
        for name, metric in metrics.items()
    )


class StudyProgress(ProgressBar):
    """One display for many runs: a bar over all of them above the bar of the run that is going on, a line for each."""

    wants_time = False

    def tell(self, message: str) -> None:
        """Say nothing: many runs' beginnings are too many lines."""

    def open(self, total: int) -> None:
        """Begin with a number of runs."""
        self.bar = self._new_bar()
        self.whole = self.bar.add_task("all runs", total=total, terms="", rate="")
        self.bar.start()

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
        """Show a run's bar."""
        self.title, self.epochs, self.batches = title, epochs, batches
        self.task = self.bar.add_task(title, total=epochs * batches, completed=done * batches, terms="", rate="")

    def epoch(self, row: dict[str, Any]) -> None:
        """Move the bar; many runs' epochs are too many lines."""
        self.bar.update(self.task, completed=row["epoch"] * self.batches)

    def end(self) -> None:
        """Take the run's bar away."""
        self.bar.remove_task(self.task)

    def close_cell(self, name: str, result: dict[str, Any] | None, failure: str | None) -> None:
        """Print what became of a run."""
        self.bar.advance(self.whole)
        if result is not None:
            metric, value = score_in(result)
            figures = f"{METRICS[metric].short} {percent(value):>7}  {result['seconds']:,.0f} s"
            self.console.print(f"  {name}  {figures}", highlight=False, markup=False, soft_wrap=True)
        else:
            self.console.print(f"  {name}  failed: {failure}", style="red", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Close the display."""
        self.bar.stop()


class CacheProgress:
    """A line that says how large the teacher cache will be, and a bar over all that is asked."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("done, left"),
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

    def begin(self, about: CacheMetadata, done: int) -> None:
        """Say the size and open the bar."""
        count = about.views * about.images + about.validation_images
        already = f"; {done:,} of {count:,} {samples_of(about)} were asked before" if done else ""
        self.console.print(size_line(about) + already, markup=False, highlight=False, soft_wrap=True)
        self.task = self.bar.add_task(about.teacher, total=count, completed=done)
        self.bar.start()

    def asked(self, images: int) -> None:
        """Move the bar."""
        self.bar.advance(self.task, images)

    def end(self) -> None:
        """Close the bar."""
        self.bar.stop()


def samples_of(about: CacheMetadata) -> str:
    """What a teacher cache has answers about."""
    return "images" if about.rows == 1 else f"sequences of {about.rows}"


def size_line(about: CacheMetadata) -> str:
    """What a teacher cache takes on the disk, and of what."""
    record, total, samples = about.form.dtype.itemsize, sum(about.sizes().values()), samples_of(about)
    return (
        f"{total / 1e6:,.1f} MB: {about.views} views of {about.images:,} {samples}, {about.places} of "
        f"{about.classes} classes each ({record} bytes), and {about.validation_images:,} validation {samples}"
    )
