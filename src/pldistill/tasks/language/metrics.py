"""What is measured of a language model on text: cross-entropy, first answers, calibration, likeness to its teacher."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pldistill import distributed
from pldistill.tasks.base import Autocast, Loaders
from pldistill.tasks.calibration import calibration_bins, calibration_error, fit_temperature
from pldistill.tasks.language.dataset import TokenLoader
from pldistill.tasks.language.model import LanguageModel
from pldistill.teachers.live import Teacher
from pldistill.types import NOT_PREDICTED, TokenBatch

_HELD = 2**25  # logits of the held-out text that are kept to fit the temperature to


class TextValidation:
    """Measures a model on the validation text, and on the held-out text where some is.

    The teacher's own figures are measured once; its logits, which may be large, are asked for anew in each epoch.
    Each of several processes measures its part of the sequences, and all have the figures of the whole.

    Args:
        loaders: the run's.
        size: bytes of the validation text.
        teacher: who is asked about the same, or None.
        autocast: of the models.
    """

    def __init__(self, loaders: Loaders, size: int, teacher: Teacher | None, autocast: Autocast) -> None:
        self.loaders, self.size, self.teacher, self.autocast = loaders, size, teacher, autocast
        self._teacher_figures: dict[str, float | None] = {}

    @torch.no_grad()
    def __call__(self, model: LanguageModel) -> dict[str, Any]:
        """Give the metrics of the task's spec by name; what asks for a teacher, or held-out text, is None without it.

        val_loss is the cross-entropy in nats a token. The temperature T minimizes the cross-entropy of logits / T on
        the held-out text (Guo et al. 2017, "On Calibration of Modern Neural Networks", Sec. 4.2).
        """
        was_training = model.training
        model.eval()
        temperature, holdout = self._holdout(model)
        sums = self._sums(model, temperature)
        figures = _figures(sums, self.size)
        if self.teacher is not None:
            figures["teacher_perplexity"] = math.exp(sums["teacher_nats"] / sums["tokens"])
        model.train(was_training)
        return {**figures, "temperature": temperature, **holdout}

    def _holdout(self, model: LanguageModel) -> tuple[float | None, dict[str, float]]:
        """The temperature that fits the held-out text, and its figures."""
        loader = self.loaders.holdout
        if loader is None:
            return None, {}
        kept, labels, nats, tokens = [], [], 0.0, 0
        for batch in loader.epoch(0):
            logits, own = self._ask(model, batch)
            nats += functional.cross_entropy(logits, own, reduction="sum").item()
            tokens += len(own)
            if sum(map(len, labels)) * logits.shape[1] < _HELD:
                kept.append(logits)
                labels.append(own)
        total = distributed.all_reduce_sum({"nats": torch.tensor(nats), "tokens": torch.tensor(float(tokens))})
        perplexity = math.exp(total["nats"].item() / total["tokens"].item())
        temperature = fit_temperature(torch.cat(kept), torch.cat(labels), distributed.all_reduce_sum)
        return temperature, {"holdout_perplexity": perplexity}

    def _ask(self, model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The logits of the tokens that are to be predicted, and these."""
        with self.autocast():
            logits = model(batch if isinstance(model, Teacher) else batch.inputs).logits
        labels = batch.labels.flatten()
        kept = labels != NOT_PREDICTED
        return logits[kept].float(), labels[kept]

    def _sums(self, model: LanguageModel, temperature: float | None) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        loader: TokenLoader = self.loaders.val
        for batch in loader.epoch(0):
            logits, labels = self._ask(model, batch)
            asked = None if self.teacher is None else self._ask(self.teacher, batch)[0]
            for name, value in _measure(logits, labels, asked, temperature).items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value
        return {name: value.item() for name, value in distributed.all_reduce_sum(sums).items()}


def _measure(logits: Tensor, labels: Tensor, teacher: Tensor | None, temperature: float | None) -> dict[str, Tensor]:
    """Sum each metric over a batch's tokens."""
    log_p = logits.log_softmax(dim=1)
    sums = {
        "tokens": torch.tensor(len(labels), device=labels.device),
        "nats": functional.nll_loss(log_p, labels, reduction="sum"),
        "top1": (logits.argmax(dim=1) == labels).sum(),
        **calibration_bins(log_p, labels),
    }
    if temperature is not None:
        sums["scaled_nats"] = functional.cross_entropy(logits / temperature, labels, reduction="sum")
    if teacher is not None:
        log_t = teacher.log_softmax(dim=1)
        sums["teacher_nats"] = functional.nll_loss(log_t, labels, reduction="sum")
        sums["kl"] = functional.kl_div(log_p, log_t, reduction="sum", log_target=True)
        sums["agreement"] = (logits.argmax(dim=1) == teacher.argmax(dim=1)).sum()
        few = min(5, logits.shape[1])
        ours, theirs = logits.topk(few, dim=1).indices, teacher.topk(few, dim=1).indices
        sums["overlap5"] = (ours[:, :, None] == theirs[:, None, :]).sum() / few
    return sums


def _figures(sums: dict[str, float], size: int) -> dict[str, float | None]:
    tokens = sums["tokens"]
    means = {name: value / tokens for name, value in sums.items()}

    def percent(name: str) -> float | None:
        return 100 * means[name] if name in means else None

    return {
        "perplexity": math.exp(means["nats"]),
        "bits_per_byte": sums["nats"] / math.log(2) / size if size else None,
        "next_top1": percent("top1"),
        "val_loss": means["nats"],
        "token_ece": calibration_error(means),
        "scaled_perplexity": math.exp(means["scaled_nats"]) if "scaled_nats" in means else None,
        "token_kl": means.get("kl"),
        "token_agreement": percent("agreement"),
        "token_overlap5": percent("overlap5"),
    }
