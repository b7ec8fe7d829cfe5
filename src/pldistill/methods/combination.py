"""Several methods at once, `kd+at`: their terms side by side, each with its own weight, their options by their names.

    L = w_task L_task + Σ_m Σ_{terms of m} w_term L_term

An option of a part is `METHOD.OPTION`, as `kd.temperature`; a term keeps its name. The weight of the task's own terms
is the largest that a part has for them by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pldistill.methods.spec import MethodSpec, Option, Pair, Ramp, Tap, Weight
from pldistill.specs import unknown

if TYPE_CHECKING:
    from pldistill.methods.base import Method

JOINT = "+"


def combine(name: str, known: Mapping[str, MethodSpec], kind: str = "method") -> MethodSpec:
    """The method that `name` says, of the methods joined by + in it.

    Raises:
        ValueError: for a name that is not known, one that stands twice, and one without a term of its own (ce).
    """
    names = name.split(JOINT)
    for place, part in enumerate(names):
        if part not in known:
            raise ValueError(unknown(kind, part, known))
        if part in names[:place]:
            raise ValueError(f"method: expected each of {name!r} once, got {part!r} twice")
        if not known[part].needs_teacher and not set(known[part].weights) - {"task"}:
            raise ValueError(f"method: {part!r} has no term but the task's, which is --weight task=1, got {name!r}")
    return _Combination({part: known[part] for part in names}).spec()


class _Combination:
    """The parts by name; where they compare activations, which places each of them wants of the two models."""

    def __init__(self, parts: Mapping[str, MethodSpec]) -> None:
        self.parts = parts
        self.places: dict[str, tuple[Sequence[Tap], Sequence[Tap]]] = {}

    def spec(self) -> MethodSpec:
        parts = self.parts.values()
        weighing = [name for name, part in self.parts.items() if part.label_weight is not None]
        return MethodSpec(
            self.build,
            "; ".join(f"{name}: {part.source}" for name, part in self.parts.items()),
            {f"{name}.{option}": value for name, part in self.parts.items() for option, value in part.options.items()},
            self._weights(),
            needs_teacher=any(part.needs_teacher for part in parts),
            needs_labels=any(part.needs_labels for part in parts),
            couples_batch=any(part.couples_batch for part in parts),
            taps=self.taps if any(part.taps is not None for part in parts) else None,
            tail_temperature=self.tail_temperature,
            label_weight=self.label_weight if len(weighing) == 1 else None,
            ramps=all(part.ramps for part in parts),
            divides_by_deviation=self.divides_by_deviation,
        )

    def _weights(self) -> dict[str, Weight]:
        own: dict[str, Weight] = {}
        for part in self.parts.values():
            for term, weight in part.weights.items():
                before = own.get(term, weight)
                if isinstance(before, Ramp) or isinstance(weight, Ramp):
                    own[term] = weight
                else:
                    own[term] = max(before, weight)
        return own

    def own(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one part, by their own names."""
        start = f"{name}."
        return {option.removeprefix(start): value for option, value in options.items() if option.startswith(start)}

    def build(self, *outputs: Any, **options: Any) -> Method:
        from pldistill.methods.combined import CombinedMethod, only

        built, places = {}, {}
        for name, part in self.parts.items():
            if part.taps is None:
                built[name] = part.build(**self.own(name, options))
                continue
            places[name] = tuple(tuple(map(str, taps)) for taps in self.places[name])
            parts = [only(each, names) for each, names in zip(outputs, places[name], strict=True)]
            built[name] = part.build(*parts, **self.own(name, options))
        return CombinedMethod(built, places)

    def taps(self, student: Sequence[str], teacher: Sequence[str], options: Mapping[str, Option]) -> Pair:
        ours: dict[Tap, None] = {}
        theirs: dict[Tap, None] = {}
        for name, part in self.parts.items():
            if part.taps is not None:
                self.places[name] = part.taps(student, teacher, self.own(name, options))
                ours |= dict.fromkeys(self.places[name][0])
                theirs |= dict.fromkeys(self.places[name][1])
        return list(ours), list(theirs)

    def tail_temperature(self, options: Mapping[str, Option | Ramp]) -> float | None:
        found = {
            None if part.tail_temperature is None else part.tail_temperature(self.own(name, options))
            for name, part in self.parts.items()
        }
        return found.pop() if len(found) == 1 else None

    def label_weight(self, teacher: Any, labels: Any, options: Mapping[str, Option]) -> Any:
        ((name, part),) = ((name, part) for name, part in self.parts.items() if part.label_weight is not None)
        assert part.label_weight is not None
        return part.label_weight(teacher, labels, self.own(name, options))

    def divides_by_deviation(self, options: Mapping[str, Option | Ramp]) -> bool:
        return any(
            part.divides_by_deviation is not None and part.divides_by_deviation(self.own(name, options))
            for name, part in self.parts.items()
        )
