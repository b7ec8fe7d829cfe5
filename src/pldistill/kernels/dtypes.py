"""Which logits the kernels take, the dtype of the gradient that they give, and what they are handed for hard rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Plain = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]  # the plain arithmetic; see `kernels`
LOGITS = (torch.float32, torch.bfloat16, torch.float16)


def gradient_dtype(student: torch.dtype, reduction: str) -> torch.dtype:
    """bfloat16 where that is its last rounding, else float32.

    The gradient is still multiplied by what comes from above. That is 1 after a mean or a sum, as a rule, and anything
    for single rows. In float16 a small gradient would be lost before a loss scale could save it.
    """
    return student if student == torch.bfloat16 and reduction != "none" else torch.float32
