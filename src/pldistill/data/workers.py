"""Worker processes that read for a loader and live as long as it does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import torch

GRACE = 10  # seconds that a worker goes on after SIGTERM


class Workers:
    """What `reading[key]` gives for each key asked for, in order, from `count` processes; from this one where 0."""

    def __init__(self, reading: torch.utils.data.Dataset, count: int, *, pin: bool) -> None:
        self._keys: list[Any] = []  # what they read next; filled anew for each view
        self._turn = 0
        self._reader = torch.utils.data.DataLoader(
            reading,
            batch_size=None,
            sampler=self._keys,
            num_workers=count,
            persistent_workers=count > 0,
            pin_memory=pin,
            worker_init_fn=_outlive_a_signal,
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )

    def read(self, keys: list[Any]) -> Iterator[Any]:
        """Give what is read for each key.

        Raises:
            ValueError: asked for more after a later call has begun.
        """
        self._turn = turn = self._turn + 1
        self._keys[:] = keys
        reader = iter(self._reader)
        for _ in keys:
            if turn != self._turn:
                raise ValueError("epoch: a later epoch of this loader has begun, so this one cannot go on")
            yield next(reader)


def _outlive_a_signal(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; a worker that died would fail the batch in hand.

    After SIGTERM it dies a while later: Python's own exit sends one to the workers that are left, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
