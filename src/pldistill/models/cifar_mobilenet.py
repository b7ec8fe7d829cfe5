"""The half-width MobileNetV2 of the CIFAR distillation tables (Sandler et al. 2018, with three changes).

ReLU in place of ReLU6, an expansion convolution even where the expansion is 1, and stride 1 in the second group.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from pldistill.models.cifar import CifarNet, cifar_cfg

# expansion, outputs at full width, blocks, stride of the first block
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPPED_GROUPS = {1: 2, 2: 4, 4: 8, 6: 16}  # group: how much smaller than the picture its maps are


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


default_cfgs = generate_default_cfgs(
    {"cifar_mobilenetv2": cifar_cfg(pool_size=(2, 2), first_conv="conv1.0", classifier="classifier.0")}
)


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> CifarMobileNetV2:
    """MobileNetV2 of half width."""
    feature_cfg = {"feature_cls": "hook", "out_indices": (0, 1, 2, 3, 4)}
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, feature_cfg=feature_cfg, **kwargs)
