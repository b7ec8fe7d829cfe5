"""What travels between the parts: a task's batches from data to models, `Outputs` from these to methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

UNLABELLED = -1  # in place of a label


@dataclass(frozen=True)
class Mixture:
    """What each image of a batch was mixed with: one share for the whole batch (Mixup, CutMix).

    Attributes:
        partners: `(N,)` int64, the position in the batch of the image that is mixed in; a permutation.
        labels: `(N,)` int64, the partners' labels.
        share: what is left of the image itself, in [0, 1]; its partner has the rest.
    """

    partners: Tensor
    labels: Tensor
    share: float


@dataclass(frozen=True)
class Batch:
    """A batch of images, already augmented.

    Attributes:
        images: `(N, 3, H, W)` uint8. Each model normalizes them with its own statistics (`models.NormalizedModel`).
        labels: `(N,)` int64 class indices, `UNLABELLED` where an image has none.
        ids: `(N,)` int64, each image's index in its split: with its view it names the augmented image forever.
        view: which augmented version of the split this is; epoch e of a run sees view e, or e modulo its `views`.
        views: `(N,)` int64, the view of each image where an epoch shows an image several times: its k-th copy of
            `repeats` is in epoch e as view `e * repeats + k`, modulo the run's `views`, would show it. None where every
            image's view is `view`.
        mixture: what the images were mixed with; None where they are as they were augmented.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    view: int
    views: Tensor | None = None
    mixture: Mixture | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DetectionTargets:
    """What lies in an image.

    Attributes:
        boxes: `(M, 4)` float32, left, top, right and bottom in pixels of the image as the models are given it.
        labels: `(M,)` int64 in 1..C, the data's classes in order; 0 is the background, of which no box is.
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of images with what lies in them, already augmented and resized.

    Attributes:
        images: each `(3, H, W)` uint8, of its own size. Each model normalizes them with its own statistics and pads.
        targets: what lies in each image, without crowds.
        ids: `(N,)` int64, each image's index in its split: with the view it names the augmented image forever.
        view: which augmented version of the split this is; epoch e of a run sees view e.
        sizes: (height, width) of each image before it was resized; detections are given in pixels of these.
        RoIs: `(R_i, 4)` boxes in pixels of each image, which a model's outputs are to be about; None where the model
            proposes its own.
    """

    images: tuple[Tensor, ...]
    targets: tuple[DetectionTargets, ...]
    ids: Tensor
    view: int
    sizes: tuple[tuple[int, int], ...]
    regions: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)


NOT_PREDICTED = -100  # in place of a token: torch's ignore_index


@dataclass(frozen=True)
class TokenBatch:
    """A batch of sequences of tokens.

    Attributes:
        inputs: `(N, L)` int64.
        labels: `(N, L)` int64, the token after each input; `NOT_PREDICTED` beyond the end of the text.
        ids: `(N,)` int64, each sequence's index in its text.
        view: the epoch.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    view: int

    def __len__(self) -> int:
        return len(self.inputs)


IGNORED = 255  # in a mask: a pixel of no class


@dataclass(frozen=True)
class MaskBatch:
    """A batch of images with a class for each pixel, already augmented.

    Attributes:
        images: `(N, 3, H, W)` uint8. Each model normalizes them with its own statistics.
        masks: `(N, H, W)` int64 class indices; `IGNORED` where a pixel is of none.
        ids: `(N,)` int64, each image's index in its split: with its view it names the augmented image forever.
        view: which augmented version of the split this is; epoch e of a run sees view e.
        size: height and width that the map of logits is wanted at; None for the model's own.
    """

    images: Tensor
    masks: Tensor
    ids: Tensor
    view: int
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Detections:
    """What a detector found in an image.

    Attributes:
        boxes: `(K, 4)` float32, in pixels of the image before it was resized.
        labels: `(K,)` int64 in 1..C.
        scores: `(K,)` float32 in [0, 1].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Outputs:
    """What a network said about a batch.

    Attributes:
        logits: `(N, C)`, the dtype the model computed in. N counts images, RoIs in detection, tokens of
            text, or pixels of a map.
        features: by tap name, the activations that a method asked for.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
