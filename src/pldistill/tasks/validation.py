"""What is measured of a classifier on the validation pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pldistill import distributed
from pldistill.data import Loader
from pldistill.models import Net
from pldistill.tasks import alike
from pldistill.tasks.base import Autocast
from pldistill.teachers.live import Teacher

BINS = 15


class Validation:
    """Measures a net on the validation split; the teacher is asked there once and its answers are kept.

    Where training pictures are held out, `holdout` loads them, and the net is measured on them too. Each of several
    processes measures its part of the pictures, and all have the figures of the whole.
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
    def __call__(self, net: Net) -> dict[str, float | None]:
        """Give top1 and top5 in percent, and in nats val_loss (cross-entropy) and kl, KL(teacher || student).

        ece is the expected calibration error in percent: over `BINS` equal bins of the largest probability, the mean
        distance between that probability and the part that is right, weighted by the pictures in the bin (Guo et al.
        2017, "On Calibration of Modern Neural Networks", Eq. 3). The temperature is 1. How far the net answers as its
        teacher does, beside kl: agreement, the percentage of pictures where both name the same class first; overlap5,
        the percentage of the teacher's first five classes that are among the net's; kendall, the mean of Kendall's
        tau-b between the two rankings of all classes; and the teacher's own teacher_top1. What asks for five classes is
        None for fewer, what asks for a teacher is None without one. Where pictures are held out, holdout_top1 and
        holdout_loss are the same of them.
        """
        was_training = net.training
        net.eval()
        self._ask_teacher()
        means = self._means(net, self.loader, self._teacher_logits)
        figures = {name: _percent(means, name) for name in ("top1", "top5")}
        figures |= {name: means.get(name) for name in ("val_loss", "kl", "kendall")}
        figures["ece"] = calibration_error(means)
        figures |= {name: _percent(means, name) for name in ("agreement", "overlap5", "teacher_top1")}
        if self.holdout is not None:
            means = self._means(net, self.holdout, [])
            figures |= {"holdout_top1": 100 * means["top1"], "holdout_loss": means["val_loss"]}
        net.train(was_training)
        return figures

    def _means(self, net: Net, loader: Loader, teacher_logits: list[Tensor]) -> dict[str, float]:
        """Give each metric's mean over the pictures; kl where there are the teacher's answers, batch by batch."""
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(loader.epoch(0)):
            with self.autocast():
                logits = net(batch.images).logits
            answers = teacher_logits[number] if teacher_logits else None
            for name, value in _measure(logits.float(), batch.labels, answers).items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        return {name: value.item() / loader.num_samples for name, value in distributed.total(sums).items()}

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
        **_bins(log_p, labels),
        "top1": (logits.argmax(dim=1) == labels).sum(),
        "val_loss": functional.nll_loss(log_p, labels, reduction="sum"),
    }
    if logits.shape[1] >= 5:
        sums["top5"] = (logits.topk(5, dim=1).indices == labels[:, None]).sum()
    if teacher_logits is not None:
        sums["kl"] = functional.kl_div(log_p, teacher_logits.log_softmax(dim=1), reduction="sum", log_target=True)
        sums["teacher_top1"] = (teacher_logits.argmax(dim=1) == labels).sum()
        sums["agreement"] = alike.same_first(logits, teacher_logits)
        sums["kendall"] = alike.kendall(logits, teacher_logits)
        if logits.shape[1] >= 5:
            sums["overlap5"] = alike.shared_first(teacher_logits, logits, 5)
    return sums


def _bins(log_p: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sum, by bins of the largest probability, that probability less whether it is right."""
    confidence, answer = log_p.exp().max(dim=1)
    gap = confidence.double() - (answer == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # ((m - 1) / M, m / M], as Guo et al. have them
    sums = torch.zeros(BINS, dtype=torch.float64, device=gap.device).index_add_(0, bins, gap)
    return {f"gap{number}": sums[number] for number in range(BINS)}


def calibration_error(means: dict[str, float]) -> float:
    """ECE in percent, from the means over all pictures of `_bins`: |conf - acc| of a bin times its part of them."""
    return 100 * sum(abs(means[f"gap{number}"]) for number in range(BINS))


def _percent(means: dict[str, float], name: str) -> float | None:
    return 100 * means[name] if name in means else None
