"""The text that names data: `NAME`, `NAME:PATH`, `NAME:key=NUMBER,...` and `NAME:PATH,key=NUMBER,...`; and a teacher.

Of timm's readers a slash may stand for the colon, as timm writes them: `hfds/NAME`, `wds/PATH`.
"""

from __future__ import annotations

import re
from collections.abc import Container

_NAME = re.compile(r"(?:hfds|hfids|wds|tfds)(?=/)|[^:]*")
_OPTION = re.compile(r"(\w+)=[0-9]+")
_WITH_WEIGHTS = re.compile(r"([\w.]+|fasterrcnn:[\w.]+)@(.+)")

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
    """The nets that a teacher's text names: A, B and C of `ensemble:A+B+C`, elsewhere the text itself."""
    return teacher.removeprefix(ENSEMBLE).split("+") if teacher.startswith(ENSEMBLE) else [teacher]


def split_weights(member: str) -> tuple[str, str | None]:
    """A net's name and the file behind it of `NAME@FILE`; elsewhere the text itself and None."""
    match = _WITH_WEIGHTS.fullmatch(member)
    return (match[1], match[2]) if match else (member, None)
