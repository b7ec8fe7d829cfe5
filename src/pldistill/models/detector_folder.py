"""A trained detector as a folder: torchvision's weights in `model.safetensors`, the rest in `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from pldistill.files import write_atomically
from pldistill.methods.base import Option
from pldistill.models.checkpoints import load_weights
from pldistill.models.detector import Detector, build_detector
from pldistill.models.folder import CONFIG, WEIGHTS
from pldistill.specs import FASTER_RCNN
from pldistill.task_options import TASKS


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a folder, in eval mode, with what is needed to use it.

    Attributes:
        net: the detector with its weights and input statistics.
        architecture: its name, `fasterrcnn:BACKBONE`.
        classes: class names; label i + 1 is `classes[i]`, 0 the background.
        category_ids: COCO's id of each class.
        image_size: pixels of the short side that pictures were scored with.
        max_side: what the long side had at most.
    """

    net: Detector
    architecture: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: int
    max_side: int


def save_detector(
    net: Detector,
    directory: str | Path,
    *,
    architecture: str,
    classes: Sequence[str],
    category_ids: Sequence[int],
    image_size: int,
    max_side: int,
    options: Mapping[str, Option],
) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all; the arguments as in `LoadedDetector`.

    `options` are those that the net was built with, of `task_options.DETECTION`.
    """
    config = {
        "task": "detection",
        "architecture": architecture,
        "label_names": list(classes),
        "category_ids": list(category_ids),
        "columns": net.columns.tolist(),
        "width": net.width,
        "unused": net.unused,
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
        "image_size": image_size,
        "max_side": max_side,
        "options": dict(options),
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in net.model.state_dict().items()}
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
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("task") != "detection":
            raise ValueError(f"{folder} holds a classifier ({config.get('architecture')}), expected a detector")
        backbone = config["architecture"].removeprefix(FASTER_RCNN)
        options = TASKS["detection"].complete(config["options"])
        about = {name: config[name] for name in ("mean", "std", "columns", "unused")}
        width, image_size, max_side = (int(config[name]) for name in ("width", "image_size", "max_side"))
        classes, ids = tuple(config["label_names"]), tuple(config["category_ids"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error!r}") from error
    with torch.random.fork_rng(devices=[]):  # reading a net must not change how the next one starts
        model = build_detector(backbone, columns=width, options=options)
    load_weights(model, folder / WEIGHTS)
    net = Detector(model, **about).eval()
    return LoadedDetector(net, config["architecture"], classes, ids, image_size, max_side)
