"""Who is asked: one call, `teacher(batch) -> Outputs`.

A teacher is named by a run folder; by a model's name with a checkpoint (`NAME@FILE`, or the recipe's
`teacher_checkpoint`); by a tagged timm name, which brings timm's weights (`resnet152.a1_in1k`); by
`module.path:factory`, a function of one's own that gives a module; by `random:NAME`, which has weights drawn from the
recipe's seed and knows nothing; or by `ensemble:A+B`, whose members are any of these. A member's path has no `+` in it.

A teacher is an argument of the step, never a child of what is trained, so it is absent from the student's parameters,
checkpoint, average and training mode without a hack.

A class map is for a teacher that knows other classes than the data: a JSON file that says which of its classes is
which of the data's.

    {"teacher's class": "data's class", "another": {"data's class": 0.7, "another of the data's": 0.3}, ...}

A class is given by its name or its index from 0; what is both is the name. A model that names no classes (one with a
checkpoint) has indices alone; timm's ImageNet models name theirs by synsets (`n01440764`) or first words (`tench`).

Of a teacher with classes T, W_ic being the part of its class i that is the data's class c (1 where the file names one),
the answer for c is

    t_c = log Σ_{i in T} W_ic exp t_i,    Σ_c W_ic <= 1

so the probabilities of its classes add up by their parts, and classes that the file leaves out have no part: softmax(t)
is the teacher's distribution given that the image shows a class of the data's. The members of an ensemble may have a
map each, `A.json+B.json`, in their order. (At a temperature τ other than 1 a
method tempers t_c, the sum's logarithm.) Classes of the data's that the teacher knows nothing of are named,

    {..., "(none)": ["data's class", ...]}

and their logit is -∞. A method compares the models on the other classes alone, and images of these learn from their
label alone (the task's own loss, on all classes). Every class must be covered or named so.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pldistill import models
from pldistill.data import Dataset
from pldistill.data.sampling import key
from pldistill.json_files import read_object
from pldistill.models import NormalizedModel, TaskModel
from pldistill.paths import is_address, kind_of, require_file
from pldistill.recipe import Recipe
from pldistill.specs import RANDOM, split_weights, teacher_members, unknown
from pldistill.teachers.factory import build_own, is_factory
from pldistill.types import Batch, Outputs

_SHOWN = 5  # classes named in one message


@dataclass
class ClassMap:
    """From the teacher's logits to logits of the data's classes.

    Attributes:
        columns: `(C, K)` int64, for each of the data's classes the teacher's, K the most that any of them has; the
            teacher's count of classes, one past the last, fills up.
        parts: `(C, K)` float64, of each of these the part W_ic that is the data's class; None where all are 1.
        count: the teacher's classes.
    """

    columns: Tensor
    parts: Tensor | None = None
    count: int = 0

    def known(self) -> Tensor | None:
        """`(C,)` bool, which of the data's classes the teacher knows; None where it knows all."""
        known = (self.columns != self.count).any(dim=1)
        return None if bool(known.all()) else known

    def __call__(self, logits: Tensor) -> Tensor:
        """`(N, T)` to `(N, C)`, float32, or float64 for float64."""
        self.columns = self.columns.to(logits.device)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        taken = functional.pad(logits, (0, 1), value=-math.inf)[:, self.columns]
        if self.parts is not None:
            self.parts = self.parts.to(logits.device)
            taken = taken + self.parts.log().to(logits.dtype)
        return taken.logsumexp(dim=2)

    def marks(self) -> bytes:
        """What tells it from others."""
        marks = repr(self.columns.tolist())
        return (marks if self.parts is None else marks + repr(self.parts.tolist())).encode()


def read_class_map(
    path: str,
    count: int,
    theirs: Sequence[str] | None,
    ours: Sequence[str],
    also: Mapping[str, int] | None = None,
) -> ClassMap:
    """Read a class map for a teacher of `count` classes, called `theirs` where it names them, and the data's `ours`.

    `also` has other names of the teacher's classes.

    Raises:
        ValueError: no such file, no JSON object of names and numbers in it, an unknown class, an index out of range, a
            teacher's class given twice, parts of one that are not above 0 or more than it in all, or classes of the
            data's that no class of the teacher's covers.
    """
    names = {**(also or {}), **{name: index for index, name in enumerate(theirs or ())}}
    known = {name: index for index, name in enumerate(ours)}
    taken: dict[int, str] = {}
    groups: list[dict[int, float]] = [{} for _ in ours]
    entries, nothing = _pairs(path)
    unknown_ones = {_index("data", each, known, len(ours)) for each in nothing}
    for their_class, shares in entries:
        their = _index("teacher", their_class, names, count)
        if their in taken:
            raise ValueError(
                f"class_map: expected each of the teacher's classes once, got {taken[their]!r} and {their_class!r}"
            )
        taken[their] = their_class
        for value, part in shares:
            our = _index("data", value, known, len(ours))
            if their in groups[our]:
                raise ValueError(f"class_map: expected {ours[our]!r} once for {their_class!r}, got it twice")
            if our in unknown_ones:
                raise ValueError(
                    f"class_map: expected {ours[our]!r} under {NONE!r} alone, got it for {their_class!r} too"
                )
            groups[our][their] = part
    bare = [ours[index] for index, group in enumerate(groups) if not group and index not in unknown_ones]
    if bare:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        raise ValueError(
            f"class_map: expected a class of the teacher's for each of the data's {len(ours)}, "
            f"got none for {', '.join(bare[:_SHOWN])}{more}"
        )
    width = max(1, *(len(group) for group in groups))
    columns = torch.tensor([sorted(group) + [count] * (width - len(group)) for group in groups])
    parts = [[group[their] for their in sorted(group)] + [1.0] * (width - len(group)) for group in groups]
    whole = all(part == 1 for row in parts for part in row)
    return ClassMap(columns, None if whole else torch.tensor(parts, dtype=torch.float64), count)


def _pairs(path: str) -> tuple[list[tuple[str, list[tuple[str | int, float]]]], list[str | int]]:
    """The file's entries: a class of the teacher's, and the classes of the data's with the part of it that each has.

    And the classes of the data's that no class of the teacher's is.
    """
    require_file(path, "class_map")
    entries = read_object(Path(path), f"class_map: {path!r}")
    nothing = entries.pop(NONE, [])
    if not isinstance(nothing, list) or any(
        isinstance(each, bool) or not isinstance(each, str | int) for each in nothing
    ):
        raise ValueError(f"class_map: expected a list of the data's classes for {NONE!r}, got {nothing!r}")
    return [(their_class, _shares(their_class, value)) for their_class, value in entries.items()], nothing


def _shares(their_class: str, value: Any) -> list[tuple[str | int, float]]:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return [(value, 1.0)]
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"class_map: expected the name or the index of a class of the data's for {their_class!r}, or an object of "
            f"classes and parts, got {value!r}"
        )
    for our, part in value.items():
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
            raise ValueError(
                f"class_map: expected a part above 0 and at most 1 for {our!r} of {their_class!r}, got {part!r}"
            )
    if (whole := math.fsum(value.values())) > 1 + 1e-9:
        raise ValueError(f"class_map: expected parts of {their_class!r} that are 1 at most in all, got {whole:g}")
    return [(our, float(part)) for our, part in value.items()]


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


NONE = "(none)"  # in place of a class of the teacher's
_SYNSET = re.compile(r"n\d{8}")
_MAP_HINT = "; --class-map FILE says which of them is which (docs/teachers.md)"


class Teacher(ABC):
    """Answers for a batch, constant: no gradient reaches it and nothing changes it.

    Attributes:
        members: the models that answer, each as a teacher of its own; none where answers are read from a store.
        known: `(C,)` bool, the data's classes that it knows something of; None where it knows all.
    """

    members: tuple[LiveTeacher, ...]
    known: Tensor | None = None

    @abstractmethod
    def __call__(self, batch: Any) -> Outputs:
        """Give the teacher's outputs for `batch` (a `Batch`, or a `DetectionBatch` with RoIs), on its device."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Give a SHA-256 over all that the answers depend on; the run compares it before and after."""

    def at_validation(self) -> Teacher:
        """Give who is asked about the validation images."""
        return self

    def count_parameters(self) -> int:
        """Give the number of parameters of all its models."""
        return sum(models.count_parameters(member.model.model) for member in self.members)

    def record(self) -> dict[str, Any]:
        """Give what a run's environment says of it."""
        return {"teacher_sha256": self.fingerprint()}

    def to(self, device: torch.device, layout: torch.memory_format) -> None:
        """Put the models on the device, their convolutions in this memory layout."""
        for member in self.members:
            member.model.to(device=device).to(memory_format=layout)


class LiveTeacher(Teacher):
    """A model in eval mode, asked under `no_grad` with its own input statistics.

    Args:
        model: the model.
        image_size: the side in pixels of the images it was trained on; None where nobody says.
        class_map: from its classes to the data's; None where they are the same.
    """

    def __init__(self, model: TaskModel, *, image_size: int | None = None, class_map: ClassMap | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.image_size = image_size
        self.class_map = class_map
        self.known = None if class_map is None else class_map.known()
        self.members = (self,)

    @torch.no_grad()
    def __call__(self, batch: Any) -> Outputs:
        outputs = self.model.answer(batch)
        return outputs if self.class_map is None else Outputs(self.class_map(outputs.logits), outputs.features)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if self.class_map is not None:
            digest.update(self.class_map.marks())
        return digest.hexdigest()


class Ensemble(Teacher):
    """Several models, asked about the same images, each with its own input statistics: t = mean_m t_m.

    The mean of the logits, not of the probabilities, because it goes with a temperature: t / τ is the mean of the
    t_m / τ, so softmax(t / τ) is, up to its sum, the geometric mean of the members' tempered probabilities, whatever τ
    a method has. The arithmetic mean of the probabilities is another teacher at every τ. The larger a member's logits,
    the more it counts. No features: the members' have no mean.
    """

    def __init__(self, members: Sequence[LiveTeacher]) -> None:
        self.members = tuple(members)
        partial = [member.known for member in members if member.known is not None]
        self.known = torch.stack(partial).all(dim=0) if partial else None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(torch.stack([member(batch).logits.float() for member in self.members]).mean(dim=0))

    def fingerprint(self) -> str:
        return hashlib.sha256("".join(member.fingerprint() for member in self.members).encode()).hexdigest()


def open_teacher(recipe: Recipe, dataset: Dataset) -> Teacher | None:
    """Build the recipe's teacher.

    Raises:
        ValueError: for a teacher without weights, or one whose classes are not the data's, nor become so by the
            recipe's class map.
    """
    if recipe.teacher is None:
        return None
    named = teacher_members(recipe.teacher)
    recipes = [recipe.model_copy(update={"class_map": path}) for path in _maps(recipe, len(named))]
    try:
        members = [_open(member, place, recipes[place], dataset) for place, member in enumerate(named)]
    except models.HeadSizeError as error:  # its hint is for a student, which may begin with a fresh head
        ours = len(dataset.classes)
        raise ValueError(
            f"teacher {recipe.teacher!r}: expected the data's {ours} classes, got {error.theirs}{_MAP_HINT}"
        ) from None
    return members[0] if len(members) == 1 else Ensemble(members)


def _maps(recipe: Recipe, members: int) -> list[str | None]:
    """The class map of each member: one for all of them, or `A.json+B.json`, in which an empty one is none."""
    given = recipe.class_map
    if given is None or "+" not in given or kind_of(Path(given)) is not None:
        return [given] * members
    paths = given.split("+")
    if len(paths) != members:
        raise ValueError(f"class_map: expected a file for each of the {members} teachers, got {len(paths)}, {given!r}")
    return [path or None for path in paths]


def _open(member: str, place: int, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    """One model: a run's, one with a checkpoint, one drawn from the seed, or timm's own."""
    if Path(member).is_dir():
        if recipe.teacher_checkpoint is not None:
            raise ValueError(f"teacher_checkpoint: expected none beside the run {member!r}, which has its weights")
        return _from_run(member, recipe, dataset)
    if member.startswith(RANDOM):
        return _at_random(member.removeprefix(RANDOM), place, recipe, dataset)
    name, checkpoint = split_weights(member)
    if checkpoint is None and (found := _no_name(member)) is not None:
        raise ValueError(f"teacher: expected a run folder, a model's name or NAME@FILE, got {found}")
    checkpoint = checkpoint or recipe.teacher_checkpoint
    if is_factory(name):
        return _own(name, checkpoint, recipe, dataset)
    if checkpoint is not None:
        return _from_checkpoint(name, checkpoint, recipe, dataset)
    return _from_timm(name, recipe, dataset)


def _no_name(member: str) -> str | None:
    """What a teacher's text is where it can be no model's name; None where it may be one."""
    if is_address(member):
        return f"the address {member!r}: nothing is downloaded; of weights that lie here the text is NAME@FILE"
    kind = kind_of(member)
    if kind == "a file":
        return f"the file {member!r}: the name of the model that it has the weights of comes first, NAME@{member}"
    if kind is not None:
        return f"{member!r}, which is {kind}"
    return f"{member!r}, which is no folder" if "/" in member else None


def _from_run(folder: str, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    loaded = models.load_folder(folder)
    model = NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std)
    if recipe.class_map is not None:
        mapping = read_class_map(recipe.class_map, len(loaded.classes), loaded.classes, dataset.classes)
        return LiveTeacher(model, image_size=loaded.image_size, class_map=mapping)
    _same_classes(folder, loaded.classes, dataset)
    return LiveTeacher(model, image_size=loaded.image_size)


def _at_random(name: str, place: int, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    with torch.random.fork_rng(devices=[]):
        # A stream of its own: a student of the same model must not start as its teacher.
        torch.manual_seed(key(recipe.seed, place, "teacher"))
        model = models.build(name, num_classes=len(dataset.classes), image_size=dataset.image_size)
    return LiveTeacher(NormalizedModel(model, mean=dataset.mean, std=dataset.std))


def _from_checkpoint(name: str, checkpoint: str, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    """A file of weights says nothing of input statistics or names of classes, so the former are the data's."""
    count, mapping = len(dataset.classes), None
    if recipe.class_map is not None:
        count = models.head_size(models.build(name, num_classes=1, image_size=dataset.image_size), checkpoint)
        mapping = read_class_map(recipe.class_map, count, None, dataset.classes)
    model = models.build(name, num_classes=count, checkpoint=checkpoint, image_size=dataset.image_size)
    return LiveTeacher(NormalizedModel(model, mean=dataset.mean, std=dataset.std), class_map=mapping)


def _own(name: str, checkpoint: str | None, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    """A model of one's own names no classes: they are the data's, in their order, or a class map's indices."""
    model = build_own(name, checkpoint, dataset)
    count, mapping = model.probe(dataset.image_size).logits.shape[1], None
    if recipe.class_map is not None:
        mapping = read_class_map(recipe.class_map, count, None, dataset.classes)
    elif count != len(dataset.classes):
        raise ValueError(f"teacher {name!r}: expected logits of the data's {len(dataset.classes)} classes, got {count}")
    return LiveTeacher(model, class_map=mapping)


def _from_timm(name: str, recipe: Recipe, dataset: Dataset) -> LiveTeacher:
    models.require_tag(name)
    about = models.about_pretrained(name)
    count, mapping = len(dataset.classes), None
    if recipe.class_map is not None:
        count = about.num_classes
        mapping = read_class_map(recipe.class_map, count, about.classes, dataset.classes, about.names)
    elif about.classes is not None and count == len(about.classes) and all(map(_SYNSET.fullmatch, dataset.classes)):
        _same_classes(name, about.classes, dataset)
    model = models.build(name, num_classes=count, pretrained=True, image_size=dataset.image_size)
    mean, std = models.pretrained_statistics(model)
    return LiveTeacher(NormalizedModel(model, mean=mean, std=std), image_size=about.image_size, class_map=mapping)


def _same_classes(teacher: str, theirs: Sequence[str], dataset: Dataset) -> None:
    """Refuse a teacher whose classes are not the data's, one by one."""
    ours, hint = dataset.classes, _MAP_HINT
    if len(theirs) != len(ours):
        raise ValueError(f"teacher {teacher!r}: expected the data's {len(ours)} classes, got {len(theirs)}{hint}")
    for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if their != our:
            raise ValueError(f"teacher {teacher!r}: expected the data's class {index}, {our!r}, got {their!r}{hint}")
