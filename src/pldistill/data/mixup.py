"""Mixup and CutMix: a batch's images mixed with one another, by draws that can be replayed as all others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from pldistill.data.sampling import Views, bits, uniform
from pldistill.types import Batch, Mixture

Box = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Draw:
    """How one batch is mixed.

    Attributes:
        partners: `(N,)` int64 positions, a permutation of the batch.
        share: lambda, what is left of each image itself.
        box: what is cut from the partner (CutMix); None where all pixels are blended (Mixup).
    """

    partners: np.ndarray
    share: float
    box: Box | None


@dataclass(frozen=True)
class Mixing:
    """How often and how far images are mixed. Where both kinds are given a batch takes one of them, by a fair coin.

    Attributes:
        mixup: alpha of Mixup, x = lambda a + (1 - lambda) b with lambda from Beta(alpha, alpha); 0 is none
            (Zhang et al. 2018).
        cutmix: alpha of CutMix, a box of 1 - lambda of b's area pasted into a at the same place; 0 is none
            (Yun et al. 2019).
        probability: the part of the batches that are mixed.

    Raises:
        ValueError: a negative or infinite alpha, both 0, a probability outside (0, 1].
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= alpha < math.inf:
                raise ValueError(f"{name}: expected a finite number from 0, got {alpha}")
        if self.mixup == self.cutmix == 0:
            raise ValueError("mixup and cutmix: expected one above 0, got 0 for both")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability: expected a number in (0, 1], got {self.probability}")

    def draw(self, seed: int, view: Views, ids: np.ndarray, size: int) -> Draw | None:
        """How the batch of these images, `size` pixels square, is mixed; None where this one is not.

        What concerns the whole batch is hashed from (seed, view, id) of its first image, the partners from that of
        each. So a resumed run mixes as the uninterrupted one. Several processes mix each within its own batch, by
        draws of its own.
        """
        first, where = ids[:1], view[:1] if isinstance(view, np.ndarray) else view

        def toss(name: str) -> float:
            return float(uniform(seed, where, first, name)[0])

        if toss("mix") >= self.probability:
            return None
        cutting = self.cutmix > 0 and (self.mixup == 0 or toss("mix kind") < 0.5)
        alpha = self.cutmix if cutting else self.mixup
        share = Random(int(bits(seed, where, first, "mix share")[0])).betavariate(alpha, alpha)
        partners = np.argsort(bits(seed, view, ids, "mix partner"), kind="stable")
        if not cutting:
            return Draw(partners, share, None)
        box = cut_box(share, size, toss("mix row"), toss("mix column"))
        return Draw(partners, 1 - (box[2] - box[0]) * (box[3] - box[1]) / size**2, box)


def cut_box(share: float, size: int, row: float, column: float) -> Box:
    """A square of about `1 - share` of the image's area, its center at `(row, column)` in [0, 1), cut at the edges.

    As it may lose some of its area there, the share that a batch records is that of the pixels.
    """
    side = round(size * math.sqrt(1 - share))
    top, left = (math.floor(center * size) - side // 2 for center in (row, column))
    return max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)


def mix(batch: Batch, drawn: Draw) -> Batch:
    """The batch with each image mixed with its partner; its own labels stay, the partners' are in `mixture`.

    Mixup rounds to whole pixel values, half to even: images stay uint8, as models take them.
    """
    partners = torch.from_numpy(drawn.partners).to(batch.images.device)
    images = _blend(batch.images, partners, drawn.share) if drawn.box is None else _paste(batch, partners, drawn.box)
    return replace(batch, images=images, mixture=Mixture(partners, batch.labels[partners], drawn.share))


def _blend(images: Tensor, partners: Tensor, share: float) -> Tensor:
    return images.index_select(0, partners).float().lerp_(images.float(), share).round_().to(torch.uint8)


def _paste(batch: Batch, partners: Tensor, box: Box) -> Tensor:
    top, left, bottom, right = box
    images = batch.images.clone()
    images[:, :, top:bottom, left:right] = batch.images[:, :, top:bottom, left:right].index_select(0, partners)
    return images
