"""Faster ways to the numbers of `losses.ranking`, chosen by device and dtype; the plain way there stays the oracle.

A kernel is a function on rows,

    kernel(student, teacher, labels, temperature, ignore_index, reduction, plain, weighting) -> (loss, gradient)

student s and teacher t (M, C), labels y (M,), all checked and without a graph. It gives PLD reduced, () or for "none"
(M,), in float32; and the gradient (M, C) of that loss. Rows whose label is `ignore_index` are nought in both, whatever
they hold. `weighting` says what weights the ranks have; CUDA's kernel has the paper's alone.
`plain(student, teacher, labels, temperature) -> (losses (M,), gradient (M, C))` is the plain arithmetic of the same
weighting, for the rows that a kernel cannot do itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from pldistill.kernels import cpu, cuda
from pldistill.kernels.types import BY_TEACHER, LOGITS, Plain, Weighting, gradient_dtype

__all__ = ["BY_TEACHER", "Weighting", "gradient_dtype", "kernel_for", "switched_off"]

Kernel = Callable[[Tensor, Tensor, Tensor, float, int, str, Plain, Weighting], tuple[Tensor, Tensor]]

_switched_off = 0


def kernel_for(student: Tensor, teacher: Tensor, weighting: Weighting = BY_TEACHER) -> Kernel | None:
    """The kernel for these logits, None where the plain way is to be gone; looks at no value."""
    if _switched_off or student.dtype not in LOGITS or teacher.dtype not in LOGITS:
        return None
    if student.device.type == "cpu" and student.shape[1] <= cpu.MOST_CLASSES:
        return cpu.pld
    if weighting != BY_TEACHER:
        return None
    if student.device.type == "cuda" and student.shape[1] <= cuda.MOST_CLASSES and cuda.HAS_TRITON:
        return cuda.pld
    return None


@contextmanager
def switched_off() -> Iterator[None]:
    """Within it, the plain way is gone everywhere: for tests and benchmarks. Of the whole process, not of a thread."""
    global _switched_off
    _switched_off += 1
    try:
        yield
    finally:
        _switched_off -= 1
