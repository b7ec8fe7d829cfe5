"""A run as data: a frozen, validated `Recipe`. What is not in it does not change a run's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from pldistill import methods, recipe_rules
from pldistill.methods import Option, Ramp, Weight
from pldistill.spec import split_spec, split_weights, teacher_members
from pldistill.suggest import unknown
from pldistill.task_options import TASKS


def parse_weight(value: Any) -> Weight:
    """Read a weight: a number, or `TO@PART` for a linear ramp up to TO over the first PART of the run."""
    if isinstance(value, Ramp):
        return value
    head, at, tail = str(value).partition("@")
    try:
        weight, over = float(head), float(tail) if at else None
    except ValueError:
        weight, over = math.nan, None
    if not math.isfinite(weight) or weight < 0 or (over is not None and not 0 < over <= 1):
        raise ValueError(f"expected a number from 0, or TO@PART with PART in (0, 1], got {value!r}")
    return weight if over is None else Ramp(weight, over)


StoredWeight = Annotated[
    Weight,
    BeforeValidator(parse_weight),
    PlainSerializer(lambda weight: str(weight) if isinstance(weight, Ramp) else weight),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Recipe(BaseModel):
    """Everything that decides what a run computes.

    Attributes:
        data: the pictures, as in `pldistill list data`: `glyphs`, `cifar100:PATH`, `folder:PATH`, ...
        student: the net that is trained, a name of `pldistill list models` or any timm classifier.
        method: a name of `pldistill list methods`.
        task: what is learnt: `classification` or `detection`.
        task_options: the task's own options (`pldistill.task_options`); those left out take its defaults.
        teacher: who is asked, as in `pldistill.teachers`: a run folder, a net's name, `random:NAME`, `ensemble:A+B`;
            None for the methods without a teacher.
        teacher_checkpoint: weights for a teacher that is a net's name.
        teacher_cache: a store of a teacher's answers (`pldistill cache`), read in place of asking it. The teacher is
            then the store's; one that is named otherwise must be the same.
        pretrained: start the student from timm's weights for its name.
        student_checkpoint: start the student from this file or run folder.
        new_head: give a student that starts from weights a fresh classifier, because its classes are others.
        options: the method's options; those left out take the method's defaults.
        weights: the weight of each term, "task" being the task's own loss; as with options.
        epochs: passes over the training split.
        batch_size: pictures in a step of one process.
        image_size: side in pixels; None is the data's own.
        lr: the highest learning rate of the schedule.
        optimizer: `sgd` (no Nesterov) or `adamw` of torch, or the name of any of timm's optimizers.
        momentum: of the optimizers that have one.
        weight_decay: on every parameter, unless `decay_all` is False.
        decay_all: False spares biases and the parameters of normalisation (every tensor of one dimension).
        schedule: cosine (each step, to 0), step (x0.1 after 150/240, 180/240 and 210/240 of the epochs), two-step (x0.1
            after 2/3 and 8/9 of the steps) or constant.
        warmup_epochs: linear warm-up from 0 before the schedule takes over; may be a fraction.
        label_smoothing: of the task's cross-entropy.
        clip_grad: the largest gradient norm, or None.
        ema: decay of an exponential moving average of the weights; then the average is what is evaluated and exported.
        amp: bf16 or fp16 autocast of the nets, off (float32), or auto: bf16 where the device computes in it, else off
            (`pldistill.precision`). Losses compute in float32 whatever it is. The run's record says what auto became.
        channels_last: memory layout of pictures and convolutions.
        compile: `torch.compile` the student.
        hflip: mirror training pictures; None is the data's own choice.
        mixup: alpha of Mixup's Beta(alpha, alpha); 0 is none. See `pldistill.data.mixing`.
        cutmix: alpha of CutMix's; where both are given each batch takes one of them, by a fair coin.
        mix_probability: the part of the batches that are mixed, where mixup or cutmix is given.
        repeats: how many augmented copies of a picture an epoch shows (repeated augmentation), in one batch; an epoch
            is as long as ever, so it shows 1/repeats of the pictures, others each time.
        views: how many augmented versions of a picture there are: epoch e shows view e modulo this; None shows another
            one every epoch. With a teacher_cache None is as many as it has.
        unlabelled: pictures to train on without a label, beside the labelled: all below PATH of `folder:PATH`, or the
            training pictures of another data specification. The method's terms count them, the task's loss does not.
        class_map: a JSON file that says which of the teacher's classes is which of the data's; see
            `pldistill.class_map`.
        trust_teacher: take the teacher as it is, whether or not it is better than chance; see `pldistill.preflight`.
        accumulate: batches whose gradients make one step, that of a batch of all their pictures. A method that relates
            the pictures of a batch relates those of each batch alone, and wants to be told so: `relation="local"`.
        relation: for methods that relate the pictures of a batch, `local` (of one process's batch) or `global` (of all
            processes'); None is local.
        sync_batchnorm: BatchNorm statistics over all processes, on GPUs; otherwise each process has those of its own
            batches, and the first one's running statistics are evaluated and saved.
        seed: of the initial weights, the order, and the draws of mixup and cutmix.
        augment_seed: of the augmentation; None is the seed. A store of a teacher's answers is bound to this one alone,
            so runs of many seeds and one augment_seed share a store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data: str
    student: str
    method: str
    task: Literal["classification", "detection"] = "classification"
    task_options: dict[str, Option] = Field(default_factory=dict)
    teacher: str | None = None
    teacher_checkpoint: str | None = None
    teacher_cache: str | None = None
    pretrained: bool = False
    student_checkpoint: str | None = None
    new_head: bool = False
    options: dict[str, Option] = Field(default_factory=dict)
    weights: dict[str, StoredWeight] = Field(default_factory=dict)
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 128
    image_size: Annotated[int, Field(ge=8)] | None = None
    lr: Positive = 0.05
    optimizer: str = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    decay_all: bool = True
    schedule: Literal["cosine", "step", "two-step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_grad: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    channels_last: bool = True
    compile: bool = False
    hflip: bool | None = None
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mix_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    repeats: Annotated[int, Field(ge=1)] = 1
    views: Annotated[int, Field(ge=1)] | None = None
    unlabelled: str | None = None
    class_map: str | None = None
    trust_teacher: bool = False
    accumulate: Annotated[int, Field(ge=1)] = 1
    relation: Literal["local", "global"] | None = None
    sync_batchnorm: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    augment_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @property
    def view_seed(self) -> int:
        """The seed of the augmentation: a crop follows from (view_seed, view, id)."""
        return self.seed if self.augment_seed is None else self.augment_seed

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Write the defaults of the task and the method out, so that a stored recipe says all that it did."""
        task = given.get("task", "classification") if isinstance(given, dict) else None
        if task not in TASKS or not isinstance(given.get("method"), str):
            return given
        spec = methods.find(given["method"], task)
        weights = {name: parse_weight(value) for name, value in (given.get("weights") or {}).items()}
        return {
            **TASKS[task].defaults,
            **given,
            "task_options": TASKS[task].complete(given.get("task_options") or {}),
            "options": spec.complete_options(given.get("options") or {}),
            "weights": spec.complete_weights(weights),
        }

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        recipe_rules.check(self)
        return self

    def name(self) -> str:
        """Give a folder name: data with its numbers, nets, method and seed."""
        data, _, options = split_spec(self.data)
        data = "-".join([data, *(option.replace("=", "") for option in options)])
        asked = [split_weights(member)[0].replace(":", "-") for member in teacher_members(self.teacher or "")]
        teacher = f"-from-{'-'.join(Path(member).name for member in asked)}" if self.teacher else ""
        student = self.student.replace(":", "-")
        return f"{data}-{student}{teacher}-{self.method}-seed{self.seed}".replace("/", "_")

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON types, with every default written out."""
        return self.model_dump(mode="json")


def make_recipe(fields: dict[str, Any]) -> Recipe:
    """Build a recipe, and say what is wrong with `fields` in one plain line.

    Raises:
        ValueError: naming the first field that is wrong, what was expected and what came.
    """
    for name in fields:
        if name not in Recipe.model_fields:
            raise ValueError(unknown("recipe field", name, Recipe.model_fields))
    try:
        return Recipe(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise ValueError(f"{first['loc'][0]}: expected a value, got none") from None
        if not first["loc"]:
            raise ValueError(message) from None
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {message[0].lower()}{message[1:]}, got {first['input']!r}") from None


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's stored recipe with what an earlier version did not write, because there was no choice, at its default."""
    fields = {name: field for name, field in Recipe.model_fields.items() if not field.is_required()}
    missing = {
        name: field.get_default(call_default_factory=True) for name, field in fields.items() if name not in stored
    }
    complete = {**stored, **missing}
    task = complete["task"]
    spec = methods.BY_TASK[task].get(str(stored.get("method")))
    if spec is not None and complete["options"]:
        complete["options"] = {**spec.options, **complete["options"]}
    return {**complete, "task_options": {**TASKS[task].options, **complete["task_options"]}}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe file.

    Raises:
        ValueError: if the file is missing or holds no JSON object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"recipe: expected a file, got {str(path)!r}, which does not exist") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"recipe: expected JSON in {str(path)!r}: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"recipe: expected a JSON object in {str(path)!r}, got {type(fields).__name__}")
    return fields
