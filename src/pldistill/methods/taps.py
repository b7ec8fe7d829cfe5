"""Which places of two nets a method compares: stages counted from the end, the pooled feature, or those a user names.

Each function here is a `MethodSpec.taps`. The last stages of two nets correspond; the first of a longer net are out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pldistill.methods.base import Option, Tap

NAMED: dict[str, Option] = {"student_taps": "", "teacher_taps": ""}  # options that put a user's own places first

Pair = tuple[Sequence[Tap], Sequence[Tap]]


def later_stages(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    """All stages that correspond but the first, which is the stem where both nets have as many."""
    named = _named(options)
    if named is not None:
        return named
    last = tuple(range(1 - _common(student, teacher, least=2), 0))
    return last, last


def hint_stage(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    """One stage, the option `layer`: an index into the stages that correspond."""
    named = _named(options)
    if named is not None:
        return _single(named)
    count, layer = _common(student, teacher), int(options["layer"])
    if not 0 <= layer < count:
        stages = _listed(student, teacher)
        raise ValueError(f"option layer: expected a stage of 0 to {count - 1}, got {layer}; {stages}; {_HINT}")
    return [layer - count], [layer - count]


def last_stage(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    named = _named(options)
    if named is not None:
        return _single(named)
    _common(student, teacher)
    return [-1], [-1]


def pooled(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    return ["pooled"], ["pooled"]


_HINT = "the options student_taps and teacher_taps name modules"


def _common(student: Sequence[str], teacher: Sequence[str], least: int = 1) -> int:
    """How many stages correspond."""
    count = min(len(student), len(teacher))
    if count < least:
        raise ValueError(f"expected nets with {least} stages at least, got {_listed(student, teacher)}; {_HINT}")
    return count


def _listed(student: Sequence[str], teacher: Sequence[str]) -> str:
    return f"student stages {', '.join(student) or 'none'}, teacher stages {', '.join(teacher) or 'none'}"


def _named(options: Mapping[str, Option]) -> Pair | None:
    """Read the places that the user names, separated by commas: stage numbers or module names, as many in each."""
    student, teacher = ([_tap(text) for text in str(options[name]).split(",") if text.strip()] for name in NAMED)
    for name, taps in zip(NAMED, (student, teacher), strict=True):
        if len(set(taps)) != len(taps):
            raise ValueError(f"option {name}: expected each place once, got {options[name]!r}")
    if len(student) != len(teacher):
        given = " and ".join(f"{name}={options[name]!r}" for name in NAMED)
        raise ValueError(f"options student_taps and teacher_taps: expected as many places in each, got {given}")
    return (student, teacher) if student else None


def _tap(text: str) -> Tap:
    text = text.strip()
    return int(text) if text.removeprefix("-").isdecimal() else text


def _single(pair: Pair) -> Pair:
    if len(pair[0]) != 1:
        raise ValueError(f"options student_taps and teacher_taps: expected one place for this method, got {pair[0]}")
    return pair
