"""Before the first step: does the teacher take these pictures, and does it know more than chance?

Teacher and data may differ in ways that no shape shows: labels in another order, inputs normalised otherwise, weights
of another task. All of them leave a teacher that guesses, and a student that learns to guess. So the teacher answers up
to 512 validation pictures, evenly taken, the same ones always, and one that does not beat chance is refused.

Chance is the larger of 1 / C and the share of the commonest class among those pictures, which a teacher that always
says that class gets right. With h of n pictures right the p-value is the exact binomial tail

    p = P(X >= h), X ~ B(n, chance)

and p < 0.01 is asked for. Where so few pictures are there that n right ones would not do, nothing can be told, and a
note says so in place of a refusal.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from pldistill.recipe import Recipe
from pldistill.tasks import make_task
from pldistill.tasks.base import Place, Task
from pldistill.teachers import LiveTeacher, Teacher

PICTURES, LEVEL = 512, 0.01
_FAR = 1.5  # sides of pictures that differ by more than this factor are worth a word


class Warns(Protocol):
    """Who is told what a user should know."""

    def warn(self, message: str) -> None: ...


def preflight(
    recipe: Recipe, data: Any, teacher: Teacher | None, *, accelerator: Accelerator, workers: int, watch: Warns
) -> dict[str, Any] | None:
    """Check the teacher on the accelerator's device, and give what was found for the run's record.

    With `trust_teacher` no picture is asked about. No random state is touched. None without a teacher.

    Raises:
        ValueError: for a teacher that cannot take pictures of the data's size, or one that is not better than chance.
    """
    if teacher is None:
        return None
    task = make_task(recipe)
    nets = [_describe(member, task, data, watch) for member in teacher.members]
    if recipe.trust_teacher:
        return {"nets": nets, "trusted": True}
    place = Place(accelerator.device, workers)
    with torch.no_grad():
        hits, labels, classes = task.examine(
            recipe, data, teacher.at_validation(), PICTURES, place, accelerator.autocast
        )
    pictures, commonest = len(labels), int(labels.bincount().amax()) if len(labels) else 0
    chance = max(1 / classes, commonest / max(pictures, 1))
    p = binomial_tail(hits, pictures, chance)
    said = (
        f"{hits} of {pictures} validation {task.rows} right ({100 * hits / max(pictures, 1):.1f} %), where chance is "
        f"{100 * chance:.1f} % (p = {p:.2g})"
    )
    if binomial_tail(pictures, pictures, chance) >= LEVEL:
        watch.warn(f"teacher {recipe.teacher!r}: too few validation {task.rows} to tell it from chance: {said}")
    elif p >= LEVEL:
        raise ValueError(
            f"teacher {recipe.teacher!r}: expected better than chance, p < {LEVEL}, got {said}; look at its classes "
            "and their order, its input statistics and its weights, or go on with --trust-teacher"
        )
    return {"nets": nets, "trusted": False, "hits": hits, "pictures": pictures, "chance": chance, "p": p}


def binomial_tail(hits: int, count: int, chance: float) -> float:
    """P(X >= hits) for X ~ B(count, chance), summed term by term from logarithms."""
    if hits <= 0 or chance >= 1:
        return 1.0
    terms = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(chance) + (count - k) * math.log1p(-chance)
        for k in range(hits, count + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _describe(member: LiveTeacher, task: Task[Any, Any], data: Any, watch: Warns) -> dict[str, Any]:
    """Let a net try one picture; give its input size and statistics, which it keeps whatever the data's are."""
    net = member.net
    task.probe(net, data)
    side = member.image_size
    if side is not None and not 1 / _FAR <= side / data.image_size <= _FAR:
        watch.warn(
            f"the teacher's {type(net.model).__name__} was trained on pictures of {side} pixels a side and is shown "
            f"{data.image_size} (--image-size)"
        )
    return {"image_size": side, "mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()}
