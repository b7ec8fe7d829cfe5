"""JSON files, read and checked: bytes, then JSON, then a pydantic model of what the file must hold.

Every file of ours has its model beside the code that writes it. What does not fit is one line, a ValueError that names
the file, the key (dotted), what was expected and what came. NaN and the infinities are no JSON, and a key that is there
twice is a mistake.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pldistill.paths import require_file

DEEPEST = 64  # levels of a file of ours; the deepest that is written has fewer than ten
LARGEST_INTEGER = 2**63 - 1
_SHOWN = 60  # characters of a value in a message
_WORDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}

Count = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Number = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class JsonFile(BaseModel):
    """What a JSON file holds. Keys that the model does not name, as another version writes them, may hold anything."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", protected_namespaces=())


Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path, model: type[Model], name: str | None = None) -> Model:
    """Read a JSON file into the model of what it must hold.

    Args:
        path: a regular file.
        model: of its content.
        name: what messages call the file; None for its path.

    Raises:
        ValueError: no regular file, no JSON object, or one that the model refuses.
    """
    return validate(read_object(path, name), model, _called(path, name))


def read_checked(path: Path, model: type[BaseModel], name: str | None = None) -> dict[str, Any]:
    """The same as a dict: every key as the file has it, in its order, after the model has accepted all."""
    content = read_object(path, name)
    validate(content, model, _called(path, name))
    return content


def read_object(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a JSON object from a regular file.

    Raises:
        ValueError: no regular file, or no JSON object.
    """
    where = _called(path, name)
    return parse_object(read_regular(path, where), where)


def read_regular(path: Path, where: str) -> bytes:
    """The bytes of a regular file; ValueError, beginning with `where`, for anything else and what cannot be read."""
    require_file(path, where)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{where}: expected a file that can be read, got {error.strerror or error}") from None


def parse_object(content: bytes | str, where: str, *, finite: bool = True) -> dict[str, Any]:
    """Parse a JSON object; with `finite=False` one that may hold NaN, the infinities and integers of any size.

    Raises:
        ValueError: beginning with `where`, for what is none, and for one of more than 64 levels.
    """
    own = {"parse_constant": _refuse_constant, "parse_float": _finite_float, "parse_int": _integer}
    hooks: dict[str, Any] = own if finite else {}
    try:
        value = json.loads(content, object_pairs_hook=_once, **hooks)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        reason = f"more than {DEEPEST} levels" if isinstance(error, RecursionError) else _reason(error)
        raise ValueError(f"{where}: expected a JSON object, got {_beginning(content)} ({reason})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_beginning(content)}")
    return value


def validate(content: Any, model: type[Model], where: str) -> Model:
    """Build the model of an object; ValueError, beginning with `where`, that names the first key that does not fit."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{where}{_first(error)}") from None


def _called(path: Path, name: str | None) -> str:
    return str(path) if name is None else name


def _first(error: ValidationError) -> str:
    """What is wrong with the first key."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    named = f", key {key}" if key else ""
    message = first["msg"]
    if first["type"] == "value_error":
        return f"{named}: {message.removeprefix('Value error, ')}"
    got = "none" if first["type"] == "missing" else _value(first["input"])
    expected = "a value" if first["type"] == "missing" else message.removeprefix("Input should be ")
    expected = expected.replace("String should match pattern", "a text of the pattern")
    return f"{named}: expected {_WORDS.get(first['type'], expected)}, got {got}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_SHOWN]} is no finite number")
    return number


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) > LARGEST_INTEGER:
        raise ValueError(f"{text[:_SHOWN]} has more digits than an integer of 64 bits")
    return number


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, (dict, list))]:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]


def _reason(error: Exception) -> str:
    """Why it cannot be parsed; Python's words for a number of too many digits name a setting of the interpreter."""
    text = " ".join(str(error).split())
    return "an integer of too many digits" if "integer string conversion" in text else text


def _beginning(content: bytes | str) -> str:
    text = content[:_SHOWN].decode("utf-8", errors="replace") if isinstance(content, bytes) else content[:_SHOWN]
    return repr(text) + ("..." if len(content) > _SHOWN else "")


def _value(value: Any) -> str:
    """A value of a file, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
