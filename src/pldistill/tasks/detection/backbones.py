"""The bodies of detectors: torchvision's ResNets and MobileNetV2, or timm's models; maps at strides 4, 8, 16, 32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timm.layers import freeze_batch_norm_2d
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from pldistill.specs import unknown

STRIDES = (4, 8, 16, 32)
_STAGES = ("layer1", "layer2", "layer3", "layer4")
# Of MobileNetV2 the last block of each stride, as the public code for DKD on COCO has it: 24, 32, 96, 320 channels.
TORCHVISION: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _STAGES),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"), _STAGES),
    "mobilenet_v2": ("3", "6", "13", "17"),
}


class Backbone(NamedTuple):
    """What a pyramid stands on.

    Attributes:
        model: from images to its maps at `STRIDES`, as a list.
        channels: of each map.
        stages: names of the modules in it that the maps come out of.
    """

    model: nn.Module
    channels: list[int]
    stages: list[str]

    def freeze(self, trainable: int) -> None:
        """Fix all but the last `trainable` of five parts: what is before the first stage, and the four stages."""
        part, after = 0, 0
        for name, parameter in self.model.named_parameters():
            here = [number for number, stage in enumerate(self.stages, 1) if name.startswith(f"{stage}.")]
            part, after = (here[0], here[0] + 1) if here else (after, after)
            parameter.requires_grad_(part >= 5 - trainable)


class _Cut(nn.ModuleDict):
    """torchvision's layers up to the last stage, under their own names."""

    def __init__(self, layers: nn.Module, stages: Sequence[str]) -> None:
        super().__init__(dict(IntermediateLayerGetter(layers, {stage: stage for stage in stages}).items()))
        self.stages = tuple(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for name, layer in self.items():
            images = layer(images)
            if name in self.stages:
                maps.append(images)
        return maps


def build_backbone(name: str, *, pretrained: bool, norm: str) -> Backbone:
    """Build a body by its model's name, torchvision's before timm's.

    Args:
        name: one of `TORCHVISION`, or a timm model that takes images of any size.
        pretrained: start from the published ImageNet weights, which are fetched once.
        norm: "batch" as the model has it; "frozen", whose statistics stay what they are; "group" in place of each.

    Raises:
        ValueError: an unknown model, one without maps at these strides, or weights that cannot be had.
    """
    if pretrained and norm == "group":
        raise ValueError("task option norm: expected batch or frozen with pretrained weights, which have no group norm")
    try:
        body = (_torchvision if name in TORCHVISION else _timm)(name, pretrained)
    except OSError as error:
        raise ValueError(
            f"the weights of {name!r} are not on this machine and could not be fetched ({type(error).__name__}): "
            "download them once with a network, or give a checkpoint"
        ) from error
    return body._replace(model=with_norm(body.model, norm))


def _torchvision(name: str, pretrained: bool) -> Backbone:
    model: Any = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    layers, stages = model.features if name == "mobilenet_v2" else model, TORCHVISION[name]
    return Backbone(_Cut(layers, stages), [_width(layers.get_submodule(stage)) for stage in stages], list(stages))


def _width(stage: nn.Module) -> int:
    """Channels of what a stage gives: those of its last convolution on the main path."""
    blocks = [layer for layer in stage.modules() if isinstance(layer, BasicBlock | Bottleneck | InvertedResidual)]
    last = blocks[-1].conv if isinstance(blocks[-1], InvertedResidual) else blocks[-1]
    return [layer.out_channels for layer in last.modules() if isinstance(layer, nn.Conv2d)][-1]


def _timm(name: str, pretrained: bool) -> Backbone:
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise ValueError(unknown("backbone", name, [*TORCHVISION, *timm.list_models()]))
    if tag and name not in (tags := get_arch_pretrained_cfgs(architecture)):
        raise ValueError(unknown(f"weights of backbone {architecture}:", name, tags))
    cfg = get_pretrained_cfg(name)
    assert cfg is not None  # timm knows the model
    if cfg.fixed_input_size:
        raise ValueError(f"backbone {name!r}: expected a model that takes images of any size")
    if pretrained and not cfg.has_weights:
        raise ValueError(f"backbone {name!r} has no published weights")
    try:
        with torch.device("meta"):
            listed: Any = timm.create_model(name, features_only=True).feature_info
    except RuntimeError as error:  # timm's word for a model without stages
        raise ValueError(
            f"backbone {name!r}: expected a model with stages, got {str(error).splitlines()[0]}"
        ) from error
    found = {info["reduction"]: number for number, info in enumerate(listed.info)}
    if not set(STRIDES) <= set(found):
        raise ValueError(f"backbone {name!r}: expected maps at strides 4, 8, 16 and 32, got {sorted(found)}")
    picked = tuple(found[stride] for stride in STRIDES)
    model = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=picked)
    modules, names = [listed.info[number]["module"] for number in picked], dict(model.named_modules())
    stages = [module if module in names else module.replace(".", "_") for module in modules]
    return Backbone(model, [listed.info[number]["num_chs"] for number in picked], stages)


def with_norm(module: nn.Module, norm: str) -> nn.Module:
    """The module with its batch normalizations as they are, frozen, or group normalizations in their place."""
    if norm == "batch":
        return module
    return freeze_batch_norm_2d(module) if norm == "frozen" else _grouped(module)


def _grouped(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            group: Any = nn.GroupNorm(math.gcd(32, channels), channels)
            if isinstance(child, BatchNormAct2d):
                group = GroupNormAct(channels, math.gcd(32, channels))
                group.drop, group.act = child.drop, child.act
            module.add_module(name, group)
        else:
            _grouped(child)
    return module
