"""`digits`: scikit-learn's 1,797 real handwritten digits, inside the installed package."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from pldistill.data.random import uniform
from pldistill.data.splits import TensorSplit

SIZE = 32
VAL = 360
MEAN = (0.3051, 0.3051, 0.3051)
STD = (0.3238, 0.3238, 0.3238)


def digits() -> tuple[TensorSplit, TensorSplit]:
    """1,437 training and 360 validation pictures: 8 x 8 grey values 0 ... 16, enlarged to 3 x 32 x 32 (bilinear).

    The division is fixed and stratified: in each class a fifth, drawn by hash, is for validation.
    """
    from sklearn.datasets import load_digits  # here: it takes seconds to import, and only this source needs it

    pixels, target = load_digits(return_X_y=True)
    labels = torch.from_numpy(target.astype(np.int64))
    grey = torch.from_numpy(pixels.astype(np.float32)).view(-1, 1, 8, 8) * (255 / 16)
    grey = F.interpolate(grey, (SIZE, SIZE), mode="bilinear", align_corners=False)
    images = grey.round().to(torch.uint8).expand(-1, 3, -1, -1)
    val = np.sort(np.argsort(_rank_in_class(target), kind="stable")[:VAL])
    train = np.setdiff1d(np.arange(len(labels)), val)
    first, second = (TensorSplit(images[part].contiguous(), labels[part]) for part in (train, val))
    return first, second


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """`(N,)` in (0, 1): where each sample stands in a random order of its class, as a share of the class."""
    draw, rank = uniform(0, 0, np.arange(len(labels)), "digits"), np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members[np.argsort(draw[members])]] = (np.arange(len(members)) + 0.5) / len(members)
    return rank
