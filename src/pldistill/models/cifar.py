"""The models of the CIFAR distillation tables, with the state-dict keys of their public checkpoints.

- ResNets (He et al. 2016, section 4.2): two families in one frame, three stages of basic blocks ("x4" models are four
  times wider) and four stages of bottlenecks (the ResNet-50 with a 3x3 stem and no max-pooling).
- Wide residual models (Zagoruyko and Komodakis 2016): pre-activation blocks, depth 6n + 4.
- The half-width MobileNetV2 (Sandler et al. 2018, with three changes: ReLU in place of ReLU6, an expansion convolution
  even where the expansion is 1, and stride 1 in the second group).

All share timm's manners (features, head, classifier) and their papers' initialization.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


def cifar_cfg(**changes: Any) -> dict[str, Any]:
    """timm's description of a model without published weights for 32x32 images of 100 classes."""
    cfg = {
        "url": "",
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "mean": CIFAR100_MEAN,
        "std": CIFAR100_STD,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return cfg | changes


def conv_bn(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1x1 projection for a shortcut whose shape changes."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class CifarNet(nn.Module, ABC):
    """A classifier as timm expects it; a model adds its layers, its first head and `forward_features`."""

    global_pool: SelectAdaptivePool2d

    def __init__(self, num_classes: int, num_features: int, classifier: str, in_chans: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features
        self.classifier_name = classifier
        self.in_chans = in_chans  # timm's training tasks ask for it
        self.feature_info: list[dict[str, Any]] = []

    def init_convolutions(self) -> None:
        """Convolutions ~ N(0, 2 / (k² · outputs)); BatchNorm 1 and 0 (He et al. 2015, fan-out)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def init_classifier(self) -> None:
        """How a new head starts; torch's own way unless a model says otherwise."""

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Give the model a fresh head (0 classes: none) on maps pooled by `global_pool` (empty: the map itself)."""
        if num_classes > 0 and not global_pool:
            raise ValueError(f"a head of {num_classes} classes needs pooled maps, got global_pool {global_pool!r}")
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        features = self.num_features * self.global_pool.feat_mult()
        head = nn.Linear(features, num_classes) if num_classes > 0 else nn.Identity()
        parent, _, name = self.classifier_name.rpartition(".")
        self.get_submodule(parent).add_module(name, head)
        self.init_classifier()

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """The map `(N, num_features, H, W)` before pooling."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


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
    """A 3x3 stem and stages `layer1..` that halve the image from the second on.

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
        **{name: cifar_cfg() for name in ("wrn_40_1", "wrn_40_2")},
        "cifar_mobilenetv2": cifar_cfg(pool_size=(2, 2), first_conv="conv1.0", classifier="classifier.0"),
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
    """Depth 8, widths 16-32-64: a model for demonstrations."""
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
    """ResNet-50 for 32x32 images: 3x3 stem of stride 1, no max-pooling, stages 3-4-6-3."""
    shape = {"blocks": (3, 4, 6, 3), "widths": (64, 64, 128, 256, 512), "classifier": "linear"}
    return _build("cifar_resnet50", pretrained, block=Bottleneck, **shape, **kwargs)


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; a changed shape is projected after the first ReLU, without BatchNorm.

    The output is the bare sum: it can be negative.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        # the name is the public checkpoints'
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return self.conv2(self.relu2(self.bn2(self.conv1(activated)))) + shortcut


class Stage(nn.Module):
    """`count` blocks; the first one changes width and size."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = PreActivationBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(CifarNet):
    """Stem, three stages, BatchNorm, ReLU, average.

    Stages for taps: `conv1` (the stem), `block1`, `block2`, `block3`, none of them activated.
    """

    def __init__(
        self, depth: int, width: int, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
    ) -> None:
        super().__init__(num_classes, 64 * width, "fc", in_chans)
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.block1 = Stage(count, 16, 16 * width, 1)
        self.block2 = Stage(count, 16 * width, 32 * width, 2)
        self.block3 = Stage(count, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.feature_info = [
            {"num_chs": 16, "reduction": 1, "module": "conv1"},
            {"num_chs": 16 * width, "reduction": 1, "module": "block1"},
            {"num_chs": 32 * width, "reduction": 2, "module": "block2"},
            {"num_chs": 64 * width, "reduction": 4, "module": "block3"},
        ]
        self.init_convolutions()
        self.reset_classifier(num_classes, global_pool)

    def init_classifier(self) -> None:
        head = self.get_classifier()
        if isinstance(head, nn.Linear):
            nn.init.zeros_(head.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.relu(self.bn1(x))


def _wide(variant: str, pretrained: bool, width: int, **kwargs: Any) -> WideResNet:
    feature_cfg = {"feature_cls": "hook", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(
        WideResNet, variant, pretrained, feature_cfg=feature_cfg, depth=40, width=width, **kwargs
    )


@register_model
def wrn_40_1(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Depth 40, width 1."""
    return _wide("wrn_40_1", pretrained, 1, **kwargs)


@register_model
def wrn_40_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Depth 40, width 2."""
    return _wide("wrn_40_2", pretrained, 2, **kwargs)


# expansion, outputs at full width, blocks, stride of the first block
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPPED_GROUPS = {1: 2, 2: 4, 4: 8, 6: 16}  # group: how much smaller than the image its maps are


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 in each channel, 1x1 down without an activation; a sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class CifarMobileNetV2(CifarNet):
    """Stem of stride 2, seven groups of inverted residuals, a 1x1 convolution to 1280, average.

    Stages for taps: `conv1` (the stem, after ReLU), then the un-activated outputs of groups 1, 2, 4 and 6.
    """

    def __init__(self, width: float = 0.5, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__(num_classes, 1280, "classifier.0", in_chans)
        inputs = int(32 * width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_chans, inputs, 3, 2, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        )
        self.feature_info = [{"num_chs": inputs, "reduction": 2, "module": "conv1"}]
        self.blocks = nn.Sequential()
        for index, (expansion, channels, count, stride) in enumerate(GROUPS):
            outputs = int(channels * width)
            first = InvertedResidual(inputs, outputs, stride, expansion)
            rest = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(count - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            if index in TAPPED_GROUPS:
                info = {"num_chs": outputs, "reduction": TAPPED_GROUPS[index], "module": f"blocks.{index}"}
                self.feature_info.append(info)
            inputs = outputs
        self.conv2 = nn.Sequential(
            nn.Conv2d(inputs, self.num_features, 1, bias=False),
            nn.BatchNorm2d(self.num_features),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential()
        self.init_convolutions()
        self.reset_classifier(num_classes, global_pool)

    def init_classifier(self) -> None:
        head = self.get_classifier()
        if isinstance(head, nn.Linear):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv2(self.blocks(self.conv1(x)))


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> CifarMobileNetV2:
    """MobileNetV2 of half width."""
    feature_cfg = {"feature_cls": "hook", "out_indices": (0, 1, 2, 3, 4)}
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, feature_cfg=feature_cfg, **kwargs)
