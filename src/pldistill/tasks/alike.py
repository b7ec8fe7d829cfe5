"""How alike two nets answer a batch: the same first class, the same first five, the same order of all.

Each function gives a sum over the pictures, so that batches, and processes, add up.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Blocks of this many classes are compared pair by pair; their counts fit a byte.
_BLOCK = 128
# How many logits are ranked at once: some ten integers are held for each.
_AT_ONCE = 2**20


def same_first(one: Tensor, other: Tensor) -> Tensor:
    """Count the pictures, rows of `(N, C)` logits, whose largest logit is of the same class; among equals the first."""
    return (one.argmax(dim=1) == other.argmax(dim=1)).sum()


def shared_first(one: Tensor, other: Tensor, count: int) -> Tensor:
    """Sum the parts of one's first `count` classes that are among the other's first `count`.

    Which of equal logits at the last of these places is taken is torch's choice.
    """
    firsts, seconds = (logits.topk(count, dim=1).indices for logits in (one, other))
    return (firsts[:, :, None] == seconds[:, None, :]).sum() / count


def kendall(one: Tensor, other: Tensor) -> Tensor:
    """Sum Kendall's tau-b of the two orders of all classes: (P - Q) / sqrt((P + Q + X) (P + Q + Y)).

    Of the pairs of classes, P stand in the same order in both, Q in opposite orders, X are equal in `one` alone, Y in
    `other` alone. The counts are exact, by merging sorted blocks: O(C log² C) a row, some 100 MB whatever C. Where all
    logits of a row are equal, tau-b has no value; the row then counts as 0.

    Args:
        one: `(N, C)` logits.
        other: the same shape.

    Source: Kendall, "The treatment of ties in ranking problems" (1945); Knight, "A computer method for calculating
    Kendall's tau with ungrouped data" (1966).
    """
    rows = max(1, _AT_ONCE // one.shape[1])
    parts = zip(one.split(rows), other.split(rows), strict=True)
    return torch.stack([_kendall(ours, theirs).sum() for ours, theirs in parts]).sum()


def _kendall(one: Tensor, other: Tensor) -> Tensor:
    """tau-b of each row."""
    classes = one.shape[1]
    (firsts, ties), (seconds, other_ties) = _places(one), _places(other)
    # In this order no pair that is equal in `one` stands the wrong way round.
    both = _sorted(firsts * classes + seconds)
    opposite = _inversions(both % classes)
    pairs = classes * (classes - 1) // 2
    ordered, other_ordered = pairs - ties, pairs - other_ties
    same = ordered + other_ordered - pairs + _ties(both) - opposite
    scale = ordered.float().sqrt() * other_ordered.float().sqrt()
    return (same - opposite) / scale.clamp(min=1)


def _places(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each logit's place in its row from the smallest, 0, up; equal logits share one. And each row's equal pairs."""
    order = _order(logits)
    ordered = logits.gather(1, order)
    groups = functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0)).cumsum(dim=1)
    return torch.empty_like(order).scatter_(1, order, groups), _ties(groups)


def _ties(ordered: Tensor) -> Tensor:
    """Count the pairs of equal entries in each row of a sorted `(N, C)`: each entry's equals to its right."""
    upto = torch.searchsorted(ordered, ordered, right=True)
    return upto.sum(dim=1) - ordered.shape[1] * (ordered.shape[1] + 1) // 2


def _order(rows: Tensor) -> Tensor:
    """Positions of each row's entries from the smallest up."""
    if rows.device.type != "cpu" or rows.dtype == torch.bfloat16:  # of which NumPy knows nothing
        return rows.argsort(dim=1)
    return torch.from_numpy(np.argsort(rows.detach().numpy(), axis=1))  # several times as fast as torch's


def _sorted(rows: Tensor) -> Tensor:
    return rows.sort(dim=1).values if rows.device.type != "cpu" else torch.from_numpy(np.sort(rows.numpy(), axis=1))


def _inversions(places: Tensor) -> Tensor:
    """Count the pairs of entries in each row of `(N, C)` of which the larger stands first."""
    rows, classes = places.shape
    width = min(_BLOCK, classes)
    blocks = 1
    while width * blocks < classes:
        blocks *= 2
    # Filled up at the end with a larger place than any, which is in no inversion.
    filled = functional.pad(places, (0, width * blocks - classes), value=classes)
    found = _inversions_by_pairs(filled.view(-1, width), classes).view(rows, -1).sum(dim=1)
    while width < filled.shape[1]:
        halves = _sorted(filled.view(-1, width)).view(-1, 2, width)
        left, right = halves[:, 0].contiguous(), halves[:, 1].contiguous()
        larger = width - torch.searchsorted(left, right, right=True)
        found += larger.view(rows, -1).sum(dim=1)
        width *= 2
    return found


def _inversions_by_pairs(places: Tensor, classes: int) -> Tensor:
    """The same for rows of at most 128, all pairs of one distance at a time."""
    # Numbers as narrow as they may be, one beside the next: several times as fast.
    narrow = next(dtype for dtype in (torch.int8, torch.int16, torch.int32) if classes <= torch.iinfo(dtype).max)
    columns = places.to(narrow).t().contiguous()
    found = torch.zeros(columns.shape, dtype=torch.uint8, device=places.device)
    for distance in range(1, len(columns)):
        found[distance:] += (columns[:-distance] > columns[distance:]).view(torch.uint8)
    return found.sum(dim=0)
