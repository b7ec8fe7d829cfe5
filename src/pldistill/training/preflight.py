"""Before the first step: does the teacher take these images, and does it know more than chance?

Teacher and data may differ in ways that no shape shows: labels in another order, inputs normalized otherwise, weights
of another task. All of them leave a teacher that guesses, and a student that learns to guess. So the teacher answers up
to 512 validation images, evenly taken, the same ones always, and one that does not beat chance is refused.

Chance is the share of the commonest answer among those that are right, at least 1 / C of C answers: what a teacher that
always gives that answer gets right. In detection the samples are RoIs, and background is an answer among the others
(`tasks/detection/examine.py`). With h of n samples right the p-value is the exact binomial tail

    p = P(X >= h), X ~ B(n, chance)

and p < 0.01 is asked for. Where so few images are there that n right ones would not do, nothing can be told, and a
note says so in place of a refusal.

For a method that weights the ranks of the teacher's ranking, as PLD does, up to 512 training images are asked about
too: how much weight the label has, and how even the weights are.

`introduction` says what a run is: the data, the networks, the device and its precision, the steps, the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from pldistill import distributed, models, precision
from pldistill.losses import pld_weights
from pldistill.methods.spec import at_epoch
from pldistill.recipe import Recipe
from pldistill.record import duration
from pldistill.tasks.base import Placement, Task, make_task
from pldistill.teachers.live import LiveTeacher, Teacher
from pldistill.training.loop import Loop
from pldistill.training.runaway import alike_at_first, divides_by_deviation
from pldistill.training.timing import time_ahead

IMAGES, LEVEL = 512, 0.01
TEMPERATURES = (1.0, 2.0, 4.0)
LITTLE = 0.1  # of the weight
_FAR = 1.5  # sides of images that differ by more than this factor are worth a word


class Warns(Protocol):
    """Who is told what a user should know."""

    def warn(self, message: str) -> None: ...
    def tell(self, message: str) -> None: ...


def preflight(
    recipe: Recipe, data: Any, teacher: Teacher | None, *, accelerator: Accelerator, workers: int, callback: Warns
) -> dict[str, Any] | None:
    """Check the teacher on the accelerator's device, and give what was found for the run's record.

    With `trust_teacher` no image is asked about. No random state is touched. None without a teacher.

    Raises:
        ValueError: for a teacher that cannot take images of the data's size, or one that is not better than chance.
    """
    if teacher is None:
        return None
    task = make_task(recipe)
    models = [_describe(member, data, callback) for member in teacher.members]
    if recipe.trust_teacher:
        return {"models": models, "trusted": True}
    place = Placement(accelerator.device, workers)
    with torch.no_grad():
        hits, labels = task.examine(recipe, data, teacher.at_validation(), IMAGES, place, accelerator.autocast)
    images, commonest = len(labels), int(labels.bincount().amax()) if len(labels) else 0
    chance = commonest / images if images else 1.0
    p = binomial_tail(hits, images, chance)
    said = (
        f"{hits} of {images} validation {task.rows} right ({100 * hits / max(images, 1):.1f} %), where chance is "
        f"{100 * chance:.1f} % (p = {p:.2g})"
    )
    if binomial_tail(images, images, chance) >= LEVEL:
        callback.warn(f"teacher {recipe.teacher!r}: too few validation {task.rows} to tell it from chance: {said}")
    elif p >= LEVEL:
        raise ValueError(
            f"teacher {recipe.teacher!r}: expected better than chance, p < {LEVEL}, got {said}; look at its classes "
            "and their order, its input statistics and its weights, or go on with --trust-teacher"
        )
    weights = _weights(recipe, task, data, teacher, place, accelerator)
    accuracy = 100 * hits / max(images, 1)
    callback.tell(f"teacher: {accuracy:.1f} % of {images} validation {task.rows} right (chance {100 * chance:.1f} %)")
    for line in _about_weights(recipe, weights):
        callback.tell(line)
    found = {"models": models, "trusted": False, "hits": hits, "images": images, "chance": chance, "p": p}
    return found if weights is None else {**found, "weights": weights}


def _weights(
    recipe: Recipe, task: Task[Any, Any], data: Any, teacher: Teacher, place: Placement, accelerator: Accelerator
) -> dict[str, Any] | None:
    """What a teacher gives the ranks of training samples: the label's mean part of the weight, and their entropy.

    `tau` has both at the temperatures of `TEMPERATURES`, `label` the label's part as the recipe's method weights it.
    None for a method that weights no ranks.
    """
    spec = recipe.method_spec
    if spec.label_weight is None:
        return None
    with torch.no_grad():
        asked = task.sample(recipe, data, teacher, IMAGES, place, accelerator.autocast)
    if asked is None:
        return None
    logits, labels = asked
    by_temperature = {}
    for temperature in TEMPERATURES:
        weights = pld_weights(logits, labels, temperature=temperature)
        entropy = -torch.special.xlogy(weights, weights).sum(1)
        by_temperature[f"{temperature:g}"] = {"label": weights[:, 0].mean().item(), "entropy": entropy.mean().item()}
    options = at_epoch(recipe.options, 0, recipe.epochs)
    own = spec.label_weight(logits, labels, options).mean().item()
    return {"samples": len(labels), "tau": by_temperature, "label": own}


def _about_weights(recipe: Recipe, weights: dict[str, Any] | None) -> list[str]:
    """The weights in a line, and advice where the label has little."""
    if weights is None:
        return []
    figures = ", ".join(
        f"tau {temperature}: {each['label']:.2f} ({each['entropy']:.2f})"
        for temperature, each in weights["tau"].items()
    )
    lines = [
        f"weight of the label among the teacher's ranks, mean of {weights['samples']} training samples (entropy of the "
        f"weights in nats): {figures}; here {weights['label']:.2f}"
    ]
    if recipe.method == "pld" and weights["label"] < LITTLE and recipe.weights.get("task", 1) == 0:
        lines.append(
            f"advice: the label has less than {LITTLE:g} of the weight, so the teacher's ranking outweighs the truth: "
            "try --option label_weight=0.2, --weight task=1, or --method decoupled_pld"
        )
    return lines


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


def _describe(member: LiveTeacher, data: Any, callback: Warns) -> dict[str, Any]:
    """Let a model try one image; give its input size and statistics, which it keeps whatever the data's are."""
    model = member.model
    model.probe(data.image_size)
    side = member.image_size
    if side is not None and not 1 / _FAR <= side / data.image_size <= _FAR:
        callback.warn(
            f"the teacher's {type(model.model).__name__} was trained on images of {side} pixels a side and is shown "
            f"{data.image_size} (--image-size)"
        )
    return {"image_size": side, **model.statistics()}


def introduction(loop: Loop, data: Any, env: dict[str, Any], *, timed: bool = False) -> Iterator[str]:
    """A line each on the data, the networks, the device, the steps and, of a run that goes on, where it is.

    With `timed` the last one says how long the training will take, by `time_ahead`; of a run that is over in a moment,
    or compiles its student first, nothing. Several processes do so together.
    """
    recipe, task = loop.recipe, make_task(loop.recipe)
    yield f"data: {data.spec}: {task.describe(data)}"
    yield f"student: {recipe.student}, {_millions(loop.evaluated.model)}"
    if loop.teacher is not None:
        where = " (its answers are read from a teacher cache)" if recipe.teacher_cache is not None else ""
        yield f"teacher: {recipe.teacher}, {loop.teacher.count_parameters() / 1e6:,.2f} M parameters{where}"
    yield f"device: {_device(loop)}, {precision.NAMES[env['precision']]} (amp {recipe.amp})"
    alone, whole = loop.steps, loop.steps * recipe.epochs
    together = recipe.batch_size * distributed.world_size() * recipe.accumulate
    samples = recipe.task_spec.samples
    yield f"steps: {alone:,} an epoch of {together:,} {samples} each, {whole:,} in {recipe.epochs} epochs"
    if loop.epoch == loop.step == 0 and (alike := _alike(loop, data)) is not None:
        loop.callback.warn(alike)
    if loop.epoch or loop.step:
        yield f"resumed: epoch {loop.epoch + 1} of {recipe.epochs}, after step {loop.step} of {alone}"
    if timed and (seconds := time_ahead(loop)) is not None:
        yield f"time: expected about {duration(seconds)}, by two steps over the first batch, without the validation"


def _alike(loop: Loop, data: Any) -> str | None:
    """What to say of a student that begins with equal logits, where its method divides by their deviation."""
    if not divides_by_deviation(loop.recipe):
        return None  # without showing the student an image
    return alike_at_first(loop.recipe, loop.evaluated.probe(data.image_size).logits)


def _millions(model: torch.nn.Module) -> str:
    return f"{models.count_parameters(model) / 1e6:,.2f} M parameters"


def _device(loop: Loop) -> str:
    device = loop.accelerator.device
    together = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}{together}"
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    return f"{device.type} ({precision.cpu_capability()}), {threads}{together}"
