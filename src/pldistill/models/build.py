"""Build a classifier by name: ours or any of timm's, with weights whose head fits or not at all."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_pretrained
from torch import nn

from pldistill.models.checkpoints import HeadSizeError, load_weights
from pldistill.models.cifar import default_cfgs as cifar_cfgs

OWN_NAMES = tuple(cifar_cfgs)


def list_models(pattern: str | None = None) -> list[str]:
    """Names that `build` knows: our CIFAR models, or, given a pattern (`"resnet*"`), those and timm's that match it."""
    if pattern is None:
        return list(OWN_NAMES)
    names = timm.list_models(pattern)
    return sorted(names, key=lambda name: (name not in OWN_NAMES, names.index(name)))


def build(
    name: str,
    *,
    num_classes: int,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    new_head: bool = False,
    image_size: int | None = None,
) -> nn.Module:
    """Build a classifier of `num_classes` by its name, ours or timm's (`resnet20`, `resnet50.a1_in1k`).

    Args:
        name: one of `list_models("*")`; a timm tag after a dot chooses among published weights.
        num_classes: outputs of the head, at least 1.
        pretrained: load timm's published weights (downloaded once by timm).
        checkpoint: load these weights: a safetensors or torch file, or a run folder (see `load_weights`).
        new_head: keep the loaded body and start with a fresh head; without it a head that does not fit is an error.
        image_size: pixels of a side; models with a fixed input size (vision transformers) are built for it, all others
            take any size and ignore it.

    Raises:
        ValueError: an unknown name or tag, a head that does not fit, weights that do not exist, cannot be fetched or
            do not match the model, or a size that the model cannot take.
    """
    architecture = _known(name)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if pretrained and checkpoint is not None:
        raise ValueError(f"give pretrained=True or a checkpoint, not both (model {name!r}, checkpoint {checkpoint})")
    if new_head and not pretrained and checkpoint is None:
        raise ValueError(f"new_head=True needs pretrained=True or a checkpoint: {name!r} without weights starts fresh")
    arguments = _size_arguments(name, image_size)
    if pretrained:
        return _build_pretrained(name, architecture, num_classes, new_head, arguments)
    model = _create(name, num_classes=num_classes, **arguments)
    if checkpoint is not None:
        load_weights(model, checkpoint, new_head=new_head)
    return model


def count_parameters(model: nn.Module) -> int:
    """How many parameters the model has, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def require_tag(name: str) -> None:
    """Check that a pretrained teacher names its weights: `resnet152.a1_in1k`, not `resnet152`.

    Raises:
        ValueError: no tag (timm's tags for the architecture are listed), or a model without published weights.
    """
    architecture = _known(name)
    tagged = [each for each in list_pretrained(f"{architecture}.*") if "." in each]
    if not tagged:
        raise ValueError(f"{name!r} has no published weights: give a run folder or a checkpoint")
    if name not in tagged:
        raise ValueError(f"pretrained {name!r} must name its weights: {', '.join(tagged)}; or give a checkpoint")


@dataclass(frozen=True)
class Published:
    """What timm says about published weights: classes of the head, the side of the images, names of the classes.

    `classes` are ImageNet's synsets, told by their number as timm does, or None; `names` has a class's index by its
    first word, where that is no other's.
    """

    num_classes: int
    image_size: int
    classes: tuple[str, ...] | None
    names: dict[str, int]


def about_pretrained(name: str) -> Published:
    """Look a tagged name up; nothing is downloaded."""
    cfg = get_pretrained_cfg(name)
    assert cfg is not None  # require_tag knows the name
    subset = infer_imagenet_subset({"num_classes": cfg.num_classes})
    info = None if subset is None else ImageNetInfo(subset)
    classes = None if info is None else tuple(info.label_names())
    names = {} if info is None else _first_names(info, cfg.num_classes)
    return Published(cfg.num_classes, cfg.input_size[-1], classes, names)


def _first_names(info: ImageNetInfo, count: int) -> dict[str, int]:
    """The first word for each class, `tench`, where it stands for one class alone."""
    firsts = [info.index_to_description(index).partition(",")[0] for index in range(count)]
    return {name: index for index, name in enumerate(firsts) if firsts.count(name) == 1}


def pretrained_statistics(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations (of images in [0, 1]) that timm states for the model's weights."""
    cfg = pretrained_cfg(model)
    return tuple(cfg["mean"]), tuple(cfg["std"])


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """timm's description of the model; ValueError for a model that timm did not build."""
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, dict):
        raise ValueError(f"expected a model built by timm or pldistill.models.build, got {type(model).__name__}")
    return cfg


def _known(name: str) -> str:
    """The architecture part of a known name."""
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise ValueError(_unknown(name, architecture))
    tags = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        known = ", ".join(sorted(tags)) if set(tags) - {architecture} else "none"
        raise ValueError(f"unknown weights {tag!r} of model {architecture!r}; known: {known}")
    return architecture


def _unknown(name: str, architecture: str) -> str:
    ours = difflib.get_close_matches(architecture, OWN_NAMES, n=3, cutoff=0.5)
    others = difflib.get_close_matches(architecture, set(timm.list_models()) - set(OWN_NAMES), n=3, cutoff=0.6)
    near = f"did you mean {', '.join(ours + others)}? " if ours + others else ""
    return f"unknown model {name!r}; {near}ours: {', '.join(OWN_NAMES)}; and every classifier of timm by its name"


def _size_arguments(name: str, image_size: int | None) -> dict[str, int]:
    if image_size is None:
        return {}
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    cfg = get_pretrained_cfg(name)
    return {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}


def _create(name: str, **arguments: Any) -> nn.Module:
    """timm.create_model; what it says about a size it cannot take becomes a ValueError."""
    if "img_size" not in arguments:
        return timm.create_model(name, **arguments)
    size = arguments["img_size"]
    try:
        model = timm.create_model(name, **arguments)
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"model {name!r} cannot be built for image_size {size}: {reason}") from error
    return model.train()


def _build_pretrained(
    name: str, architecture: str, num_classes: int, new_head: bool, arguments: dict[str, int]
) -> nn.Module:
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"{name!r} has no published weights; train it, or give a run folder or a checkpoint")
    if cfg.num_classes != num_classes and not new_head:
        raise HeadSizeError(
            f"the published weights of {name!r} have a head of {cfg.num_classes} classes, not {num_classes}; "
            f"new_head=True (--new-head) starts a fresh head of {num_classes} on the pretrained body",
            cfg.num_classes,
        )
    try:
        model = _create(name, pretrained=True, num_classes=num_classes, **arguments)
    except OSError as error:
        raise ValueError(
            f"the weights of {name!r} are not on this machine and could not be fetched "
            f"({type(error).__name__}): download them once with a network, or give a checkpoint"
        ) from error
    if new_head and cfg.num_classes == num_classes:
        reset: Any = model.reset_classifier  # every timm classifier has it
        reset(num_classes)
    return model
