"""What travels between the rooms: a `Batch` from data to the nets, `Outputs` from a net to the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

UNLABELLED = -1  # in place of a label


@dataclass(frozen=True)
class Mixture:
    """What each picture of a batch was mixed with: one share for the whole batch (Mixup, CutMix).

    Attributes:
        partners: `(N,)` int64, the position in the batch of the picture that is mixed in; a permutation.
        labels: `(N,)` int64, the partners' labels.
        share: what is left of the picture itself, in [0, 1]; its partner has the rest.
    """

    partners: Tensor
    labels: Tensor
    share: float


@dataclass(frozen=True)
class Batch:
    """A batch of pictures, already augmented.

    Attributes:
        images: `(N, 3, H, W)` uint8. Each net normalises them with its own statistics (`models.Net`).
        labels: `(N,)` int64 class indices, `UNLABELLED` where a picture has none.
        ids: `(N,)` int64, each picture's index in its split: with its view it names the augmented picture for ever.
        view: which augmented version of the split this is; epoch e of a run sees view e.
        views: `(N,)` int64, the view of each picture where an epoch shows a picture several times: its k-th copy of
            `repeats` is as view `view * repeats + k` would show it. None where every picture's view is `view`.
        mixture: what the pictures were mixed with; None where they are as they were augmented.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    view: int
    views: Tensor | None = None
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Outputs:
    """What a network said about a batch.

    Attributes:
        logits: `(N, C)`, the dtype the net computed in. N counts images, or regions in detection.
        features: by tap name, the activations that a method asked for.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
