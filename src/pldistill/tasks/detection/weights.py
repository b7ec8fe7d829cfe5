"""Weights of whole detectors: torchvision's by name, and files, from which the shape of the model is read.

A trained detector is a folder: torchvision's weights in `model.safetensors`, the rest in `config.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json
from safetensors.torch import save
from torch import Tensor
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops.misc import FrozenBatchNorm2d

from pldistill.files import check_run_files, write_atomically
from pldistill.models.checkpoints import load_weights, put_weights, read_state
from pldistill.models.folder import CONFIG, WEIGHTS
from pldistill.specs import FASTER_RCNN, expectation
from pldistill.tasks.detection.backbones import with_norm
from pldistill.tasks.detection.faster_rcnn import Detector, Transform, build_detector
from pldistill.tasks.detection.options import DetectionOptions

# By backbone and tag. Their logits are by COCO's category ids, with gaps: column 0 is the background.
PUBLISHED = {"resnet50.coco_v1": FasterRCNN_ResNet50_FPN_Weights.COCO_V1}
COCO_COLUMNS = 91
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=1_000_000)]


def coco_columns() -> dict[str, int]:
    """The column of each of COCO's 80 classes by its name, which is COCO's id, as torchvision's weights have them."""
    names = next(iter(PUBLISHED.values())).meta["categories"]
    return {name: column for column, name in enumerate(names) if column and name != "N/A"}


@dataclass(frozen=True)
class Shape:
    """What a file of weights says of the model it is for.

    Attributes:
        columns: logits of an RoI, the background among them.
        options: those of `DetectionOptions` that show in the weights.
    """

    columns: int
    options: dict[str, str | int]


def read_shape(checkpoint: str | Path) -> Shape:
    """Read the shape of the model from a file of weights, or a folder with `model.safetensors`.

    Raises:
        ValueError: a file that cannot be read, or is none of a Faster R-CNN with a feature pyramid.
    """
    path, state = _read(checkpoint)
    first, score = (_ending(state, name, path) for name in ("box_head.fc6.weight", "box_predictor.cls_score.weight"))
    lateral = _ending(state, "rpn.head.bbox_pred.weight", path)
    norm = "group"
    if any(name.endswith("running_mean") for name in state):
        norm = "batch" if any(name.endswith("num_batches_tracked") for name in state) else "frozen"
    options: dict[str, str | int] = {"norm": norm, "head_width": first.shape[0], "fpn_channels": lateral.shape[1]}
    return Shape(score.shape[0], options)


def _ending(state: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    for key, value in state.items():
        if key.endswith(name):
            return value
    raise ValueError(f"checkpoint {path} is none of a Faster R-CNN with a feature pyramid: it has no {name}")


def from_checkpoint(
    backbone: str, checkpoint: str | Path, *, columns: int, options: DetectionOptions, new_head: bool = False
) -> FasterRCNN:
    """Build a detector and load a file, or a run's folder, into it, all of it or, with `new_head`, all but the head.

    Weights of a model with batch normalization fit one whose statistics are frozen.

    Raises:
        ValueError: what `load_weights` refuses, or a file of a model of another kind.
    """
    shape = read_shape(checkpoint)
    ours = {name: getattr(options, name) for name in shape.options}
    freeze = (ours["norm"], shape.options["norm"]) == ("frozen", "batch")
    if {**ours, "norm": "batch" if freeze else ours["norm"]} != shape.options:
        raise ValueError(
            f"checkpoint {checkpoint}: expected a model of {_said(ours)}, got one of {_said(shape.options)}"
        )
    path, state = _read(checkpoint)
    built = options.model_copy(update={"norm": shape.options["norm"]})
    model = build_detector(backbone, columns=columns, options=built)
    put_weights(model, state, path, new_head=new_head)
    return frozen(model) if freeze else model


def frozen(model: FasterRCNN) -> FasterRCNN:
    """The model with the statistics of its body fixed."""
    with_norm(model.backbone, "frozen")
    return model


def published(name: str, *, options: DetectionOptions, columns: int = 91, new_head: bool = False) -> FasterRCNN:
    """Build torchvision's detector with its COCO weights, which are fetched once; `name` is one of `PUBLISHED`.

    Raises:
        ValueError: weights that cannot be fetched, or a head that does not fit.
    """
    frozen_options = options.model_copy(update={"norm": "frozen"})
    model = build_detector(name.partition(".")[0], columns=columns, options=frozen_options)
    try:
        state = PUBLISHED[name].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"the weights of fasterrcnn:{name} are not on this machine and could not be fetched "
            f"({type(error).__name__}): download them once with a network, or give a checkpoint"
        ) from error
    put_weights(model, _renamed(state), Path(name), new_head=new_head)
    for layer in model.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.eps = 0.0  # as these weights were trained
    return model


def _read(checkpoint: str | Path) -> tuple[Path, dict[str, Tensor]]:
    path = Path(checkpoint)
    if path.is_dir():
        check_run_files(path, (CONFIG, WEIGHTS))
        path = path / WEIGHTS
    return path, _renamed(read_state(path))


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that torchvision gives these weights today; those of its own files are older."""

    def today(name: str) -> str:
        name = re.sub(r"(fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
        return re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)

    return {today(name): value for name, value in state.items()}


def _said(options: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a folder, in eval mode, with what is needed to use it.

    Attributes:
        model: the detector with its weights and input statistics. `model.model` is torchvision's: called with images
            `(3, H, W)` float in [0, 1] it resizes and normalizes them as the run did, and finds what `predict` finds;
            its labels are columns, which with `unused_ids=keep` are category ids.
        architecture: its name, `fasterrcnn:BACKBONE`.
        classes: class names; label i + 1 is `classes[i]`, 0 the background.
        category_ids: COCO's id of each class.
        image_size: pixels of the short side that images were scored with.
        max_side: what the long side had at most.
    """

    model: Detector
    architecture: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: int
    max_side: int


def save_detector(
    model: Detector,
    directory: str | Path,
    *,
    architecture: str,
    classes: Sequence[str],
    category_ids: Sequence[int],
    image_size: int,
    max_side: int,
    options: DetectionOptions,
) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; the arguments as in `LoadedDetector`.

    `options` are those that the model was built with.
    """
    config = {
        "task": "detection",
        "architecture": architecture,
        "label_names": list(classes),
        "category_ids": list(category_ids),
        "columns": model.columns.tolist(),
        "width": model.width,
        "unused": model.unused,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "image_size": image_size,
        "max_side": max_side,
        "options": options.model_dump(),
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.model.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2).encode("ascii"))


def load_detector(directory: str | Path) -> LoadedDetector:
    """Read a folder that `save_detector` wrote.

    Raises:
        ValueError: a missing or damaged file, a folder of another task, or weights that do not fit.
    """
    folder = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no detector's folder: {name} is missing")
    check_run_files(folder, (CONFIG, WEIGHTS))
    config = _read_config(folder / CONFIG)
    with torch.random.fork_rng(devices=[]):  # reading a model must not change how the next one starts
        model = build_detector(
            config.architecture.removeprefix(FASTER_RCNN), columns=config.width, options=config.options
        )
    load_weights(model, folder / WEIGHTS)
    model.transform = Transform(config.image_size, config.max_side, config.mean, config.std)
    detector = Detector(model, mean=config.mean, std=config.std, columns=config.columns, unused=config.unused).eval()
    return LoadedDetector(
        detector,
        config.architecture,
        tuple(config.label_names),
        tuple(config.category_ids),
        config.image_size,
        config.max_side,
    )


class _Config(BaseModel):
    """What `config.json` of a detector's folder holds; arguments as in `LoadedDetector`."""

    model_config = ConfigDict(strict=True)

    architecture: Annotated[str, Field(pattern=f"^{FASTER_RCNN}.")]
    label_names: Annotated[list[str], Field(min_length=1)]
    category_ids: list[int]
    columns: list[Annotated[int, Field(ge=0)]]
    width: Annotated[int, Field(ge=2, le=1_000_000)]
    unused: bool
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Positive, _Positive, _Positive]
    image_size: _Side
    max_side: _Side
    options: DetectionOptions

    @model_validator(mode="after")
    def _agree(self) -> _Config:
        count = len(self.label_names)
        for name, values, wanted in (("category_ids", self.category_ids, count), ("columns", self.columns, count + 1)):
            if len(values) != wanted:
                raise ValueError(f"{name}: expected {wanted} for {count} classes, got {len(values)}")
        if max(self.columns) >= self.width:
            raise ValueError(f"columns: expected numbers below width, {self.width}, got {max(self.columns)}")
        return self


def _read_config(file: Path) -> _Config:
    content = file.read_bytes()
    try:
        config = from_json(content)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: expected an object, got {type(config).__name__}")
    if config.get("task") != "detection":
        raise ValueError(f"{file.parent} holds a classifier ({config.get('architecture')}), expected a detector")
    try:
        return _Config.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{file} is damaged: {expectation(_Config, error)}") from None
