"""Exact PLD on the CPU, in torch and NumPy alone.

A float32 widened to float64 leaves 29 bits of its mantissa at 0. They take the class's index, NumPy sorts the doubles
with the processor's vector instructions, and both logit and index are read off the sorted keys: about ten times faster
than `torch.sort`. Rows are taken a chunk at a time, so that what is worked on stays in the cache, and each chunk's
gradient is written where it is to lie.

The sums run over ascending teacher logits, the label last: X_k is a running sum there, and G_k one from the other end
(symbols as in `losses.ranking`). In float32 they are exact to its rounding as long as no X_k of a place with weight is
many orders below the row's top; torch adds them up in float64. Rows of which that is not so, and rows that hold a NaN
or an infinity that counts, are given to the plain way.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dtypes import Plain, gradient_dtype

MOST_CLASSES = 2**24
_CHUNK = 2**16
_INDEX = np.int64(2**29 - 1)
_LABEL = np.int64(0x7E00000000000000)  # as a float64, 2^993: above every float32
_BELOW_ALL = -(2.0**1000)  # as a float32, -inf; its mantissa has room for an index
_SMALLEST = math.exp(-70)  # of the worth that may be left: what is lost below float32's range is 3e-8 of it
_TINY = float(np.finfo(np.float32).tiny)

Bits = NDArray[np.int64]


def pld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    ignore_index: int,
    reduction: str,
    plain: Plain,
) -> tuple[Tensor, Tensor]:
    """A kernel, see `kernels`."""
    rows, classes = student.shape
    y = labels.numpy()
    left_out = y == ignore_index
    count = rows - int(np.count_nonzero(left_out))
    y = np.where(left_out, 0, y).astype(np.int64)
    scale = 1 / max(count, 1) if reduction == "mean" else 1.0
    losses = torch.empty(rows, dtype=torch.float32)
    gradient = torch.empty(rows, classes, dtype=gradient_dtype(student.dtype, reduction))
    step = max(1, min(rows, _CHUNK // classes))
    scratch = _scratch(max(step * classes, 1))
    hard = np.zeros(rows, dtype=bool)
    for at in range(0, rows, step):
        part = slice(at, min(at + step, rows))
        chunk = Chunk(scratch, student[part], teacher[part], y[part])
        hard[part] = chunk.compute(temperature, scale, losses[part], gradient[part])
    hard &= ~left_out
    if hard.any():
        at = torch.from_numpy(np.flatnonzero(hard))
        found, slopes = plain(student[at], teacher[at], torch.from_numpy(y)[at], temperature)
        losses[at] = (found * scale).to(losses.dtype)
        gradient[at] = (slopes * scale).to(gradient.dtype)
    if count < rows:
        out = torch.from_numpy(np.flatnonzero(left_out))
        losses[out] = 0
        gradient[out] = 0
    if reduction == "none":
        return losses, gradient
    total = losses.sum(dtype=torch.float64).float()
    return (total if count or reduction == "sum" else total * math.nan), gradient


class Scratch(threading.local):
    """Room for one chunk, kept from call to call: the system takes longer to give memory than the sums take."""

    size = 0

    def grow(self, size: int) -> None:
        self.size = size
        self.keys = np.empty(size)
        self.places = torch.arange(size)
        self.floats = [torch.empty(size) for _ in range(4)]
        self.sums = [torch.zeros(1 + size) for _ in range(2)]


_kept = Scratch()


def _scratch(size: int) -> Scratch:
    if _kept.size < size:
        _kept.grow(size)
    return _kept


class Chunk:
    """Some rows of student and teacher with room to work in."""

    def __init__(self, scratch: Scratch, student: Tensor, teacher: Tensor, labels: Bits) -> None:
        rows, classes = self.shape = student.shape
        size = rows * classes
        self.student, self.teacher = student, teacher
        self.labels = labels + np.arange(rows) * classes
        self.keys = scratch.keys[:size].reshape(rows, classes)
        self.bits = self.keys.view(np.int64)
        self.places = scratch.places[:size].view(rows, classes)
        self.floats = [each[:size].view(rows, classes) for each in scratch.floats]
        self.sums = [each[at : at + size].view(rows, classes) for each in scratch.sums for at in (1, 0)]

    def compute(self, temperature: float, scale: float, losses: Tensor, gradient: Tensor) -> NDArray[np.bool_]:
        """Write losses and gradient, both times `scale`; say of which rows they are worth nothing."""
        worth, t, share, spare = self.floats
        left, one_left, running, before = self.sums
        masked, hard = self.sort()
        self.rank(t.numpy())
        if not self.student.is_contiguous() or self.student.dtype != torch.float32:
            self.student = spare.copy_(self.student)
        np.take(self.student.numpy().reshape(-1), self.bits, out=worth.numpy(), mode="wrap")  # "raise" would copy
        alpha = _weights(t, temperature, -scale)
        torch.cumsum(worth.sub_(self.student.amax(1, keepdim=True)).exp_(), 1, out=left)
        lowest = left[:, 0].clone()
        masked |= bool((lowest < _SMALLEST).any())
        if masked:
            lowest = torch.where(alpha < 0, left, 1).amin(1)
            left.clamp_(min=_TINY)
        torch.div(alpha, left, out=share)
        left[:, -1] = one_left[0, 0] = 0  # so that `one_left`, X_{k+1} of each place, is nothing at a row's last
        torch.cumsum(share.flip(1), 1, out=running)
        running[:, -1] = 0
        slopes = share.mul_(one_left).addcmul_(worth, before.flip(1), value=-1)
        costs = one_left.div_(worth).log1p_().mul_(alpha)
        if masked:
            costs.masked_fill_(alpha == 0, 0)
        losses.copy_(costs.sum(1).neg_())
        self.scatter(slopes, gradient, spare)
        return hard | ~(losses.isfinite() & (lowest >= _SMALLEST)).numpy()

    def sort(self) -> tuple[bool, NDArray[np.bool_] | bool]:
        """Sort the keys; say whether a teacher's logit is -inf, and which rows hold a NaN or +inf."""
        self.pack()
        self.keys.sort(axis=1)
        if np.array_equal(self.bits[:, -1], self.labels | _LABEL):
            return False, False
        self.pack(tame=True)
        self.keys.sort(axis=1)
        return True, ~(self.teacher.amax(1) < math.inf).numpy()

    def pack(self, tame: bool = False) -> None:
        keys, bits = torch.from_numpy(self.keys), torch.from_numpy(self.bits)
        keys.copy_(self.teacher)
        if tame:
            np.nan_to_num(self.keys, copy=False, nan=0.0, posinf=0.0, neginf=_BELOW_ALL)
        self.at_label = keys.view(-1)[torch.from_numpy(self.labels)]
        bits.bitwise_or_(self.places)
        self.bits.reshape(-1)[self.labels] = self.labels | _LABEL

    def rank(self, t: NDArray[np.float32]) -> None:
        """Read the sorted logits into `t`, and leave of the keys the places that they came from."""
        self.keys[:, -1] = self.at_label
        torch.from_numpy(t).copy_(torch.from_numpy(self.keys))  # NumPy would warn of -inf
        np.bitwise_and(self.bits, _INDEX, out=self.bits)
        self.bits[:, -1] = self.labels
        ties = t[:, 1:-1] == t[:, :-2]
        if ties.any():
            _order_ties(self.bits, ties)

    def scatter(self, slopes: Tensor, gradient: Tensor, spare: Tensor) -> None:
        """Bring the gradient back into the classes' order."""
        target = gradient if gradient.dtype == torch.float32 else spare
        target.view(-1).scatter_(0, torch.from_numpy(self.bits).view(-1), slopes.view(-1))
        if target is not gradient:
            gradient.copy_(target)


def _weights(t: Tensor, temperature: float, scale: float) -> Tensor:
    """`scale` times softmax(t / τ), in place; the largest logit is taken off where that is still exact."""
    t.sub_(t.amax(1, keepdim=True))
    if temperature != 1:
        t.div_(temperature)
    worths = t.exp_()
    return worths.mul_(scale / worths.sum(1, keepdim=True))


def _order_ties(places: Bits, ties: NDArray[np.bool_]) -> None:
    """Let the lower class of equal logits go last; among positive logits the keys say otherwise."""
    rows, columns = np.nonzero(ties)
    first = rows * places.shape[1] + columns  # equal to the one after it
    starts = np.diff(first, prepend=-2) > 1
    run = np.cumsum(starts)
    members = np.concatenate([first[starts], first + 1])
    flat = places.reshape(-1)
    keys = np.concatenate([run[starts], run]) << 29 | (_INDEX - flat[members])
    keys.sort()
    members.sort()
    flat[members] = _INDEX - (keys & _INDEX)
