"""The text that names data: `NAME`, `NAME:PATH`, `NAME:key=NUMBER,...` and `NAME:PATH,key=NUMBER,...`; and a teacher.

Of timm's readers a slash may stand for the colon, as timm writes them: `hfds/NAME`, `wds/PATH`.

And what is said of a mistake: `unknown`, one sentence for a name that is not known, with the near ones; `expectation`,
one for a value that a field cannot have.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_NAME = re.compile(r"(?:hfds|hfids|wds|tfds)(?=/)|[^:]*")
_OPTION = re.compile(r"(\w+)=[0-9]+")
_WITH_WEIGHTS = re.compile(r"([\w.]+|fasterrcnn:[\w.]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*)@(.+)")

RANDOM, ENSEMBLE = "random:", "ensemble:"
FASTER_RCNN = "fasterrcnn:"  # before the name of a detector's backbone


def split_spec(spec: str, known: Container[str] | None = None) -> tuple[str, str, list[str]]:
    """The name, the path and the `key=NUMBER` parts; of any key where `known` is None.

    Only parts at the end are options, so a path may hold commas and equals signs.
    """
    match = _NAME.match(spec)
    assert match is not None  # it matches an empty text too
    name, rest = match[0], spec[match.end() + 1 :]
    path, options = rest.split(","), []
    while path and (match := _OPTION.fullmatch(path[-1])) and (known is None or match[1] in known):
        options.insert(0, path.pop())
    return name, ",".join(path), options


def teacher_members(teacher: str) -> list[str]:
    """The models that a teacher's text names: A, B and C of `ensemble:A+B+C`, elsewhere the text itself."""
    return teacher.removeprefix(ENSEMBLE).split("+") if teacher.startswith(ENSEMBLE) else [teacher]


def split_weights(member: str) -> tuple[str, str | None]:
    """A model's name and the file behind it of `NAME@FILE`; elsewhere the text itself and None."""
    match = _WITH_WEIGHTS.fullmatch(member)
    return (match[1], match[2]) if match else (member, None)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, put the nearest names first and list what is known.

    Lists of more than 40 names (timm's models, say) show the near ones alone.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    message = f"unknown {kind} {name!r}"
    if near:
        message += f"; did you mean {' or '.join(near)}?"
    if len(known) <= 40:
        message += f"{'' if near else ';'} known: {', '.join(known)}"
    return message


def data_label(spec: str) -> str:
    """A data specification without the folders that lead to it: `folder:/a/pets,train=500` is `folder:pets,train=500`.

    Of the CIFARs and ImageNet the name and the numbers are left, for what they hold is known.
    """
    name, path, options = split_spec(spec)
    if not path:
        return spec
    own = name if name in ("cifar10", "cifar100", "imagenet") else f"{name}:{Path(path).name}"
    return ",".join([own, *options])


def model_label(name: str) -> str:
    """A model's name where a long one is in the way: of `TYPE:key=value,...` the keys by their words' initials.

    `llama:hidden_size=48,num_hidden_layers=2,tie_word_embeddings=true` is `llama-hs48-nhl2-twe`; other names stay.
    """
    kind, colon, rest = name.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not colon or not all(equals for _, equals, _ in pairs):
        return name
    initials = ["".join(word[:1] for word in key.split("_")) for key, _, _ in pairs]
    values = ["" if value == "true" else value for _, _, value in pairs]
    return "-".join([kind, *map("".join, zip(initials, values, strict=True))])


def expectation(model: type[BaseModel], error: ValidationError, kind: str = "") -> str:
    """Say of the first field that is wrong what was expected and what came: `epochs: expected ... from 1, got 0`.

    `kind` stands before the field's name.
    """
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name, where = str(first["loc"][0]), kind + ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where}: expected a value, got none"
    if first["type"] == "value_error":
        return message if message.startswith("unknown ") else f"{where}: {message}"
    schema = schema_of(model, name)
    if known := schema.get("enum"):
        return unknown(where, str(first["input"]), known)
    return f"{where}: expected {accepted(schema) or message[0].lower() + message[1:]}, got {first['input']!r}"


@functools.cache
def _schemas(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()["properties"]


def schema_of(model: type[BaseModel], name: str) -> dict[str, Any]:
    """What JSON Schema says of a field's value, where it is not none."""
    schema = _schemas(model)[name]
    return next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)


def visible(text: str) -> str:
    """The text with control characters but line ends written out: an escape sequence of a foreign file does nothing."""
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() or part == "\n" else repr(part)[1:-1] for part in text)


def as_text(value: Any) -> str:
    """A value as the command line takes it: `true`, `0.0005`, `auto`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def accepted(schema: Mapping[str, Any]) -> str:
    """A field's values in words, from their JSON Schema; empty for what has no plain name."""
    if known := schema.get("enum"):
        return " or ".join([", ".join(known[:-1]), known[-1]])
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}.get(
        schema.get("type", "")
    )
    if kind is None:
        return ""
    limits, low = [], "minimum" in schema
    for key, word in (
        ("minimum", " from"),
        ("exclusiveMinimum", " above"),
        ("maximum", " to" if low else ", at most"),
        ("exclusiveMaximum", " to below" if low else ", below"),
    ):
        if key in schema and abs(schema[key]) < 2**62:
            limit = schema[key]
            limits.append(f"{word} {limit:,.0f}" if limit == int(limit) else f"{word} {limit:g}")
    return kind + "".join(limits)
