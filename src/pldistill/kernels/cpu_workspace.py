"""Memory to work on a chunk of rows in, kept from call to call.

The system takes longer to give fresh memory than the sums over it take, and a view of a tensor takes as long to make as
a thousand logits to add.
"""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

_SHAPES = 8  # whose views are kept


class Memory:
    """For so many logits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.places = np.arange(size)
        self.keys = np.empty(size)
        self.floats = [torch.empty(size, dtype=torch.float32) for _ in range(3)]
        self.sums = [torch.empty(1 + size, dtype=torch.float32) for _ in range(2)]


class Workspace:
    """Arrays (R, C) and the views of them that are needed; those that torch writes are there for both libraries."""

    def __init__(self, memory: Memory, rows: int, classes: int) -> None:
        size = rows * classes
        self.rows, self.classes = rows, classes
        self.starts = np.arange(rows) * classes
        self.places = memory.places[:size].reshape(rows, classes)
        self.keys = memory.keys[:size].reshape(rows, classes)
        self.bits = self.keys.view(np.int64)
        self.flat_keys, self.flat_bits = self.keys.reshape(-1), self.bits.reshape(-1)
        self.p, self.worth, self.t = (each[:size].view(rows, classes) for each in memory.floats)
        # Running sums and, of the same memory a place on, those of the place before.
        (self.left, self.one_left), (self.upto, self.before) = (
            (each[1 : 1 + size].view(rows, classes), each[:size].view(rows, classes)) for each in memory.sums
        )
        self.numpy_p, self.numpy_worth, self.numpy_t = self.p.numpy(), self.worth.numpy(), self.t.numpy()
        self.numpy_left, self.numpy_one_left, self.numpy_upto, self.numpy_before = (
            each.numpy() for each in (self.left, self.one_left, self.upto, self.before)
        )
        self.flat_p, self.flat_t = self.numpy_p.reshape(-1), self.numpy_t.reshape(-1)
        self.ties = self.numpy_upto.reshape(-1).view(np.bool_)[: size - 1]  # the sums come after the ties
        self.ends = self.starts[:, None] + (classes - 1)

    @cached_property
    def from_last(self) -> NDArray[np.int32]:
        """How far each class is from the last."""
        return np.arange(self.classes - 1, -1, -1, dtype=np.int32)


class _Workspaces(threading.local):
    """Of one thread: while torch or NumPy work, another may run."""

    def __init__(self) -> None:
        self.memory = Memory(0)
        self.workspaces: dict[tuple[int, int], Workspace] = {}


_kept = _Workspaces()


def workspace_for(rows: int, classes: int) -> Workspace:
    found = _kept.workspaces.get((rows, classes))
    if found is None:
        with torch.inference_mode(False), torch.no_grad():  # else none but that mode may write there
            found = _made(rows, classes)
    return found


def _made(rows: int, classes: int) -> Workspace:
    if rows * classes > _kept.memory.size:
        _kept.memory = Memory(rows * classes)
        _kept.workspaces.clear()
    if len(_kept.workspaces) == _SHAPES:
        _kept.workspaces.clear()
    found = _kept.workspaces[rows, classes] = Workspace(_kept.memory, rows, classes)
    return found
