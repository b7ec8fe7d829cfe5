"""PLD on CUDA: loss and gradient of a row by one program of `_row_kernel`, for float32 and narrower logits.

Nothing here waits for the device or looks at a value, so that a CUDA graph may capture it. Triton is imported with the
first call alone: it comes with torch on Linux, and the package does without it.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from pldistill.kernels.types import BY_TEACHER, Plain, Weighting, gradient_dtype

HAS_TRITON = find_spec("triton") is not None
MOST_CLASSES = 1024  # a row lies in the registers of a program; beyond, torch's own sort is the cheaper one


def pld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    reduction: str,
    plain: Plain | None = None,
    weighting: Weighting = BY_TEACHER,
) -> tuple[Tensor, Tensor]:
    """A kernel, see `kernels`, of the paper's weighting; `plain` is not needed.

    A label that is no class makes its row NaN.
    """
    count = (labels != ignore_index).sum() if reduction == "mean" else None
    losses = student.new_empty(student.shape[0], dtype=torch.float32)
    gradient = student.new_empty(student.shape, dtype=gradient_dtype(student.dtype, reduction))
    _launch(student, teacher, labels, losses, gradient, count, temperature, ignore_index)
    if reduction == "none":
        return losses, gradient
    return losses.sum() if count is None else losses.sum() / count, gradient


def _launch(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    losses: Tensor,
    gradient: Tensor,
    count: Tensor | None,
    temperature: float,
    ignore_index: int,
) -> None:
    """Fill `losses` (M,) and `gradient` (M, C), the latter over `count`."""
    from pldistill.kernels._row_kernel import pld_row

    rows, classes = student.shape
    if rows == 0:
        return
    student, teacher = (z if z.stride(1) == 1 else z.contiguous() for z in (student, teacher))
    block, warps = launch_shape(classes)
    with torch.cuda.device_of(student):
        pld_row[(rows,)](
            student, teacher, labels.contiguous(), losses, gradient, count,
            student.stride(0), teacher.stride(0), classes, ignore_index, float(temperature),
            BLOCK=block, num_warps=warps, enable_fp_fusion=True,  # pyright: ignore[reportCallIssue]
        )  # fmt: skip


def launch_shape(classes: int) -> tuple[int, int]:
    """Places of a program, a power of two, and its warps: about eight places a thread."""
    block = max(16, 1 << (classes - 1).bit_length())
    return block, max(1, block // 256)
