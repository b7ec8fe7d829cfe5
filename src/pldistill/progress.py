"""Who looks on a run: nobody, or a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pldistill.tally import Tally


class Silent:
    """Shows nothing."""

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
        """Do nothing."""

    def step(self, epoch: int, tally: Tally) -> None:
        """Do nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class Terminal:
    """A bar over the whole run with pictures a second, time left and terms, and a line for each epoch.

    Where the output is no terminal, only the lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = self._new_bar()
        self.epochs = self.batches = 0

    def begin(self, title: str, epochs: int, done: int, batches: int) -> None:
        """Open the bar."""
        self.epochs, self.batches = epochs, batches
        self.bar = self._new_bar()
        self.task = self.bar.add_task(title, total=epochs * batches, completed=done * batches, terms="", rate="")
        self.bar.start()
        self.console.print(f"[bold]{title}[/]: {epochs} epochs of {batches} steps" + (f", {done} done" if done else ""))

    def step(self, epoch: int, tally: Tally) -> None:
        """Move the bar."""
        terms = " ".join(f"{name} {term['weighted']:.4g}" for name, term in tally.terms().items())
        rate = f"{tally.seen / tally.seconds:,.0f} pictures/s"
        self.bar.update(self.task, completed=epoch * self.batches + tally.batches, terms=terms, rate=rate)

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        terms = "  ".join(f"{name} {term['weighted']:.4g}" for name, term in row["terms"].items())
        kl = "" if row["kl"] is None else f"  KL {row['kl']:.3f}"
        self.bar.update(self.task, completed=row["epoch"] * self.batches)
        self.console.print(
            f"  epoch {row['epoch']:>3}/{self.epochs}  {terms}  train {row['train_top1']:5.2f} %  "
            f"val top-1 {row['top1']:5.2f} %{kl}  {row['images_per_second']:,.0f} pictures/s  {row['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def end(self) -> None:
        """Close the bar."""
        self.bar.stop()

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[terms]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
