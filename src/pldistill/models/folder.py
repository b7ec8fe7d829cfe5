"""A trained model as a folder in timm's own layout: `model.safetensors` and `config.json`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` reads it without this library, once our models are registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import Field
from safetensors.torch import save
from timm.models import is_model
from torch import nn

from pldistill.files import check_run_files, write_atomically
from pldistill.json_files import JsonFile, Number, read_json
from pldistill.models.build import pretrained_cfg
from pldistill.models.checkpoints import load_weights
from pldistill.paths import kind_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# these speak of the weights that the model may have started from
OF_THE_SOURCE = {
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load", "label_offset",
    "label_names", "label_descriptions", "test_input_size", "test_crop_pct", "test_pool_size", "min_input_size",
    "pool_size", "description", "origin_url", "paper_name", "paper_ids", "notes", "architecture",
}  # fmt: skip


_Classes = Annotated[int, Field(ge=1, le=10_000_000)]
_Side = Annotated[int, Field(ge=1, le=16_384)]
_Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PretrainedCfgFile(JsonFile):
    """What timm's `pretrained_cfg` in a config.json must hold."""

    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[_Deviation], Field(min_length=3, max_length=3)]
    input_size: Annotated[list[_Side], Field(min_length=3, max_length=3)]
    num_classes: _Classes | None = None
    fixed_input_size: bool = False


class ConfigFile(JsonFile):
    """What a config.json in timm's layout must hold."""

    architecture: str
    pretrained_cfg: PretrainedCfgFile
    num_classes: _Classes | None = None
    label_names: list[str | int] | None = None
    model_args: dict[str, Any] | None = None
    pldistill: dict[str, Any] | None = None


@dataclass(frozen=True)
class LoadedFolder:
    """A model read from a folder, in eval mode, with what is needed to use it.

    Attributes:
        model: the model with its weights.
        architecture: its name.
        classes: class names in the order of the logits.
        mean: channel means of images in [0, 1].
        std: channel standard deviations.
        image_size: pixels of a side.
        extra: what `save_folder` was given besides.
    """

    model: nn.Module
    architecture: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    extra: dict[str, Any]


def save_folder(
    model: nn.Module,
    directory: str | Path,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    resized_to: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `model.safetensors` and `config.json`, each whole or not at all.

    Args:
        model: a model of timm's or ours (`model.model`, not the `NormalizedModel`).
        directory: made if it is not there; other files in it are left alone.
        classes: names in the order of the logits.
        mean: channel means of images in [0, 1] that the model was trained with.
        std: channel standard deviations.
        image_size: pixels of a side.
        resized_to: pixels of the short side before the center is cut out, in evaluation; None for `image_size`.
        extra: more to keep in the configuration (JSON values).

    Raises:
        ValueError: a model that timm did not build, or as many names as the head has not classes.
    """
    inputs = {
        "input_size": [3, image_size, image_size],
        "mean": list(mean),
        "std": list(std),
        "crop_pct": crop_part(image_size, resized_to or image_size),
        "crop_mode": "center",
        "interpolation": "bicubic",
    }
    config = {**_describe(model, classes, inputs), "pldistill": dict(extra or {})}
    if not _is_timms(config["architecture"]):
        config["note"] = f"{config['architecture']} is known to timm once pldistill.models is imported"
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    # copies, because safetensors takes neither other memory formats nor shared storage
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2).encode("ascii"))


def crop_part(size: int, short: int) -> float:
    """timm's `crop_pct` for which its evaluation resizes the short side to `short` before it cuts `size`.

    timm resizes to floor(size / crop_pct): half a pixel more than `short` stands clear of the rounding.
    """
    return 1.0 if short == size else size / (short + 0.5)


def _is_timms(architecture: str) -> bool:
    """Whether timm has the architecture without this package."""
    return not timm.models.model_entrypoint(architecture).__module__.startswith(__name__.partition(".")[0])


def _describe(model: nn.Module, classes: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """timm's `config.json`."""
    cfg = pretrained_cfg(model)
    num_classes = int(getattr(model, "num_classes", -1))
    if len(classes) != num_classes:
        raise ValueError(f"classes has {len(classes)} names, the model {num_classes} classes")
    kept = {key: value for key, value in cfg.items() if key not in OF_THE_SOURCE}
    return {
        "architecture": cfg["architecture"],
        "num_classes": num_classes,
        "num_features": getattr(model, "num_features", None),
        "label_names": list(classes),
        "pretrained_cfg": {**kept, **inputs, "num_classes": num_classes, "custom_load": False},
    }


def load_folder(directory: str | Path) -> LoadedFolder:
    """Read a folder that `save_folder` or timm's `save_for_hf` wrote.

    Classes without names (timm's own folders) are called by their numbers, `"0"`, `"1"`, ...

    Where it is a finished run's, its files must have the SHA-256 that the run's result.json has of them.

    Raises:
        ValueError: a missing or damaged file, an unknown architecture, or weights that do not fit it.
    """
    folder = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if kind_of(folder / name) is None:
            raise ValueError(f"{folder} is no model folder: {name} is missing")
    check_run_files(folder, (CONFIG, WEIGHTS))
    where = f"{folder / CONFIG} is damaged or not timm's layout"
    config = read_json(folder / CONFIG, ConfigFile, where)
    architecture, cfg = config.architecture, config.pretrained_cfg
    num_classes, image_size = config.num_classes or cfg.num_classes, cfg.input_size[-1]
    names = config.label_names or range(num_classes or 0)
    if num_classes is None or len(names) != num_classes:
        raise ValueError(f"{where}: expected as many label_names as num_classes, got {len(names)} and {num_classes}")
    if not is_model(architecture):
        raise ValueError(f"{folder / CONFIG} names the unknown architecture {architecture!r}")
    arguments = dict(config.model_args or {})
    if cfg.fixed_input_size:
        arguments.setdefault("img_size", image_size)
    with torch.random.fork_rng(devices=[]):  # reading a model must not change how the next one starts
        try:
            model = timm.create_model(architecture, **{**arguments, "num_classes": num_classes})
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, AttributeError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"{where}: expected arguments of {architecture}, got {arguments!r}: {reason}") from error
    load_weights(model, folder / WEIGHTS)
    classes = tuple(str(name) for name in names)
    extra = config.pldistill or {}
    mean, std = tuple(cfg.mean), tuple(cfg.std)
    return LoadedFolder(model.eval(), architecture, classes, mean, std, image_size, extra)
