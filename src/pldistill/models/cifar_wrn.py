"""Wide residual nets (Zagoruyko and Komodakis 2016): pre-activation blocks, depth 6n + 4."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from pldistill.models.cifar import CifarNet, cifar_cfg


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


default_cfgs = generate_default_cfgs({"wrn_40_1": cifar_cfg(), "wrn_40_2": cifar_cfg()})


def _build(variant: str, pretrained: bool, width: int, **kwargs: Any) -> WideResNet:
    feature_cfg = {"feature_cls": "hook", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(
        WideResNet, variant, pretrained, feature_cfg=feature_cfg, depth=40, width=width, **kwargs
    )


@register_model
def wrn_40_1(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Depth 40, width 1."""
    return _build("wrn_40_1", pretrained, 1, **kwargs)


@register_model
def wrn_40_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Depth 40, width 2."""
    return _build("wrn_40_2", pretrained, 2, **kwargs)
