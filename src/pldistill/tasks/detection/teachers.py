"""Teachers of detectors: `teacher(scenes) -> Outputs`, where the scenes say which RoIs.

A teacher is named by the run folder of a detector; by `fasterrcnn:BACKBONE` with a checkpoint (`NAME@FILE`, or the
recipe's `teacher_checkpoint`); by `fasterrcnn:resnet50.coco_v1`, which brings torchvision's weights; or by
`random:fasterrcnn:BACKBONE`, which has weights drawn from the recipe's seed and knows nothing.

Where a teacher names its classes, the data's are found among them by name: all of them, or some, in any order. A run
folder names its own; weights of 91 columns, torchvision's or a file's, have COCO's. Other files name none, and have the
data's classes in their order, or in columns by category id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.data.sampling import key
from pldistill.recipe import Recipe
from pldistill.specs import FASTER_RCNN, RANDOM, split_weights, unknown
from pldistill.tasks.detection.dataset import BoxData
from pldistill.tasks.detection.faster_rcnn import Detector, build_detector
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.weights import (
    COCO_COLUMNS,
    PUBLISHED,
    coco_columns,
    from_checkpoint,
    load_detector,
    published,
    read_shape,
)
from pldistill.teachers.live import LiveTeacher


def options_of(recipe: Recipe) -> DetectionOptions:
    """The recipe's options of detection."""
    return DetectionOptions.model_validate(recipe.task_options)


def backbone_of(name: str, field: str) -> str:
    """The backbone in a detector's name, with its tag.

    Raises:
        ValueError: for the name of something else.
    """
    if not name.startswith(FASTER_RCNN) or name == FASTER_RCNN:
        raise ValueError(f"{field}: expected fasterrcnn:BACKBONE in detection, got {name!r}")
    return name.removeprefix(FASTER_RCNN)


def columns_of(data: BoxData, unused: bool) -> list[int]:
    """The column of each label, 0 the background: by COCO's ids, gaps and all, or one after the other."""
    return [0, *data.category_ids] if unused else list(range(len(data.classes) + 1))


def open_detector(recipe: Recipe, data: BoxData) -> LiveTeacher | None:
    """Build the recipe's teacher.

    Raises:
        ValueError: for a teacher without weights, or one whose classes are not the data's.
    """
    member = recipe.teacher
    if member is None:
        return None
    if Path(member).is_dir():
        if recipe.teacher_checkpoint is not None:
            raise ValueError(f"teacher_checkpoint: expected none beside the run {member!r}, which has its weights")
        return _from_run(member, recipe, data)
    if member.startswith(RANDOM):
        return _at_random(backbone_of(member.removeprefix(RANDOM), "teacher"), recipe, data)
    name, checkpoint = split_weights(member)
    if "/" in name:
        raise ValueError(f"teacher: expected a run folder or a model's name, got {member!r}, which is no folder")
    backbone, checkpoint = backbone_of(name, "teacher"), checkpoint or recipe.teacher_checkpoint
    if checkpoint is not None:
        return _from_checkpoint(backbone, checkpoint, recipe, data)
    if backbone not in PUBLISHED:
        known = ", ".join(FASTER_RCNN + each for each in PUBLISHED)
        raise ValueError(f"teacher {name!r} must name its weights: {known}; or give a run folder or a checkpoint")
    _find(recipe, COCO_COLUMNS, coco_columns(), data)  # what does not fit is refused before weights are fetched
    model = published(backbone, options=options_of(recipe))
    return _live(model, IMAGENET_MEAN, IMAGENET_STD, recipe, data, coco_columns())


def _from_run(folder: str, recipe: Recipe, data: BoxData) -> LiveTeacher:
    loaded = load_detector(folder)
    model = loaded.model
    named = dict(zip(loaded.classes, model.columns[1:].tolist(), strict=True))
    teacher = _live(model.model, model.mean.flatten().tolist(), model.std.flatten().tolist(), recipe, data, named)
    teacher.image_size = loaded.image_size
    return teacher


def _at_random(backbone: str, recipe: Recipe, data: BoxData) -> LiveTeacher:
    with torch.random.fork_rng(devices=[]):
        # A stream of its own: a student of the same model must not start as its teacher.
        torch.manual_seed(key(recipe.seed, 0, "teacher"))
        unused = options_of(recipe).keeps_unused
        width = max(columns_of(data, unused)) + 1
        model = build_detector(backbone, columns=width, options=options_of(recipe))
    return _live(model, data.mean, data.std, recipe, data)


def _from_checkpoint(backbone: str, checkpoint: str, recipe: Recipe, data: BoxData) -> LiveTeacher:
    """A file of weights says nothing of input statistics or names of classes, so they are the data's.

    How wide the model is, and how it normalizes, the file does say. One of 91 columns is taken for COCO's where the
    data's classes are COCO's, or where its columns lie in no other way.
    """
    shape = read_shape(checkpoint)
    options = options_of(recipe).model_copy(update=shape.options)
    model = from_checkpoint(backbone, checkpoint, columns=shape.columns, options=options)
    return _live(model, data.mean, data.std, recipe, data)


def _live(
    model: FasterRCNN,
    mean: Sequence[float],
    std: Sequence[float],
    recipe: Recipe,
    data: BoxData,
    named: Mapping[str, int] | None = None,
) -> LiveTeacher:
    """The teacher with the data's classes found among its columns; `named` are those of its classes, None for a file.

    Raises:
        ValueError: for a class that the teacher has no column for.
    """
    head = model.get_submodule("roi_heads.box_predictor.cls_score")
    assert isinstance(head, torch.nn.Linear)
    columns = _find(recipe, head.out_features, named, data)
    return LiveTeacher(Detector(model, mean=mean, std=std, columns=columns, unused=options_of(recipe).keeps_unused))


def _find(recipe: Recipe, width: int, named: Mapping[str, int] | None, data: BoxData) -> list[int]:
    assert recipe.teacher is not None
    find = _columns_by_id if options_of(recipe).keeps_unused else _columns
    return find(recipe.teacher, width, named, data)


def _columns(teacher: str, width: int, named: Mapping[str, int] | None, data: BoxData) -> list[int]:
    """The teacher's column of each label."""
    plain, by_id, coco = columns_of(data, False), columns_of(data, True), coco_columns()
    if named is None:
        if width == len(plain):
            return plain
        if width == by_id[-1] + 1 and not (width == COCO_COLUMNS and coco.keys() >= set(data.classes)):
            return by_id
        if width != COCO_COLUMNS:
            raise _wrong_width(teacher, width, {len(plain), by_id[-1] + 1}, data)
        named = coco
    for name in data.classes:
        if name not in named:
            raise ValueError(f"teacher {teacher!r}: {unknown('class of the teacher', name, named)}")
    return [0, *(named[name] for name in data.classes)]


def _columns_by_id(teacher: str, width: int, named: Mapping[str, int] | None, data: BoxData) -> list[int]:
    """The same where a row has all columns, those of unused ids too: they must be the student's, by the data's ids."""
    by_id = columns_of(data, True)
    if width != by_id[-1] + 1:
        raise _wrong_width(teacher, width, {by_id[-1] + 1}, data)
    for name, column in zip(data.classes, data.category_ids, strict=True):
        if named is not None and named.get(name) != column:
            raise ValueError(
                f"teacher {teacher!r}: expected the data's class {name!r} at {column}, got it "
                f"{'nowhere' if name not in named else f'at {named[name]}'}"
            )
    return by_id


def _wrong_width(teacher: str, width: int, widths: set[int], data: BoxData) -> ValueError:
    known = " or ".join(str(count) for count in sorted(widths))
    return ValueError(
        f"teacher {teacher!r}: expected logits for the background and the data's {len(data.classes)} classes, "
        f"{known} in all, got {width}"
    )
