"""`train=N` and `validation=N`: fixed parts of the training pictures, as many of each class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pldistill.data.random import uniform
from pldistill.data.splits import Dataset, Split


def divide(dataset: Dataset, *, train: int | None = None, validation: int | None = None) -> Dataset:
    """Hold `validation` training pictures out as `Dataset.holdout`, then keep `train` of the rest; None leaves it be.

    Each part has as many pictures of every class, to within one, and is the same for ever: a hash of the ids, under
    seed 0, puts the pictures of a class in order; those held out come from its end and those kept from its front. So
    holding some out does not change which `train` pictures are kept, while there are enough. Ids stay what they were.

    Raises:
        ValueError: a part with fewer pictures than classes, or with more of a class than the smallest class can give.
    """
    if validation is not None:
        _check(dataset, "validation", validation, spare=1)
        rest, held = _part(dataset.train, validation, from_end=True)
        dataset = replace(dataset, train=rest, holdout=held)
    if train is not None:
        _check(dataset, "train", train, spare=0)
        _, kept = _part(dataset.train, train, from_end=False)
        dataset = replace(dataset, train=kept)
    return dataset


def _check(dataset: Dataset, name: str, count: int, spare: int) -> None:
    """Refuse a part that cannot be taken and leave `spare` pictures of each class."""
    classes = len(dataset.classes)
    least = int(torch.bincount(dataset.train.labels, minlength=classes).min())
    most = classes * (least - spare)
    if not classes <= count <= most:
        held = f" beside validation={len(dataset.holdout)}" if dataset.holdout is not None else ""
        raise ValueError(
            f"{dataset.spec}: {name}: expected {classes} to {most} pictures{held}, as many of each of the {classes} "
            f"classes, the smallest of which has {least}, got {count}"
        )


def _part(split: Split, count: int, *, from_end: bool) -> tuple[Split, Split]:
    """What is left, and the `count` pictures that come first or last in their classes' orders."""
    draw, labels = uniform(0, 0, split.ids.numpy(), "part"), split.labels.numpy()
    if from_end:
        draw = 1 - draw
    place = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members[np.argsort(draw[members], kind="stable")]] = np.arange(len(members))
    taken = np.zeros(len(labels), dtype=bool)
    taken[np.lexsort((draw, place))[:count]] = True
    left, part = (split.subset(torch.from_numpy(np.flatnonzero(mask))) for mask in (~taken, taken))
    return left, part
