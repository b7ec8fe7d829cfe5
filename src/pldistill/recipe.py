"""A run as data: a frozen, validated `Recipe`; which of its fields contradict one another.

What is not in it does not change a run's numbers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from pldistill.json_files import JsonFile, read_checked
from pldistill.methods import MethodSpec, Option, Ramp, Weight
from pldistill.methods.spec import parse_ramp
from pldistill.paths import require_file
from pldistill.specs import (
    ENSEMBLE,
    RANDOM,
    expectation,
    model_label,
    split_spec,
    split_weights,
    teacher_members,
    unknown,
)
from pldistill.tasks.registry import DEFAULT, TASKS, find_method, find_task
from pldistill.tasks.spec import TaskSpec

LARGEST_WEIGHT = 1e9  # pkt's default is 3e4


def parse_weight(value: Any) -> Weight:
    """Read a weight: a number, or `TO@PART` or `FROM..TO@PART` for a linear ramp over the first PART of the run."""
    if isinstance(value, Ramp):
        return value
    try:
        weight = parse_ramp(str(value)) or float(value)
    except ValueError:
        weight = math.nan
    ends = (weight.start, weight.to) if isinstance(weight, Ramp) else (weight,)
    if not all(0 <= end <= LARGEST_WEIGHT for end in ends):
        raise ValueError(
            f"expected a number from 0 to {LARGEST_WEIGHT:g}, or TO@PART or FROM..TO@PART with PART in (0, 1], "
            f"got {value!r}"
        )
    return weight


StoredWeight = Annotated[
    Weight,
    BeforeValidator(parse_weight),
    PlainSerializer(lambda weight: str(weight) if isinstance(weight, Ramp) else weight),
]
StoredOption = Annotated[
    Option | Ramp, PlainSerializer(lambda option: str(option) if isinstance(option, Ramp) else option)
]
# Bounds beyond which a number is a slip of the finger: the largest of a number, of a count, of an image's side.
LARGEST, MANY, WIDE = 1e6, 1_000_000, 16_384
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]


def _known_task(name: str) -> str:
    find_task(name)
    return name


# The panels of `pldistill train --help`, in their order; each field says which is its own.
DATA, STUDENT, TEACHER, LOSS, TRAINING = PANELS = ("Data", "Student", "Teacher", "Loss", "Training")


def _in(panel: str) -> dict[str, Any]:
    return {"panel": panel}


class Recipe(BaseModel):
    """Everything that decides what a run computes; frozen, and validated as a whole.

    Each field is said here once. The command line, its help, `pldistill list recipe` and docs/recipe.md are made from
    it. The first sentence of a description stands alone in the help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data: str = Field(
        description="The images: glyphs, cifar100:PATH, folder:PATH, coco:PATH; see `pldistill list data`.",
        json_schema_extra=_in(DATA),
    )
    student: str = Field(
        description="The model to train: a name of `pldistill list models`, or any timm classifier.",
        json_schema_extra=_in(STUDENT),
    )
    method: str = Field(
        description="A name of `pldistill list methods`, or several, as kd+at; ce trains a teacher. An option of "
        "several is METHOD.OPTION, as kd.temperature, and each term has its weight.",
        json_schema_extra=_in(LOSS),
    )
    task: Annotated[str, AfterValidator(_known_task)] = Field(
        DEFAULT, description="What is learned; see `pldistill list tasks`.", json_schema_extra=_in(DATA)
    )
    task_options: dict[str, Option] = Field(
        default_factory=dict,
        description="The task's own options; those left out take its defaults.",
        json_schema_extra=_in(DATA),
    )
    teacher: str | None = Field(
        None,
        description="A run folder, NAME, NAME@FILE, module.path:factory, random:NAME or ensemble:A+B. None for a "
        "method without a teacher.",
        json_schema_extra=_in(TEACHER),
    )
    teacher_checkpoint: str | None = Field(
        None, description="Weights of a teacher given by name.", json_schema_extra=_in(TEACHER)
    )
    teacher_cache: str | None = Field(
        None,
        description="A teacher cache (`pldistill cache`), read in place of running the teacher. The teacher is then "
        "the cache's; one that is named otherwise must be the same.",
        json_schema_extra=_in(TEACHER),
    )
    pretrained: bool = Field(
        False, description="Start the student from timm's weights for its name.", json_schema_extra=_in(STUDENT)
    )
    student_checkpoint: str | None = Field(
        None, description="Start the student from this file or run folder.", json_schema_extra=_in(STUDENT)
    )
    new_head: bool = Field(
        False,
        description="Give a student that starts from weights a fresh classifier. For other classes than theirs.",
        json_schema_extra=_in(STUDENT),
    )
    options: dict[str, StoredOption] = Field(
        default_factory=dict,
        description="The method's options; those left out take its defaults. FROM..TO@PART is a linear ramp over the "
        "first PART of the run: temperature=4..1@0.5.",
        json_schema_extra=_in(LOSS),
    )
    weights: dict[str, StoredWeight] = Field(
        default_factory=dict,
        description="The weight of each term; those left out take the method's defaults. \"task\" is the task's own "
        "loss; FROM..TO@PART is a linear ramp over the first PART of the run, and TO@PART one from 0.",
        json_schema_extra=_in(LOSS),
    )
    epochs: int = Field(
        20, ge=1, le=MANY, description="Passes over the training images.", json_schema_extra=_in(TRAINING)
    )
    batch_size: int = Field(
        128, ge=1, le=MANY, description="Images in a step of one process.", json_schema_extra=_in(TRAINING)
    )
    image_size: Annotated[int, Field(ge=8, le=WIDE)] | None = Field(
        None,
        description="Side in pixels that models see; None is the data's own. Of a detector the short side.",
        json_schema_extra=_in(DATA),
    )
    lr: Positive = Field(
        0.05, description="The highest learning rate of the schedule.", json_schema_extra=_in(TRAINING)
    )
    optimizer: str = Field(
        "sgd",
        description="sgd (without Nesterov) or adamw of torch, or any of timm's.",
        json_schema_extra=_in(TRAINING),
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of an optimizer that has one.", json_schema_extra=_in(TRAINING)
    )
    weight_decay: NotNegative = Field(5e-4, description="Weight decay; see decay_all.", json_schema_extra=_in(TRAINING))
    decay_all: bool = Field(
        True,
        description="Weight decay on every parameter. Off spares biases and the parameters of normalization.",
        json_schema_extra=_in(TRAINING),
    )
    schedule: Literal["cosine", "step", "two-step", "constant"] = Field(
        "cosine",
        description="What the learning rate follows: cosine to 0; step: a tenth of it at 62.5, 75 and 87.5 % of the "
        "epochs; two-step: at 2/3 and 8/9 of the steps; constant.",
        json_schema_extra=_in(TRAINING),
    )
    warmup_epochs: NotNegative = Field(
        0.0,
        description="Epochs of a linear warm-up from 0 before the schedule. May be a fraction.",
        json_schema_extra=_in(TRAINING),
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Label smoothing of the task's cross-entropy.", json_schema_extra=_in(LOSS)
    )
    clip_grad: Positive | None = Field(
        None, description="The largest gradient norm; None does not clip.", json_schema_extra=_in(TRAINING)
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of a moving average of the weights. The average is then evaluated and exported.",
        json_schema_extra=_in(TRAINING),
    )
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto",
        description="Precision of the models: auto is what fits the device. bf16 or fp16 autocast, off for float32; "
        "auto is bf16 where the device computes in it. Losses compute in float32 whatever it is, and the run's record "
        "says what auto became.",
        json_schema_extra=_in(TRAINING),
    )
    channels_last: bool = Field(
        True, description="Memory layout of images and convolutions.", json_schema_extra=_in(TRAINING)
    )
    compile: bool = Field(False, description="torch.compile the student.", json_schema_extra=_in(TRAINING))
    hflip: bool | None = Field(
        None, description="Mirror training images; None is the data's own choice.", json_schema_extra=_in(DATA)
    )
    exif: bool = Field(
        True,
        description="Turn images of files as their EXIF orientation says, as they are shown.",
        json_schema_extra=_in(DATA),
    )
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop",
        description="What becomes of images that cannot be read: stop before the first step, or skip them. What is "
        "skipped is counted in the run's record.",
        json_schema_extra=_in(DATA),
    )
    mixup: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        0.0, description="Mixup's alpha; 0 is none. Shares follow Beta(alpha, alpha).", json_schema_extra=_in(DATA)
    )
    cutmix: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        0.0,
        description="CutMix's alpha; 0 is none. Where mixup is given too, a fair coin decides for each batch.",
        json_schema_extra=_in(DATA),
    )
    mix_probability: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The part of the batches that mixup or cutmix mixes.",
        json_schema_extra=_in(DATA),
    )
    repeats: int = Field(
        1,
        ge=1,
        le=MANY,
        description="Augmented copies of an image in an epoch, in one batch. Repeated augmentation: an epoch is as "
        "long as ever, so it shows 1/repeats of the images, others each time.",
        json_schema_extra=_in(DATA),
    )
    views: Annotated[int, Field(ge=1, le=MANY)] | None = Field(
        None,
        description="How many augmented versions of an image there are; None shows another one every epoch. Epoch e "
        "shows view e modulo this. With a teacher cache None is as many as it has.",
        json_schema_extra=_in(DATA),
    )
    unlabelled: str | None = Field(
        None,
        description="Images without labels beside the labelled ones: folder:PATH, or other data. The method's terms "
        "count them, the task's loss does not.",
        json_schema_extra=_in(DATA),
    )
    class_map: str | None = Field(
        None,
        description="A JSON file that says which of the teacher's classes is which of the data's. Of an ensemble one "
        "for all, or A.json+B.json.",
        json_schema_extra=_in(TEACHER),
    )
    trust_teacher: bool = Field(
        False,
        description="Take the teacher as it is, whether or not it is better than chance.",
        json_schema_extra=_in(TEACHER),
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=MANY,
        description="Batches whose gradients make one step, that of a batch of all their images. A method that "
        "relates the images of a batch relates those of each batch alone, and wants relation=local beside it.",
        json_schema_extra=_in(TRAINING),
    )
    relation: Literal["local", "global"] | None = Field(
        None,
        description="For methods that relate the images of a batch: of one process's batch, or of all; None is local.",
        json_schema_extra=_in(LOSS),
    )
    sync_batchnorm: bool = Field(
        False,
        description="BatchNorm statistics over all processes, on GPUs. Otherwise each process has those of its own "
        "batches, and the first one's running statistics are evaluated and saved.",
        json_schema_extra=_in(TRAINING),
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Of the initial weights, the order, and the draws of mixup and cutmix.",
        json_schema_extra=_in(TRAINING),
    )
    augment_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description="Of the augmentation; None is the seed. A teacher cache is bound to this one alone, so runs of "
        "many seeds and one augment_seed share a cache.",
        json_schema_extra=_in(DATA),
    )

    @property
    def view_seed(self) -> int:
        """The seed of the augmentation: a crop follows from (view_seed, view, id)."""
        return self.seed if self.augment_seed is None else self.augment_seed

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Write the defaults of the task and the method out, so that a stored recipe says all that it did."""
        if isinstance(given, dict) and (empty := [name for name, value in given.items() if value == ""]):
            raise ValueError(f"{empty[0]}: expected a value, got ''")
        task = given.get("task", DEFAULT) if isinstance(given, dict) else None
        if not isinstance(task, str) or task not in TASKS or not isinstance(given.get("method"), str):
            return given
        if not all(isinstance(given.get(name) or {}, dict) for name in ("task_options", "options", "weights")):
            return given
        spec = find_method(given["method"], task)
        weights = {name: parse_weight(value) for name, value in (given.get("weights") or {}).items()}
        return {
            **TASKS[task].defaults,
            **given,
            "task_options": TASKS[task].complete(given.get("task_options") or {}),
            "options": spec.complete_options(given.get("options") or {}),
            "weights": spec.complete_weights(weights),
        }

    @property
    def task_spec(self) -> TaskSpec:
        """The task."""
        return find_task(self.task)

    @property
    def method_spec(self) -> MethodSpec:
        """The method, with the task's defaults for it."""
        return find_method(self.method, self.task)

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        check(self)
        return self

    def name(self) -> str:
        """Give a folder name: data with its numbers, models, method and seed."""
        data, _, options = split_spec(self.data)
        data = "-".join([data, *(option.replace("=", "") for option in options)])
        asked = [split_weights(member)[0].replace(":", "-") for member in teacher_members(self.teacher or "")]
        teacher = f"-from-{'-'.join(Path(member).name for member in asked)}" if self.teacher else ""
        student = model_label(self.student).replace(":", "-")
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
        raise ValueError(expectation(Recipe, error)) from None


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's stored recipe with what an earlier version did not write, because there was no choice, at its default."""
    fields = {name: field for name, field in Recipe.model_fields.items() if not field.is_required()}
    missing = {
        name: field.get_default(call_default_factory=True) for name, field in fields.items() if name not in stored
    }
    complete = {**stored, **missing}
    task = find_task(complete["task"])
    spec = task.methods.get(str(stored.get("method")))
    if spec is not None and complete["options"]:
        complete["options"] = {**spec.options, **complete["options"]}
    return {**complete, "task_options": {**task.option_defaults, **complete["task_options"]}}


class RecipeFile(JsonFile):
    """What any recipe.json must hold, whatever version wrote it; `make_recipe` refuses what is wrong in this one's."""

    data: str | None = None
    student: str | None = None
    method: str | None = None
    teacher: str | None = None
    task: str = DEFAULT
    task_options: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, Any] = Field(default_factory=dict)
    epochs: int | None = None
    seed: int | None = None


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe file.

    Raises:
        ValueError: if the file is missing, is no regular file, or holds no JSON object of a recipe's fields.
    """
    require_file(path, "recipe")
    return read_checked(path, RecipeFile, f"recipe {str(path)!r}")


def check(recipe: Recipe) -> None:
    """Refuse fields that contradict one another."""
    _check_task(recipe)
    needs = recipe.method_spec.needs_teacher
    if needs and recipe.teacher is None and recipe.teacher_cache is None:
        raise ValueError(f"method {recipe.method!r} needs a teacher: give a run folder or a model's name, got none")
    if not needs and recipe.teacher is not None:
        raise ValueError(f"method {recipe.method!r} asks no teacher, got teacher={recipe.teacher!r}")
    check_cache(recipe)
    if recipe.teacher_checkpoint is not None and recipe.teacher is None:
        raise ValueError("teacher_checkpoint: expected the teacher's name beside it, got none")
    if recipe.teacher is not None:
        _check_teacher(recipe, recipe.teacher)
    if recipe.class_map is not None and recipe.teacher is None:
        raise ValueError("class_map: expected a teacher beside it, got none")
    if recipe.pretrained and recipe.student_checkpoint is not None:
        raise ValueError("pretrained and student_checkpoint: expected one of them, got both")
    if not any(weight != 0 for weight in recipe.weights.values()):
        raise ValueError(f"weights: expected one above 0, got {recipe.weights}")
    couples = recipe.method_spec.couples_batch
    if recipe.relation is not None and not couples:
        known = ", ".join(name for name, spec in recipe.task_spec.methods.items() if spec.couples_batch)
        raise ValueError(f"relation: expected a method that relates a batch's images ({known}), got {recipe.method!r}")
    if couples and recipe.accumulate > 1 and recipe.relation != "local":
        raise ValueError(
            f"accumulate: expected 1 or relation='local', for {recipe.method!r} relates the images of a batch and "
            f"not those of {recipe.accumulate} batches, got accumulate={recipe.accumulate}, "
            f"relation={recipe.relation!r}"
        )
    if recipe.label_smoothing and recipe.weights.get("task") == 0:
        raise ValueError(
            f"label_smoothing: expected a method with a task term, whose cross-entropy it smooths (--weight task=1), "
            f"got {recipe.method!r} without one"
        )
    if recipe.warmup_epochs >= recipe.epochs and recipe.warmup_epochs > 0:
        raise ValueError(f"warmup_epochs: expected fewer than the {recipe.epochs} epochs, got {recipe.warmup_epochs:g}")
    if recipe.mix_probability != 1 and not (recipe.mixup or recipe.cutmix):
        raise ValueError(f"mix_probability: expected mixup or cutmix beside {recipe.mix_probability:g}, got neither")
    if recipe.unlabelled is not None:
        _check_unlabelled(recipe, recipe.unlabelled)


def _check_unlabelled(recipe: Recipe, unlabelled: str) -> None:
    """Refuse what images without labels do not go with."""
    if recipe.method_spec.needs_labels:
        known = ", ".join(name for name, spec in recipe.task_spec.methods.items() if not spec.needs_labels)
        raise ValueError(f"unlabelled: expected a method that reads no labels ({known}), got {recipe.method!r}")
    if recipe.mixup or recipe.cutmix:
        raise ValueError(f"unlabelled: expected neither mixup nor cutmix beside {unlabelled!r}, which mix labels")
    if recipe.accumulate > 1 and recipe.weights["task"] != 0:
        raise ValueError(
            "unlabelled: expected accumulate=1, for the task's loss is a mean over the labelled images of a "
            f"batch, whose number changes, got {recipe.accumulate}"
        )


def _check_teacher(recipe: Recipe, teacher: str) -> None:
    """Refuse what the teacher's text alone shows to be wrong."""
    members = teacher_members(teacher)
    if teacher.startswith(ENSEMBLE) and (len(members) < 2 or not all(members)):
        raise ValueError(f"teacher: expected ensemble:A+B with at least two members, got {teacher!r}")
    if len(members) > 1 and recipe.method_spec.taps is not None:
        raise ValueError(
            f"method {recipe.method!r} compares activations: expected one model for a teacher, got {teacher!r}"
        )
    drawn = [member for member in members if member.startswith(RANDOM)]
    if drawn and not recipe.trust_teacher:
        raise ValueError(
            f"teacher {drawn[0]!r} knows nothing, which only serves to try things out: say so with --trust-teacher"
        )
    if drawn and recipe.class_map is not None:
        raise ValueError(f"class_map: expected a teacher with classes of its own, got {drawn[0]!r}")
    if recipe.teacher_checkpoint is not None and teacher.startswith((ENSEMBLE, RANDOM)):
        raise ValueError(
            f"teacher_checkpoint: expected a model's name for a teacher beside it, got {teacher!r}; "
            "a member with weights is NAME@FILE"
        )


def _check_task(recipe: Recipe) -> None:
    """Refuse what says nothing in the recipe's task."""
    task = recipe.task_spec
    for name, reason in task.refused.items():
        given, default = getattr(recipe, name), type(recipe).model_fields[name].default
        if given != default:
            raise ValueError(f"{name}: expected {default!r} in {recipe.task}, got {given!r}: {reason}")
    source = split_spec(recipe.data)[0]
    for name, other in TASKS.items():
        if source in other.own_sources and source not in task.own_sources:
            raise ValueError(f"data: expected data for {recipe.task}, got {source!r}, which is for --task {name}")
    task.check(recipe)


def check_cache(recipe: Recipe) -> None:
    """Refuse fields that contradict one another.

    Raises:
        ValueError: fewer views than copies of an image; beside a `teacher_cache` a method that is nothing to a teacher
        cache
            of logits, and what would change a teacher's answers.
    """
    if recipe.views is not None and recipe.views < recipe.repeats:
        raise ValueError(
            f"views: expected at least {recipe.repeats}, one for each of an image's copies, got {recipe.views}"
        )
    cache = recipe.teacher_cache
    if cache is None:
        return
    spec = recipe.method_spec
    if not spec.needs_teacher:
        raise ValueError(f"method {recipe.method!r} asks no teacher, got teacher_cache={cache!r}")
    if spec.taps is not None:
        raise ValueError(
            f"method {recipe.method!r} compares activations, which a teacher cache does not hold: expected a teacher "
            f"alone, got teacher_cache={cache!r}"
        )
    for name, value in (("teacher_checkpoint", recipe.teacher_checkpoint), ("class_map", recipe.class_map)):
        if value is not None:
            raise ValueError(f"{name}: expected none beside teacher_cache={cache!r}, which holds answers alone")
