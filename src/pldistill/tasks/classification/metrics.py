"""What is measured of a classifier on the validation images, and how alike two models answer.

Each function gives a sum over the images, so that batches, and processes, add up.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pldistill import distributed
from pldistill.data import Loader
from pldistill.models import NormalizedModel
from pldistill.tasks.base import Autocast
from pldistill.tasks.calibration import calibration_bins, calibration_error
from pldistill.teachers.live import Teacher

# Blocks of this many classes are compared pair by pair; their counts fit a byte.
_BLOCK = 128
# How many logits are ranked at once: some ten integers are held for each.
_AT_ONCE = 2**20


def same_first(one: Tensor, other: Tensor) -> Tensor:
    """Count the images, rows of `(N, C)` logits, whose largest logit is of the same class; among equals the first."""
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


class Validation:
    """Measures a model on the validation split; the teacher is asked there once and its answers are kept.

    Where training images are held out, `holdout` loads them, and the model is measured on them too. Each of several
    processes measures its part of the images, and all have the figures of the whole.
    """

    def __init__(
        self,
        loader: Loader,
        teacher: Teacher | None,
        autocast: Autocast,
        holdout: Loader | None = None,
    ) -> None:
        self.loader = loader
        self.teacher = teacher
        self.autocast = autocast
        self.holdout = holdout
        self._teacher_logits: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, model: NormalizedModel) -> dict[str, float | None]:
        """Give top1 and top5 in percent, and in nats val_loss (cross-entropy) and kl, KL(teacher || student).

        ece is the expected calibration error in percent: over 15 equal bins of the largest probability, the mean
        distance between that probability and the part that is right, weighted by the images in the bin (Guo et al.
        2017, "On Calibration of Modern Neural Networks", Eq. 3). The temperature is 1. How far the model answers as its
        teacher does, beside kl: agreement, the percentage of images where both name the same class first; overlap5,
        the percentage of the teacher's first five classes that are among the model's; kendall, the mean of Kendall's
        tau-b between the two rankings of all classes; and the teacher's own teacher_top1. What asks for five classes is
        None for fewer, what asks for a teacher is None without one. Where images are held out, holdout_top1 and
        holdout_loss are the same of them.
        """
        was_training = model.training
        model.eval()
        self._ask_teacher()
        means = self._means(model, self.loader, self._teacher_logits)
        figures = {name: _percent(means, name) for name in ("top1", "top5")}
        figures |= {name: means.get(name) for name in ("val_loss", "kl", "kendall")}
        figures["ece"] = calibration_error(means)
        figures |= {name: _percent(means, name) for name in ("agreement", "overlap5", "teacher_top1")}
        if self.holdout is not None:
            means = self._means(model, self.holdout, [])
            figures |= {"holdout_top1": 100 * means["top1"], "holdout_loss": means["val_loss"]}
        model.train(was_training)
        return figures

    def _means(self, model: NormalizedModel, loader: Loader, teacher_logits: list[Tensor]) -> dict[str, float]:
        """Give each metric's mean over the images; kl where there are the teacher's answers, batch by batch."""
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(loader.epoch(0)):
            with self.autocast():
                logits = model(batch.images).logits
            answers = teacher_logits[number] if teacher_logits else None
            for name, value in _measure(logits.float(), batch.labels, answers).items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        return {name: value.item() / loader.num_samples for name, value in distributed.all_reduce_sum(sums).items()}

    def _ask_teacher(self) -> None:
        if self.teacher is None or self._teacher_logits:
            return
        for batch in self.loader.epoch(0):
            with self.autocast():
                self._teacher_logits.append(self.teacher(batch).logits.float())


def _measure(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
    """Sum each metric over a batch."""
    log_p = logits.log_softmax(dim=1)
    sums = {
        **calibration_bins(log_p, labels),
        "top1": (logits.argmax(dim=1) == labels).sum(),
        "val_loss": functional.nll_loss(log_p, labels, reduction="sum"),
    }
    if logits.shape[1] >= 5:
        sums["top5"] = (logits.topk(5, dim=1).indices == labels[:, None]).sum()
    if teacher_logits is not None:
        known = teacher_logits[0] > -torch.inf  # of classes that the teacher knows nothing of nothing is compared
        ours, theirs = (each[:, known].log_softmax(dim=1) for each in (logits, teacher_logits))
        sums["kl"] = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
        sums["teacher_top1"] = (teacher_logits.argmax(dim=1) == labels).sum()
        sums["agreement"] = same_first(logits, teacher_logits)
        sums["kendall"] = kendall(logits, teacher_logits)
        if logits.shape[1] >= 5:
            sums["overlap5"] = shared_first(teacher_logits, logits, 5)
    return sums


def _percent(means: dict[str, float], name: str) -> float | None:
    return 100 * means[name] if name in means else None
