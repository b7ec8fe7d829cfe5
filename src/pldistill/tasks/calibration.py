"""Whether a model's probabilities are what they say: the expected calibration error, and temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pldistill.files import check_digest
from pldistill.json_files import Count, Digest, JsonFile, Number, read_json
from pldistill.paths import kind_of

TEMPERATURE = "temperature.json"  # beside a model's weights, where it was calibrated
BINS = 15
LEAST, MOST = 1e-3, 1e3  # of a fitted temperature
_AT_ONCE = 2**22  # logits that are looked at together


def calibration_bins(log_p: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sum, by bins of the largest probability, that probability less whether it is right.

    Args:
        log_p: `(N, C)` log-probabilities.
        labels: `(N,)` class indices.
    """
    confidence, answer = log_p.exp().max(dim=1)
    gap = confidence.double() - (answer == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # ((m - 1) / M, m / M], as Guo et al. have them
    sums = torch.zeros(BINS, dtype=torch.float64, device=gap.device).index_add_(0, bins, gap)
    return {f"gap{number}": sums[number] for number in range(BINS)}


def calibration_error(means: Mapping[str, float]) -> float:
    """ECE in percent, from the means over all samples of `calibration_bins`: |conf - acc| of a bin times its part.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), Eq. 3.
    """
    return 100 * sum(abs(means[f"gap{number}"]) for number in range(BINS))


@torch.no_grad()
def fit_temperature(
    logits: Tensor, labels: Tensor, join: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda sums: sums
) -> float:
    """The T that minimizes the cross-entropy of logits / T, from 0.001 to 1000.

    With β = 1 / T the cross-entropy Σ_n log Σ_c exp(β z_nc) - β z_ny is convex, its derivatives are

        Σ_n E_n[z] - z_ny    and    Σ_n Var_n[z]    under softmax(β z_n),

    and Newton's steps are kept within the bracket that the slopes' signs give, which is halved where they are slow.

    Args:
        logits: `(N, C)`, N at least 1.
        labels: `(N,)` class indices.
        join: sums dicts of tensors over processes that hold parts of the samples.

    Source: Guo et al. (2017), Sec. 4.2.
    """
    low, high, beta, moved = 1 / MOST, 1 / LEAST, 1.0, 1.0
    for _ in range(100):
        slope, bend = _derivatives(logits, labels, beta, join)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / bend if bend > 0 else low
        if not low < step < high or abs(math.log(step / beta)) > moved / 2:
            step = (low * high) ** 0.5  # Newton's step leads out, or comes no nearer
        moved, beta = abs(math.log(step / beta)), step
        if moved < 1e-7:
            break
    return 1 / beta


def _derivatives(
    logits: Tensor, labels: Tensor, beta: float, join: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> tuple[float, float]:
    sums = {name: torch.zeros((), dtype=torch.float64, device=logits.device) for name in ("slope", "bend")}
    rows = max(1, _AT_ONCE // logits.shape[1])
    for some, own in zip(logits.split(rows), labels.split(rows), strict=True):
        z = some.double()
        z = z - z.amax(dim=1, keepdim=True)
        p = (beta * z).softmax(dim=1)
        mean = (p * z).sum(dim=1)
        sums["slope"] += (mean - z.gather(1, own[:, None])[:, 0]).sum()
        sums["bend"] += ((p * z.square()).sum(dim=1) - mean.square()).clamp(min=0).sum()
    joined = join(sums)
    return joined["slope"].item(), joined["bend"].item()


class TemperatureFile(JsonFile):
    """What temperature.json must hold: see `pldistill.training.calibrate`."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    fitted_on: str
    samples: Count
    measured_on: str
    nats: Number
    ece: Number
    nats_scaled: Number
    ece_scaled: Number
    model_sha256: Digest


def read_temperature(folder: Path) -> float:
    """What the logits of a folder's model are divided by: 1 where it was not calibrated.

    Raises:
        ValueError: for a damaged file, or one of another model than the folder's.
    """
    file = folder / TEMPERATURE
    if kind_of(file) is None:
        return 1.0
    content = read_json(file, TemperatureFile)
    try:
        check_digest(folder / "model.safetensors", content.model_sha256)
    except ValueError:
        raise ValueError(f"{str(file)!r} is of another model: `pldistill calibrate` makes it anew") from None
    return content.temperature
