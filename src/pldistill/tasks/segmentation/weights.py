"""A trained segmentation model as a folder: torchvision's weights in `model.safetensors`, the rest in `config.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save

from pldistill.files import check_run_files, write_atomically
from pldistill.json_files import JsonFile, Number, read_json, read_object
from pldistill.models.checkpoints import put_weights, read_state
from pldistill.models.folder import CONFIG, WEIGHTS
from pldistill.paths import kind_of
from pldistill.tasks.segmentation.dataset import Size
from pldistill.tasks.segmentation.segmenter import Segmenter, build_segmenter
from pldistill.types import IGNORED

_Side = Annotated[int, Field(ge=1, le=16_384)]
_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Config(JsonFile):
    """What `config.json` must hold; arguments as in `save_segmenter`."""

    task: Literal["segmentation"]
    architecture: str
    label_names: Annotated[list[str], Field(min_length=1, max_length=IGNORED)]
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[_Deviation], Field(min_length=3, max_length=3)]
    image_size: _Side
    frame: Annotated[list[_Side], Field(min_length=2, max_length=2)]


@dataclass(frozen=True)
class LoadedSegmenter:
    """A segmentation model read from a folder, in eval mode, with what is needed to use it.

    Attributes:
        model: the model with its weights and input statistics.
        architecture: its name.
        classes: class names in the order of the logits.
        image_size: pixels of the short side that it was scored with.
        frame: height and width that it was scored with.
    """

    model: Segmenter
    architecture: str
    classes: tuple[str, ...]
    image_size: int
    frame: Size


def save_segmenter(
    model: Segmenter,
    directory: str | Path,
    *,
    architecture: str,
    classes: Sequence[str],
    image_size: int,
    frame: Size,
) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; the arguments as in `LoadedSegmenter`."""
    config: dict[str, Any] = {
        "task": "segmentation",
        "architecture": architecture,
        "label_names": list(classes),
        **model.statistics(),
        "image_size": image_size,
        "frame": list(frame),
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.model.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2).encode("ascii"))


def load_segmenter(directory: str | Path) -> LoadedSegmenter:
    """Read a folder that `save_segmenter` wrote.

    Raises:
        ValueError: a missing or damaged file, a folder of another task, or weights that do not fit.
    """
    folder = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if kind_of(folder / name) is None:
            raise ValueError(f"{folder} is no folder of a segmentation model: {name} is missing")
    check_run_files(folder, (CONFIG, WEIGHTS))
    if (task := read_object(folder / CONFIG).get("task")) != "segmentation":
        raise ValueError(f"{folder} holds a model of {task or 'classification'}, expected one of segmentation")
    config = read_json(folder / CONFIG, _Config, f"{folder / CONFIG} is damaged")
    with torch.random.fork_rng(devices=[]):  # reading a model must not change how the next one starts
        model = build_segmenter(config.architecture, len(config.label_names))
    put_weights(model, read_state(folder / WEIGHTS), folder / WEIGHTS)
    segmenter = Segmenter(model, mean=config.mean, std=config.std).eval()
    height, width = config.frame
    return LoadedSegmenter(
        segmenter, config.architecture, tuple(config.label_names), config.image_size, (height, width)
    )


def from_checkpoint(name: str, classes: int, checkpoint: str | Path, *, new_head: bool = False) -> Any:
    """Build a model and load a file of weights, or a run's folder, into it, all of it or all but the head.

    torchvision's published files hold an auxiliary head, which is left out.

    Raises:
        ValueError: what `load_weights` refuses.
    """
    model = build_segmenter(name, classes)
    path = Path(checkpoint)
    if path.is_dir():
        check_run_files(path, (CONFIG, WEIGHTS))
        path = path / WEIGHTS
    state = {key: value for key, value in read_state(path).items() if not key.startswith("aux_classifier.")}
    put_weights(model, state, path, new_head=new_head)
    return model
