"""Boxes that hold background, drawn beside the true ones: what a teacher should say is nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from pldistill.data.sampling import uniform

OVERLAP = 0.3  # the most IoU with any true box; in training RoIs below 0.5 are background
_PLACES = 32  # drawn for each box, of which the one that overlaps least is taken
_SMALLEST = 0.4  # of the box's sides


def background_boxes(boxes: Tensor, size: tuple[int, int], number: int) -> Tensor:
    """`(K, 4)` float32, K at most M: beside each box a smaller one of its shape, elsewhere in the image.

    A box beside which no place was found has none. What is drawn follows from `number` alone.

    Args:
        boxes: `(M, 4)`, all true ones of the image: left, top, right, bottom in pixels.
        size: the image's height and width in pixels.
        number: the image's id.
    """
    count = len(boxes)
    if not count:
        return boxes.float()
    draws = np.arange(count * _PLACES)
    scale, across, down = (
        torch.from_numpy(uniform(0, number, draws, f"background {what}")).view(count, _PLACES)
        for what in ("scale", "across", "down")
    )
    height, width = size
    known = boxes.double().cpu()
    sides = (known[:, None, 2:] - known[:, None, :2]) * (_SMALLEST + (1 - _SMALLEST) * scale)[..., None]
    corners = torch.stack([across, down], dim=2) * (torch.tensor([width, height]) - sides)
    drawn = torch.cat([corners, corners + sides], dim=2)
    overlap = box_iou(drawn.view(-1, 4), known).amax(dim=1).view(count, _PLACES)
    least, place = overlap.min(dim=1)
    return drawn[torch.arange(count), place][least < OVERLAP].to(boxes.device, torch.float32)
