"""The bodies of detectors: torchvision's ResNets and MobileNetV2, or timm's nets; maps at strides 4, 8, 16, 32."""

from __future__ import annotations

import math
from collections.abc import Mapping

import timm
import torchvision
from timm.layers import freeze_batch_norm_2d
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from pldistill.suggest import unknown

STRIDES = (4, 8, 16, 32)
_STAGES = ("layer1", "layer2", "layer3", "layer4")
# Of MobileNetV2 the last block of each stride, as the public code for DKD on COCO has it: 24, 32, 96, 320 channels.
TORCHVISION: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _STAGES),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"), _STAGES),
    "mobilenet_v2": ("3", "6", "13", "17"),
}


class Body(nn.ModuleDict):
    """A net cut after its last stage, its children in their order; gives what comes out of each stage, by number."""

    def __init__(self, layers: Mapping[str, nn.Module], stages: tuple[str, ...]) -> None:
        super().__init__({name: layers[name] for name in layers})
        self.stages = stages

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        for name, layer in self.items():
            images = layer(images)
            if name in self.stages:
                maps[str(len(maps))] = images
        return maps

    def freeze(self, trainable: int) -> None:
        """Fix all but the last `trainable` of five parts: what is before the first stage, and the four stages."""
        part = 0
        for name, layer in self.items():
            if name == self.stages[0]:
                part = 1
            layer.requires_grad_(part >= 5 - trainable)
            if name in self.stages:
                part = self.stages.index(name) + 2


def build_body(name: str, *, pretrained: bool, norm: str) -> tuple[Body, list[int]]:
    """Build a body by its net's name, torchvision's before timm's, and give its maps' channels.

    Args:
        name: one of `TORCHVISION`, or a timm net that takes pictures of any size.
        pretrained: start from the published ImageNet weights, which are fetched once.
        norm: "batch" as the net has it; "frozen", whose statistics stay what they are; "group" in place of each.

    Raises:
        ValueError: an unknown net, one without maps at these strides, or weights that cannot be had.
    """
    if pretrained and norm == "group":
        raise ValueError("task option norm: expected batch or frozen with pretrained weights, which have no group norm")
    try:
        body, channels = (_torchvision if name in TORCHVISION else _timm)(name, pretrained)
    except OSError as error:
        raise ValueError(
            f"the weights of {name!r} are not on this machine and could not be fetched ({type(error).__name__}): "
            "download them once with a network, or give a checkpoint"
        ) from error
    return with_norm(body, norm), channels


def _torchvision(name: str, pretrained: bool) -> tuple[Body, list[int]]:
    net = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    layers, stages = net.features if name == "mobilenet_v2" else net, TORCHVISION[name]
    kept = IntermediateLayerGetter(layers, {stage: stage for stage in stages})
    return Body(dict(kept.items()), stages), [_width(layers.get_submodule(stage)) for stage in stages]


def _width(stage: nn.Module) -> int:
    """Channels of what a stage gives: those of its last convolution."""
    return [layer.out_channels for layer in stage.modules() if isinstance(layer, nn.Conv2d)][-1]


def _timm(name: str, pretrained: bool) -> tuple[Body, list[int]]:
    architecture = name.partition(".")[0]
    if not is_model(architecture):
        raise ValueError(unknown("backbone", name, [*TORCHVISION, *timm.list_models()]))
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    if cfg is None or cfg.fixed_input_size:
        raise ValueError(f"backbone {name!r}: expected a net that takes pictures of any size")
    if pretrained and not cfg.has_weights:
        raise ValueError(f"backbone {name!r} has no published weights")
    try:
        net = timm.create_model(name, features_only=True, pretrained=pretrained)
    except RuntimeError as error:  # timm's word for a net without stages
        reason = str(error).partition("\n")[0]
        raise ValueError(f"backbone {name!r}: expected a net with stages: {reason}") from error
    found = {info["reduction"]: (info["module"], info["num_chs"]) for info in net.feature_info.info}
    if not set(STRIDES) <= set(found) or not isinstance(net, nn.ModuleDict):
        raise ValueError(f"backbone {name!r}: expected maps at strides 4, 8, 16 and 32, got {sorted(found)}")
    modules, channels = zip(*(found[stride] for stride in STRIDES), strict=True)
    stages = tuple(module.replace(".", "_") for module in modules)
    if not set(stages) <= set(net):
        raise ValueError(f"backbone {name!r}: expected its stages one after the other, got {', '.join(modules)}")
    return Body(dict(net.items()), stages), list(channels)


def with_norm(module: nn.Module, norm: str) -> nn.Module:
    """The module with its batch normalisations as they are, frozen, or group normalisations in their place."""
    if norm == "batch":
        return module
    return freeze_batch_norm_2d(module) if norm == "frozen" else _grouped(module)


def _grouped(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            group: nn.Module = nn.GroupNorm(math.gcd(32, channels), channels)
            if isinstance(child, BatchNormAct2d):
                group = GroupNormAct(channels, math.gcd(32, channels))
                group.drop, group.act = child.drop, child.act
            module.add_module(name, group)
        else:
            _grouped(child)
    return module
