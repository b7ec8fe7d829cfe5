"""What travels between the rooms: a `Batch` from data to the nets, `Outputs` from a net to the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of pictures, already augmented.

    Attributes:
        images: `(N, 3, H, W)` uint8. Each net normalises them with its own statistics (`models.Net`).
        labels: `(N,)` int64 class indices.
        ids: `(N,)` int64, each picture's index in its split: with `view` it names the augmented picture for ever.
        view: which augmented version of the split this is; epoch e of a run sees view e.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    view: int


@dataclass(frozen=True)
class Outputs:
    """What a network said about a batch.

    Attributes:
        logits: `(N, C)`, the dtype the net computed in. N counts images, or regions in detection.
        features: by tap name, the activations that a method asked for.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
