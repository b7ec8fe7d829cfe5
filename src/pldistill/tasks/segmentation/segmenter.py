"""Segmentation models in two pieces, a backbone and a head that gives the map of logits; and how one is built by name.

torchvision's models resize that map to the image's size themselves. Here it is had as the head gives it, at its own
stride (8 or 16), where the two models are compared: an eighth of each side has a 64th of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torchvision
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import LRASPP

from pldistill.data.dataset import normalize
from pldistill.models import TaskModel
from pldistill.specs import unknown
from pldistill.types import MaskBatch, Outputs

LOGITS = "logits"  # the last stage: the map of logits, before it is resized
LR_ASPP = "lraspp:"  # before the name of a backbone
_LOW = 8  # stride of LR-ASPP's finer map
# By name, the modules that depend on the number of classes.
_LRASPP_HEAD = ("classifier.low_classifier", "classifier.high_classifier")
TORCHVISION: Mapping[str, tuple[str, ...]] = {
    "lraspp_mobilenet_v3_large": _LRASPP_HEAD,
    "deeplabv3_mobilenet_v3_large": ("classifier.4",),
    "deeplabv3_resnet50": ("classifier.4",),
    "fcn_resnet50": ("classifier.4",),
}


class TimmMaps(nn.Module):
    """A model of timm's that gives the two maps that LR-ASPP reads: at stride 8, and its last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low, high = self.model(images)
        return {"low": low, "high": high}


def build_segmenter(name: str, classes: int) -> nn.Module:
    """Build a model of torchvision's by its name, or `lraspp:BACKBONE`, with weights from torch's generator.

    Raises:
        ValueError: an unknown name, or a backbone without a map at stride 8 and one after it.
    """
    if name in TORCHVISION:
        model: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
        head = TORCHVISION[name]
    elif name.startswith(LR_ASPP):
        backbone, widths = _timm(name.removeprefix(LR_ASPP))
        model, head = LRASPP(TimmMaps(backbone), *widths, num_classes=classes), _LRASPP_HEAD
    else:
        raise ValueError(unknown("segmentation model", name, [*TORCHVISION, f"{LR_ASPP}BACKBONE"]))
    # What `load_weights` asks of a model: where its head is.
    model.pretrained_cfg = {"classifier": head}
    return model


def _timm(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """A backbone that gives two maps, and their channels."""
    if not is_model(name.partition(".")[0]):
        raise ValueError(unknown("backbone", name, timm.list_models()))
    cfg = get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        raise ValueError(f"backbone {name!r}: expected a model that takes images of any size")
    try:
        with torch.device("meta"):
            listed: Any = timm.create_model(name, features_only=True).feature_info
    except (RuntimeError, AttributeError) as error:  # timm's words for a model without stages
        raise ValueError(f"backbone {name!r}: expected a model with stages, got {_first_line(error)}") from error
    strides = [info["reduction"] for info in listed.info]
    places = [place for place, stride in enumerate(strides) if stride == _LOW]
    if not places or places[-1] == len(strides) - 1:
        raise ValueError(f"backbone {name!r}: expected a map at stride {_LOW} and one after it, got strides {strides}")
    picked = (places[-1], len(strides) - 1)
    low, high = (listed.info[place]["num_chs"] for place in picked)
    return timm.create_model(name, features_only=True, out_indices=picked), (low, high)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class Segmenter(TaskModel):
    """Normalize with the model's own statistics, and ask backbone and head one after the other.

    The weights live in `model`, whose state dict is torchvision's; mean and std are buffers outside any state dict.

    Args:
        model: of `build_segmenter`.
        mean: channel means of images in [0, 1].
        std: channel standard deviations.
    """

    mean: Tensor
    std: Tensor
    probe_is_whole = True

    def __init__(self, model: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model: Any = model
        self._whole = isinstance(model, LRASPP)  # its head reads both maps
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.taps: tuple[str, ...] = ()

    def stages(self) -> Sequence[str]:
        """The backbone's maps that the head reads, and the map of logits."""
        return (*(("low", "high") if self._whole else ("out",)), LOGITS)

    def listen(self, taps: Sequence[str | int]) -> None:
        """Give these stages, by name or number, as features from now on.

        Raises:
            ValueError: an unknown stage.
        """
        names = self.stages()
        for tap in taps:
            if tap not in names and tap not in range(-len(names), len(names)):
                raise ValueError(unknown("stage", str(tap), names))
        self.taps = tuple(names[tap] if isinstance(tap, int) else tap for tap in taps)

    def around(self, model: nn.Module) -> Segmenter:
        """The same model with other weights: `model` with these statistics, on their device, without taps."""
        mean, std = (part.flatten().tolist() for part in (self.mean, self.std))
        return Segmenter(model, mean=mean, std=std).to(self.mean.device)

    def compile_model(self) -> None:
        """Let `torch.compile` have backbone and head, which are called one by one."""
        self.model.backbone.compile()
        self.model.classifier.compile()

    def statistics(self) -> dict[str, list[float]]:
        """Mean and std of each channel, of pixels in [0, 1]."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The stages' maps by name, of images `(N, 3, H, W)` uint8; that of the logits is `(N, C, h, w)`."""
        features = self.model.backbone(normalize(images, self.mean, self.std))
        logits = self.model.classifier(features if self._whole else features["out"])
        return {**{name: features[name] for name in self.stages()[:-1]}, LOGITS: logits}

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Outputs:
        """A row of logits for each pixel of the map, image by image, row by row; resized to `size` where one is given.

        The features are the stages that are listened to, (N, C, h, w).
        """
        maps = self.maps(images)
        if size is not None:
            maps[LOGITS] = upsample(maps[LOGITS], size)
        return Outputs(rows(maps[LOGITS]), {tap: maps[tap] for tap in self.taps})

    def answer(self, batch: MaskBatch) -> Outputs:
        return self(batch.images, batch.size)

    @torch.no_grad()
    def probe(self, image_size: int) -> Outputs:
        training = {module: module.training for module in self.modules()}
        black = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=self.mean.device)
        try:
            return self.eval()(black)
        except (RuntimeError, ValueError) as error:
            kind, side = type(self.model).__name__, f"{image_size}x{image_size}"
            raise ValueError(f"{kind} cannot take images of {side} pixels: {_first_line(error)}") from error
        finally:
            for module, flag in training.items():
                module.training = flag

    def classes_of(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """`(N, H, W)` int64: the class of each pixel of images `(N, 3, H', W')` uint8, at the size (H, W)."""
        return upsample(self.maps(images)[LOGITS].float(), size).argmax(dim=1)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(N, C, h, w)` at another size: bilinear, corners not aligned, as torchvision's models do."""
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def rows(maps: Tensor) -> Tensor:
    """`(N, C, h, w)` to `(N h w, C)`: a row for each pixel."""
    return maps.movedim(1, 3).flatten(0, 2)
