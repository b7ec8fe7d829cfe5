"""What the CIFAR nets share: timm's manners (features, head, classifier) and the papers' initialisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


def cifar_cfg(**changes: Any) -> dict[str, Any]:
    """timm's description of a net without published weights for 32x32 pictures of 100 classes."""
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
    """A classifier as timm expects it; a net adds its layers, its first head and `forward_features`."""

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
        """How a new head starts; torch's own way unless a net says otherwise."""

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Give the net a fresh head (0 classes: none) on maps pooled by `global_pool` (empty: the map itself)."""
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
