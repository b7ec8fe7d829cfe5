"""A teacher that knows other classes than the data: a JSON file that says which of its classes is which of the data's.

    {"teacher's class": "data's class", ...}

A class is given by its name or its index from 0; what is both is the name. A net that names no classes (one with a
checkpoint) has indices alone; timm's ImageNet nets name theirs by synsets (`n01440764`).

Of a teacher with classes T, the answer for the data's class c is

    t_c = log Σ_{i in T: map(i) = c} exp t_i

so the probabilities of its classes that map to c add up, and classes that the file leaves out have no part: softmax(t)
is the teacher's distribution given that the picture shows a class of the data's. (At a temperature τ other than 1 a
method tempers t_c, the sum's logarithm.) Every class of the data's must be covered, for no loss could be asked about
a class of which the teacher holds no opinion: to train on the classes that it knows, leave the others out of the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pldistill.specs import unknown

_SHOWN = 5  # classes named in one message


@dataclass
class ClassMap:
    """From the teacher's logits to logits of the data's classes.

    Attributes:
        columns: `(C, K)` int64, for each of the data's classes the teacher's, K the most that any of them has; the
            teacher's count of classes, one past the last, fills up.
    """

    columns: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """`(N, T)` to `(N, C)`, float32, or float64 for float64."""
        self.columns = self.columns.to(logits.device)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.pad(logits, (0, 1), value=-math.inf)[:, self.columns].logsumexp(dim=2)


def read_class_map(path: str, count: int, theirs: Sequence[str] | None, ours: Sequence[str]) -> ClassMap:
    """Read a class map for a teacher of `count` classes, called `theirs` where it names them, and the data's `ours`.

    Raises:
        ValueError: no such file, no JSON object of names and numbers in it, an unknown class, an index out of range, a
            teacher's class given twice, or classes of the data's that no class of the teacher's covers.
    """
    names = {name: index for index, name in enumerate(theirs or ())}
    known = {name: index for index, name in enumerate(ours)}
    taken: dict[int, str] = {}
    groups: list[list[int]] = [[] for _ in ours]
    for key, value in _pairs(path):
        their, our = _index("teacher", key, names, count), _index("data", value, known, len(ours))
        if their in taken:
            raise ValueError(
                f"class_map: expected each of the teacher's classes once, got {taken[their]!r} and {key!r}"
            )
        taken[their] = key
        groups[our].append(their)
    bare = [ours[index] for index, group in enumerate(groups) if not group]
    if bare:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        raise ValueError(
            f"class_map: expected a class of the teacher's for each of the data's {len(ours)}, "
            f"got none for {', '.join(bare[:_SHOWN])}{more}"
        )
    width = max(len(group) for group in groups)
    return ClassMap(torch.tensor([sorted(group) + [count] * (width - len(group)) for group in groups]))


def _pairs(path: str) -> list[tuple[str, str | int]]:
    """The file's entries as they stand: a plain dictionary would hide a key that is there twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        entries = json.loads(text, object_pairs_hook=list)
    except FileNotFoundError:
        raise ValueError(f"class_map: expected a file, got {path!r}, which does not exist") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"class_map: expected JSON in {path!r}: {error}") from None
    if not text.lstrip().startswith("{"):
        raise ValueError(f"class_map: expected a JSON object in {path!r}, got {type(entries).__name__}")
    for key, value in entries:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(
                f"class_map: expected the name or the index of a class of the data's for {key!r}, got {value!r}"
            )
    return entries


def _index(side: str, given: str | int, names: dict[str, int], count: int) -> int:
    """The index of a class by its name, or by its index in digits or as a number."""
    if isinstance(given, str) and given in names:
        return names[given]
    if isinstance(given, str) and not (given.isascii() and given.isdecimal()):
        if not names:
            raise ValueError(f"class_map: expected indices for a {side} that names no classes, got {given!r}")
        raise ValueError(f"class_map: {unknown(f'class of the {side}', given, names)}")
    index = int(given)
    if not 0 <= index < count:
        raise ValueError(
            f"class_map: expected an index of the {side}'s {count} classes, 0 to {count - 1}, got {given!r}"
        )
    return index
