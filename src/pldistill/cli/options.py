"""What several verbs share: the console, options that they all have, and numbers read with a plain refusal."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

console = Console()

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Workers = Annotated[str, typer.Option(metavar="N", help="Processes that decode a folder's images; changes no figure.")]


class Spread(TyperCommand):
    """A command whose list options take several values behind one flag: `--pairs A B`."""

    SEVERAL = ("--pairs", "--methods", "--sweep-scale", "--temperatures", "--shape")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before each of its values."""
        flag, spread = None, []
        for word in args:
            if word.startswith("-") and not word[1:2].isdigit():  # a number below 0 is a value, and refused as one
                flag = word if word in self.SEVERAL else None
            elif flag is not None and spread[-1] != flag:
                spread.append(flag)
            spread.append(word)
        return super().parse_args(ctx, spread)


def whole(name: str, text: str, *, least: int) -> int:
    """Read a whole number. Typer's own message would not name the value that came."""
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name}: expected a whole number from {least}, got {text!r}")
    return int(text)


def positive(name: str, text: str) -> float:
    """Read a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{name}: expected numbers above 0, got {text!r}")
    return number
