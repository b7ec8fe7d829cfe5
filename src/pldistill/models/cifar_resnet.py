"""The ResNets of the CIFAR distillation tables, with the state-dict keys of their public checkpoints.

Two families share one frame: three stages of basic blocks (He et al. 2016, section 4.2; "x4" nets are four times
wider) and four stages of bottlenecks (the ResNet-50 with a 3x3 stem and no max-pooling).
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from pldistill.models.cifar import CifarNet, cifar_cfg, conv_bn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU after the sum."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == width
        self.downsample = None if same else conv_bn(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (it carries the stride), 1x1 to four times the width; ReLU after the sum."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu3 = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))


class CifarResNet(CifarNet):
    """A 3x3 stem and stages `layer1..` that halve the picture from the second on.

    Stages for taps: `relu` (the stem), `layer1`, ... all after ReLU.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        classifier: str = "fc",
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(num_classes, widths[-1] * block.expansion, classifier, in_chans)
        stem, *widths_of_stages = widths
        self.conv1 = nn.Conv2d(in_chans, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": stem, "reduction": 1, "module": "relu"}]
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        inputs = stem
        for index, (name, count, width) in enumerate(zip(self.stages, blocks, widths_of_stages, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            outputs = width * block.expansion
            layers = [block(inputs if i == 0 else outputs, width, stride) for i, stride in enumerate(strides)]
            self.add_module(name, nn.Sequential(*layers))
            self.feature_info.append({"num_chs": outputs, "reduction": 2**index, "module": name})
            inputs = outputs
        self.init_convolutions()
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x


default_cfgs = generate_default_cfgs(
    {
        **{name: cifar_cfg() for name in ("resnet8", "resnet20", "resnet56", "resnet8x4", "resnet32x4")},
        "cifar_resnet50": cifar_cfg(classifier="linear", pool_size=(4, 4)),
    }
)


def _build(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    feature_cfg = {"feature_cls": "hook", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _basic(variant: str, pretrained: bool, depth: int, widths: tuple[int, ...], **kwargs: Any) -> CifarResNet:
    blocks = ((depth - 2) // 6,) * 3
    return _build(variant, pretrained, block=BasicBlock, blocks=blocks, widths=widths, **kwargs)


@register_model
def resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Depth 8, widths 16-32-64: a net for demonstrations."""
    return _basic("resnet8", pretrained, 8, (16, 16, 32, 64), **kwargs)


@register_model
def resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Depth 20, widths 16-32-64 (He et al. 2016, section 4.2)."""
    return _basic("resnet20", pretrained, 20, (16, 16, 32, 64), **kwargs)


@register_model
def resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Depth 56, widths 16-32-64 (He et al. 2016, section 4.2)."""
    return _basic("resnet56", pretrained, 56, (16, 16, 32, 64), **kwargs)


@register_model
def resnet8x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Depth 8, widths 64-128-256 on a stem of 32."""
    return _basic("resnet8x4", pretrained, 8, (32, 64, 128, 256), **kwargs)


@register_model
def resnet32x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Depth 32, widths 64-128-256 on a stem of 32."""
    return _basic("resnet32x4", pretrained, 32, (32, 64, 128, 256), **kwargs)


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-50 for 32x32 pictures: 3x3 stem of stride 1, no max-pooling, stages 3-4-6-3."""
    shape = {"blocks": (3, 4, 6, 3), "widths": (64, 64, 128, 256, 512), "classifier": "linear"}
    return _build("cifar_resnet50", pretrained, block=Bottleneck, **shape, **kwargs)
