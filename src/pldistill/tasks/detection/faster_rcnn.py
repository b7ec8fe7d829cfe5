"""A detector in the pieces that a task asks one by one: maps of an image, what is said of RoIs, what is found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from pldistill.data.dataset import normalize
from pldistill.models import TaskModel
from pldistill.specs import unknown
from pldistill.tasks.detection.backbones import STRIDES, Backbone, build_backbone
from pldistill.tasks.detection.dataset import resize, resized
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.types import DetectionBatch, Detections, DetectionTargets, Outputs

LEVELS = ("fpn0", "fpn1", "fpn2", "fpn3")
HEADS = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")
_RATIOS, _CELLS = (0.5, 1.0, 2.0), 7


class BackboneWithFPN(nn.Module):
    """A body and the feature pyramid on it; the names of its weights are torchvision's."""

    def __init__(self, body: Backbone, out_channels: int) -> None:
        super().__init__()
        self.body = body.model
        self.fpn = FeaturePyramidNetwork(body.channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(level): each for level, each in enumerate(self.body(images))})


class ProposalHead(RPNHead):
    """torchvision's, answering in float32 whatever autocast computes in: boxes do not fit in half precision."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, offsets = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in offsets]


class Predictor(FastRCNNPredictor):
    """torchvision's, answering in float32 too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = super().forward(x)
        return logits.float(), offsets.float()


class Transform(GeneralizedRCNNTransform):
    """What the loaders and `predict` do to an image, for torchvision's own call: resized to whole gray levels.

    `model(images)` takes images `(3, H, W)` float in [0, 1], as torchvision's detectors do, resizes them as a run's
    images are resized (`dataset.resize`), normalizes and pads them. Boxes go with them.

    Args:
        image_size: the short side in pixels.
        max_side: the most that the long side may have.
        mean: channel means of images in [0, 1].
        std: channel standard deviations.
    """

    def __init__(self, image_size: int, max_side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(image_size, max_side, list(mean), list(std))

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        shown = [self._shown(image) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in shown]
        if targets is not None:
            given = [(image.shape[1], image.shape[2]) for image in images]
            targets = [
                {**target, "boxes": resize_boxes(target["boxes"], list(old), list(new))}
                for target, old, new in zip(targets, given, sizes, strict=True)
            ]
        return ImageList(self.batch_images(shown, self.size_divisible), sizes), targets

    def _shown(self, image: Tensor) -> Tensor:
        if not image.is_floating_point():
            raise TypeError(f"images: expected floating-point pixels in [0, 1], got {image.dtype}")
        levels = (image * 255).round().clamp(0, 255).to(torch.uint8)
        short = cast(tuple[int, ...], self.min_size)[-1]
        levels = resize(levels, *resized(image.shape[1], image.shape[2], short, self.max_size))
        return normalize(levels, self.image_mean, self.image_std)


def build_detector(backbone: str, *, columns: int, options: DetectionOptions, pretrained: bool = False) -> FasterRCNN:
    """Build Faster R-CNN with a feature pyramid, torchvision's, over a body by its name (see `build_body`).

    Args:
        backbone: the body's model.
        columns: logits of an RoI, the background among them.
        options: of the task.
        pretrained: start the body from its published ImageNet weights.

    Raises:
        ValueError: what `build_body` refuses.
    """
    body = build_backbone(backbone, pretrained=pretrained, norm=options.norm)
    body.freeze(options.trainable_layers)
    width = options.fpn_channels
    sides = tuple((options.anchor * 2**level,) for level in range(5))
    anchors = AnchorGenerator(sides, (_RATIOS,) * len(sides))
    model = FasterRCNN(
        BackboneWithFPN(body, width),
        rpn_anchor_generator=anchors,
        rpn_head=ProposalHead(width, len(_RATIOS)),
        rpn_pre_nms_top_n_train=options.pre_nms,
        rpn_post_nms_top_n_train=options.post_nms,
        rpn_pre_nms_top_n_test=options.pre_nms_eval,
        rpn_post_nms_top_n_test=options.post_nms_eval,
        rpn_batch_size_per_image=options.rpn_per_image,
        box_head=TwoMLPHead(width * _CELLS**2, options.head_width),
        box_predictor=Predictor(options.head_width, columns),
        box_batch_size_per_image=options.rois_per_image,
        box_positive_fraction=options.positive_fraction,
        box_score_thresh=options.score_threshold,
        box_detections_per_img=options.detections,
    )
    # torchvision infers these from the first images it is shown, wrongly where padding is much of them, and keeps them.
    pool: Any = model.roi_heads.box_roi_pool
    pool.scales = [1 / stride for stride in STRIDES]
    first, last = (int(math.log2(stride)) for stride in (STRIDES[0], STRIDES[-1]))
    pool.map_levels = initLevelMapper(first, last, pool.canonical_scale, pool.canonical_level)
    # What `load_weights` asks of a model: where its head is.
    model.pretrained_cfg = {"classifier": HEADS}  # pyright: ignore[reportArgumentType]
    return model


class Detector(TaskModel):
    """Normalize with the model's own statistics, pad, and ask torchvision's detector piece by piece.

    The weights live in `model`, whose state dict is torchvision's; mean and std are buffers outside any state dict.

    Args:
        model: the detector.
        mean: channel means of images in [0, 1].
        std: channel standard deviations.
        columns: of each label, 0 the background, its column among the model's logits; None where label i is column i.
        unused: let the columns that are no label's stand in `answer`.
    """

    model: Any  # torchvision's parts have no types
    mean: Tensor
    std: Tensor
    columns: Tensor

    def __init__(
        self,
        model: FasterRCNN,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        columns: Sequence[int] | None = None,
        unused: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.width = int(self.model.roi_heads.box_predictor.cls_score.out_features)
        self.unused = unused
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)
        places = list(columns or range(self.width))
        self._plain = places == list(range(self.width))
        self.register_buffer("columns", torch.tensor(places), persistent=False)
        self.taps: tuple[str, ...] = ()

    def around(self, model: FasterRCNN) -> Detector:
        """The same model with other weights: `model` with these statistics, on their device, without taps."""
        mean, std, columns = (part.flatten().tolist() for part in (self.mean, self.std, self.columns))
        detector = Detector(model, mean=mean, std=std, columns=columns, unused=self.unused)
        return detector.to(self.mean.device)

    def listen(self, taps: Sequence[str | int]) -> None:
        """Give the maps of these levels as features from now on: names of `LEVELS`, or their numbers.

        Raises:
            ValueError: an unknown level.
        """
        for tap in taps:
            if tap not in LEVELS and tap not in range(-len(LEVELS), len(LEVELS)):
                raise ValueError(unknown("level", str(tap), LEVELS))
        self.taps = tuple(LEVELS[tap] if isinstance(tap, int) else tap for tap in taps)

    def stages(self) -> Sequence[str]:
        """The levels of the pyramid."""
        return LEVELS

    def compile_model(self) -> None:
        """Let `torch.compile` have the backbone; what follows changes its shapes from step to step."""
        self.model.backbone.compile()

    def statistics(self) -> dict[str, list[float]]:
        """Mean and std of each channel, of pixels in [0, 1]."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    @torch.no_grad()
    def probe(self, image_size: int) -> Outputs:
        """Answer about the whole of a black image."""
        training = {module: module.training for module in self.modules()}
        side, device = image_size, self.mean.device
        black = torch.zeros(3, side, side, dtype=torch.uint8, device=device)
        whole = torch.tensor([[0.0, 0.0, side, side]], device=device)
        none = DetectionTargets(whole[:0], torch.zeros(0, dtype=torch.int64, device=device))
        scene = DetectionBatch((black,), (none,), torch.zeros(1, dtype=torch.int64), 0, ((side, side),), (whole,))
        try:
            return self.eval().answer(scene)
        finally:
            for module, flag in training.items():
                module.training = flag

    def pad(self, images: Sequence[Tensor]) -> ImageList:
        """Normalize images `(3, H, W)` uint8 and put them in one batch, filled up below and at the right."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        shown = [normalize(image, self.mean, self.std) for image in images]
        return ImageList(self.model.transform.batch_images(shown), sizes)

    def maps(self, images: ImageList) -> dict[str, Tensor]:
        """Give the pyramid's levels, "0" to "3" and "pool", at strides 4 to 64."""
        return self.model.backbone(images.tensors)

    def features(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the levels that are listened to."""
        return {tap: maps[tap.removeprefix("fpn")] for tap in self.taps}

    def about(self, maps: Mapping[str, Tensor], regions: Sequence[Tensor], images: ImageList) -> tuple[Tensor, Tensor]:
        """Give logits `(R, K)` and box offsets `(R, 4 K)` of the RoIs, those of all images one after the other."""
        heads = self.model.roi_heads
        pooled = heads.box_roi_pool(maps, list(regions), images.image_sizes)
        return heads.box_predictor(heads.box_head(pooled))

    def used(self, logits: Tensor) -> Tensor:
        """Give the labels' columns alone, in the labels' order, unless the unused ones are to stand."""
        return logits if self.unused or self._plain else logits[:, self.columns]

    def answer(self, batch: DetectionBatch) -> Outputs:
        """Say what the batch's RoIs are, and give the levels that are listened to. The proposals are not asked for.

        A model that is asked for its levels alone, about no RoIs, has no rows.
        """
        assert batch.regions is not None
        images = self.pad(batch.images)
        maps = self.maps(images)
        logits, _ = self.about(maps, batch.regions, images)
        return Outputs(self.used(logits), self.features(maps))

    def detect(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]] | None = None) -> list[Detections]:
        """Find what is in images `(3, H, W)` uint8, in eval mode.

        Args:
            images: as they are given to models.
            sizes: (height, width) of the images in whose pixels the boxes are wanted; None: as they are given.
        """
        assert not self.training
        padded = self.pad(images)
        maps = self.maps(padded)
        regions, _ = self.model.rpn(padded, maps)
        logits, offsets = self.about(maps, regions, padded)
        offsets = offsets.view(len(offsets), self.width, 4)[:, self.columns].flatten(1)
        found = self.model.roi_heads.postprocess_detections(
            logits[:, self.columns], offsets, regions, padded.image_sizes
        )
        return [
            Detections(resize_boxes(boxes, given, wanted), labels, scores)
            for boxes, scores, labels, given, wanted in zip(
                *found, padded.image_sizes, sizes or padded.image_sizes, strict=True
            )
        ]
