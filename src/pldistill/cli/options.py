"""What several verbs share: the console, options made from a recipe's fields, numbers read with a plain refusal."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from typer.core import TyperCommand

from pldistill.recipe import PANELS, Recipe
from pldistill.specs import as_text, schema_of, visible
from pldistill.tasks.registry import TASKS


class PlainConsole(Console):
    """For texts that come from outside, as paths and class names: no markup, no escape reaches the terminal.

    Where nobody reads any more, a closed pipe or a full disk behind it, it falls silent: a run goes on to its end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*(visible(text) if isinstance(text, str) else text for text in objects), **options)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EIO):
                raise
            self._fall_silent(error.strerror or "it cannot be written")

    def on_broken_pipe(self) -> None:
        """What rich calls when the reader of a pipe has gone."""
        self._fall_silent("its reader has gone")

    def _fall_silent(self, reason: str) -> None:
        if not self.quiet:
            self.quiet = True
            print(f"pldistill: standard output: {reason}; the work goes on without it", file=sys.stderr)
        nowhere = os.open(os.devnull, os.O_WRONLY)  # else Python fails once more when it ends
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


console = PlainConsole()

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Workers = Annotated[str, typer.Option(metavar="N", help="Processes that decode a folder's images; changes no figure.")]

Weights = Annotated[
    str, typer.Option(metavar="last|best", help="Of the last epoch, or of the best one where they were kept.")
]


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


# Fields that are given as KEY=VALUE, once for each key, and their flag.
PAIRS = {"options": "option", "weights": "weight", "task_options": "task_option"}


def with_fields(names: Iterable[str], help: Mapping[str, str] | None = None) -> Callable[[Any], Any]:
    """Give a command an option for each of these fields of a recipe, in place of its parameter `fields`.

    The command is called with a dict of those that were given, as text; pairs are read. A field's help is its
    description in the recipe, or what `help` says of it.
    """
    texts = help or {}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        chosen = {name: Recipe.model_fields[name] for name in sorted(names, key=_place)}
        made = {
            PAIRS.get(name, name): inspect.Parameter(
                PAIRS.get(name, name),
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_annotation(name, field, texts.get(name)),
            )
            for name, field in chosen.items()
        }

        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(PAIRS.get(name, name)) for name in chosen}
            command(fields={name: _read(name, value) for name, value in values.items() if value is not None}, **given)

        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name != "fields"
        ]
        run.__signature__ = signature.replace(parameters=[*made.values(), *own])  # pyright: ignore
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*made.values(), *own)}
        return run

    return decorate


def panel_of(field: FieldInfo) -> str:
    """The panel of the help that a field of a recipe stands in."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra["panel"])


def default_of(field: FieldInfo) -> str:
    """A field's default as text: `required` where there is none, `none`, `{}` for pairs."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "{}"
    return "none" if field.default is None else as_text(field.default)


def _place(name: str) -> tuple[int, int]:
    """By panel, then as the recipe has them; what must be given first."""
    field = Recipe.model_fields[name]
    return PANELS.index(panel_of(field)), [*Recipe.model_fields].index(name)


def _annotation(name: str, field: FieldInfo, text: str | None) -> Any:
    schema, flag = schema_of(Recipe, name), f"--{PAIRS.get(name, name).replace('_', '-')}"
    about: dict[str, Any] = {
        "help": text or field_help(name, field),
        "rich_help_panel": panel_of(field),
        "show_default": False,
        "autocompletion": _completion(name, schema.get("enum", ())),
    }
    if name in PAIRS:
        return Annotated[list[str] | None, typer.Option(flag, metavar="KEY=VALUE", **about)]
    if schema.get("type") == "boolean":
        both = f"{flag}/{flag.replace('--', '--no-', 1)}"
        return Annotated[bool | None, typer.Option(both, metavar=" ", **about)]
    metavar = "|".join(schema.get("enum", ())) or {"integer": "N", "number": "X"}.get(schema.get("type", ""), "TEXT")
    return Annotated[str | None, typer.Option(flag, metavar=metavar, **about)]


def _completion(name: str, values: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell may put for a field's value: its choices, and the names that are known without torch."""

    def complete(incomplete: str) -> list[str]:
        specs = [spec for task in TASKS.values() for spec in task.methods.values()]
        named: dict[str, Iterable[str]] = {
            "method": {method for task in TASKS.values() for method in task.methods},
            "task": TASKS,
            "options": {f"{option}=" for spec in specs for option in spec.options},
            "weights": {f"{term}=" for spec in specs for term in spec.weights},
            "task_options": {f"{option}=" for task in TASKS.values() for option in task.option_defaults},
        }
        return sorted(value for value in (*values, *named.get(name, ())) if value.startswith(incomplete))

    return complete


def field_help(name: str, field: FieldInfo) -> str:
    """The first sentence of a field's description, its choices, and its default, in each task where it differs."""
    said = first_sentence(field.description or "")
    if field.is_required():
        return f"{said} [bold]Required[/], here or in --recipe."
    if field.default is None or name in PAIRS:
        return said
    others = [f"; in {task} {as_text(spec.defaults[name])}" for task, spec in TASKS.items() if name in spec.defaults]
    return f"{said} Default {as_text(field.default)}{''.join(others)}."


def first_sentence(text: str) -> str:
    """What stands before the first full stop that ends a sentence, with it."""
    return text.partition(". ")[0].rstrip(".") + "."


def _read(name: str, value: Any) -> Any:
    """A field's value, and of one with keys the pairs."""
    if name not in PAIRS:
        return value
    pairs: dict[str, str] = {}
    for text in value:
        key, equals, given = text.partition("=")
        if not (key and equals and given):
            raise ValueError(f"{PAIRS[name]}: expected KEY=VALUE, got {text!r}")
        pairs[key] = given
    return pairs


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
