"""Which logits the kernels take, the dtype of the gradient that they give, what they are handed for hard rows, and how
the ranks are weighted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weighting:
    """The weights α of the ranks, from q = softmax(t / τ), the label's being α_1.

    With `others` None, α = q, but for a label that has less than `label`: then α_1 is `label`, and the others keep
    their proportions in what is left. Otherwise the two parts are decoupled: α_1 is `label`, and the ranks behind it
    share
    `others` as q does, α_k = others q_k / (1 - q_y).
    """

    label: float = 0.0
    others: float | None = None


BY_TEACHER = Weighting()  # the paper's: α = q
Plain = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]  # the plain arithmetic; see `kernels`
LOGITS = (torch.float32, torch.bfloat16, torch.float16)


def gradient_dtype(student: torch.dtype, reduction: str) -> torch.dtype:
    """bfloat16 where that is its last rounding, else float32.

    The gradient is still multiplied by what comes from above. That is 1 after a mean or a sum, as a rule, and anything
    for single rows. In float16 a small gradient would be lost before a loss scale could save it.
    """
    return student if student == torch.bfloat16 and reduction != "none" else torch.float32
