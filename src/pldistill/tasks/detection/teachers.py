"""Teachers of detectors: `teacher(scenes) -> Outputs`, where the scenes say which RoIs.

A teacher is named by the run folder of a detector; by `fasterrcnn:BACKBONE` with a checkpoint (`NAME@FILE`, or the
recipe's `teacher_checkpoint`); by `fasterrcnn:resnet50.coco_v1`, which brings torchvision's weights; or by
`random:fasterrcnn:BACKBONE`, which has weights drawn from the recipe's seed and knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.data.sampling import key
from pldistill.recipe import Recipe
from pldistill.specs import FASTER_RCNN, RANDOM, split_weights
from pldistill.tasks.detection.dataset import BoxData
from pldistill.tasks.detection.faster_rcnn import Detector, build_detector
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.weights import PUBLISHED, from_checkpoint, load_detector, published, read_shape
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
    _same_names(name, [str(each) for each in PUBLISHED[backbone].meta["categories"]], data.category_ids, data)
    return _live(published(backbone, options=options_of(recipe)), IMAGENET_MEAN, IMAGENET_STD, recipe, data)


def _from_run(folder: str, recipe: Recipe, data: BoxData) -> LiveTeacher:
    loaded = load_detector(folder)
    if len(loaded.classes) != len(data.classes):
        raise ValueError(
            f"teacher {folder!r}: expected the data's {len(data.classes)} classes, got {len(loaded.classes)}"
        )
    _same_names(folder, loaded.classes, range(len(data.classes)), data)
    model = loaded.model
    teacher = _live(model.model, model.mean.flatten().tolist(), model.std.flatten().tolist(), recipe, data)
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

    How wide the model is, and how it normalizes, the file does say.
    """
    shape = read_shape(checkpoint)
    options = options_of(recipe).model_copy(update=shape.options)
    model = from_checkpoint(backbone, checkpoint, columns=shape.columns, options=options)
    return _live(model, data.mean, data.std, recipe, data)


def _live(model: FasterRCNN, mean: Sequence[float], std: Sequence[float], recipe: Recipe, data: BoxData) -> LiveTeacher:
    """The teacher with the data's classes found among its columns, which lie by COCO's ids or one after the other.

    Raises:
        ValueError: for columns that do neither.
    """
    unused = options_of(recipe).keeps_unused
    width = model.get_submodule("roi_heads.box_predictor.cls_score").out_features
    plain, by_id = (columns_of(data, gaps) for gaps in (False, True))
    fitting = [columns for columns in ([by_id] if unused else [plain, by_id]) if width == columns[-1] + 1]
    if not fitting:
        known = " or ".join(str(columns[-1] + 1) for columns in ([by_id] if unused else [plain, by_id]))
        raise ValueError(
            f"teacher {recipe.teacher!r}: expected logits for the background and the data's {len(data.classes)} "
            f"classes, {known} in all, got {width}"
        )
    return LiveTeacher(Detector(model, mean=mean, std=std, columns=fitting[0], unused=unused))


def _same_names(teacher: str, theirs: Sequence[str], places: Sequence[int], data: BoxData) -> None:
    """Refuse a teacher whose classes, at these places of its names, are not the data's."""
    for place, our in zip(places, data.classes, strict=True):
        their = theirs[place] if place < len(theirs) else None
        if their != our:
            raise ValueError(f"teacher {teacher!r}: expected the data's class {our!r} at {place}, got {their!r}")
