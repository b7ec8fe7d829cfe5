"""A method as data: options and weights with their defaults, how it is built, which places of two models it compares.

Nothing here imports torch, so that names, options and defaults are known before a loss is. The places are stages
counted from the end, the pooled feature, or those that a user names: the functions that choose them are
`MethodSpec.taps`. The last stages of two models correspond; the first of a longer model are out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pldistill.specs import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from pldistill.methods.base import Method

Option = float | int | bool | str


@dataclass(frozen=True)
class Ramp:
    """A weight, or an option, that moves linearly over the first part of a run and then stays.

    Attributes:
        to: the value after the ramp.
        over: the part of the run that the ramp takes, in (0, 1]; a fraction, so that a shorter run keeps its shape.
        start: the value that it comes from.
    """

    to: float
    over: float
    start: float = 0.0

    def at(self, epoch: int, epochs: int) -> float:
        """Give the value in `epoch` (from 0) of `epochs`; it is constant within an epoch."""
        return self.start + (self.to - self.start) * min((epoch + 1) / (self.over * epochs), 1.0)

    def __str__(self) -> str:
        return f"{self.to}@{self.over}" if self.start == 0 else f"{self.start}..{self.to}@{self.over}"


def parse_ramp(text: str) -> Ramp | None:
    """Read `TO@PART`, which comes from 0, or `FROM..TO@PART`; None for a text without an @.

    Raises:
        ValueError: for one with it that is not these.
    """
    values, at, over = text.partition("@")
    if not at:
        return None
    start, dots, to = values.rpartition("..")
    try:
        ramp = Ramp(float(to), float(over), float(start) if dots else 0.0)
    except ValueError:
        ramp = Ramp(math.nan, math.nan)
    if not (math.isfinite(ramp.to) and math.isfinite(ramp.start) and 0 < ramp.over <= 1):
        raise ValueError(f"expected TO@PART or FROM..TO@PART with PART in (0, 1], got {text!r}")
    return ramp


Weight = float | Ramp
Tap = str | int
Taps = Callable[[Sequence[str], Sequence[str], Mapping[str, Option]], tuple[Sequence[Tap], Sequence[Tap]]]


@dataclass(frozen=True)
class MethodSpec:
    """A method by name: how to build it, its options and weights with the papers' defaults, and where they stand.

    Attributes:
        build: takes the options as keywords, gives the `Method`. Where there are `taps` it takes two `Outputs` before
            them: what student and teacher answered to one image, whose features have the shapes to build for.
        options: every option with its default.
        weights: the weight of each term; the term "task" is the task's own loss.
        source: paper and, where it differs, the public code whose numbers the defaults are.
        note: what a user should know before choosing it.
        needs_teacher: whether a teacher must be given.
        needs_labels: whether it reads labels; False for one whose terms take images without a label too.
        couples_batch: whether a sample's loss depends on the rest of its batch.
        taps: from the stages of student and teacher and the options to the taps on student and teacher; None for a
            method of the logits alone.
        tail_temperature: for a method that may learn from a teacher's first K classes and the mass of the others: from
            the options to the temperature at which it reads that mass, or to None where they make it read more. Its
            gradient is then off by at most 4 times that mass (the L1 norm, of a row, by τ² where the loss has it), and
            of the logits of those others alone. None for a method that needs every class.
        label_weight: for a method whose loss weights the ranks of the teacher's ranking: from the teacher's logits
            `(N, C)`, the labels `(N,)` and the options to the part `(N,)` of all weight that the label has. None for
            the others.
        ramps: whether its numbers may move over a run, as weights do.
        divides_by_deviation: from the options to whether a term divides by the deviation of the student's logits over
            the classes: its gradient is unbounded where they are alike. None for a method that never does.
    """

    build: Callable[..., Method]
    source: str
    options: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Weight] = field(default_factory=dict)
    note: str = ""
    needs_teacher: bool = True
    needs_labels: bool = True
    couples_batch: bool = False
    taps: Taps | None = None
    tail_temperature: Callable[[Mapping[str, Option | Ramp]], float | None] | None = None
    label_weight: Callable[[Tensor, Tensor, Mapping[str, Option]], Tensor] | None = None
    ramps: bool = False
    divides_by_deviation: Callable[[Mapping[str, Option | Ramp]], bool] | None = None

    def complete_options(self, given: Mapping[str, Option | Ramp]) -> dict[str, Option | Ramp]:
        """Fill `given` up with the defaults; each value takes the type of its default, or is a ramp of such values.

        Raises:
            ValueError: for an option that the method has not, a value of another type, or a ramp of what moves not.
        """
        moving: dict[str, Option | Ramp] = {}
        for name, value in given.items():
            ramp = value if isinstance(value, Ramp) else None
            if isinstance(value, str) and isinstance(self.options.get(name), float):
                ramp = _ramp(name, value)
            if ramp is None:
                continue
            known = [option for option, default in self.options.items() if self.ramps and isinstance(default, float)]
            if name not in known:
                names = ", ".join(known) or "none of this method's"
                raise ValueError(f"option {name}: expected a fixed value, got {ramp}; options that move: {names}")
            moving[name] = ramp
        fixed = {name: value for name, value in given.items() if not isinstance(value, Ramp) and name not in moving}
        return {**fill("option", self.options, fixed), **moving}

    def complete_weights(self, given: Mapping[str, Weight]) -> dict[str, Weight]:
        """Fill `given` up with the defaults.

        Raises:
            ValueError: for a term that the method has not.
        """
        for name in given:
            if name not in self.weights:
                raise ValueError(unknown("weight", name, self.weights))
        return {**self.weights, **given}


def _ramp(name: str, text: str) -> Ramp | None:
    try:
        return parse_ramp(text)
    except ValueError as error:
        raise ValueError(f"option {name}: {error}") from None


def at_epoch(options: Mapping[str, Option | Ramp], epoch: int, epochs: int) -> dict[str, Option]:
    """The options as they are in `epoch` (from 0) of `epochs`."""
    return {name: value.at(epoch, epochs) if isinstance(value, Ramp) else value for name, value in options.items()}


def fill(kind: str, defaults: Mapping[str, Option], given: Mapping[str, Option]) -> dict[str, Option]:
    """Fill `given` up with the defaults; each value takes the type of its default.

    Raises:
        ValueError: naming the `kind` of what is unknown or of another type.
    """
    for name in given:
        if name not in defaults:
            raise ValueError(unknown(kind, name, defaults or {"(none)": ""}))
    return {name: _as_type(f"{kind} {name}", given.get(name, default), default) for name, default in defaults.items()}


def _as_type(where: str, value: Option, default: Option) -> Option:
    """Read `value` (a string on the command line) as the type of `default`."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(value)
    except (ValueError, KeyError, TypeError):
        expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]
        raise ValueError(f"{where}: expected {expected}, got {value!r}") from None


NAMED: dict[str, Option] = {"student_taps": "", "teacher_taps": ""}  # options that put a user's own places first

Pair = tuple[Sequence[Tap], Sequence[Tap]]


def later_stages(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    """All stages that correspond but the first, which is the stem where both models have as many."""
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


def students_pooled(student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
    """The student's alone: of the teacher the logits are enough."""
    return ["pooled"], []


_HINT = "the options student_taps and teacher_taps name modules"


def _common(student: Sequence[str], teacher: Sequence[str], least: int = 1) -> int:
    """How many stages correspond."""
    count = min(len(student), len(teacher))
    if count < least:
        raise ValueError(f"expected models with {least} stages at least, got {_listed(student, teacher)}; {_HINT}")
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
