"""Threads of our own that share the chunks of a call, kept from call to call.

torch's threads help its operators alone, and NumPy sorts on one thread. Both release Python's lock while they work, so
that threads that have a chunk each run side by side.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import torch

MOST_THREADS = 8  # beyond, what each call of torch and NumPy does under Python's lock is the bound
_PATIENCE = 60.0  # seconds for the threads to begin
Chunk = TypeVar("Chunk")


class _Threads:
    """As many as were ever asked for, each with one thread of torch."""

    def __init__(self) -> None:
        self.count = 0
        self.pool: ThreadPoolExecutor | None = None
        self.lock = threading.Lock()

    def pool_of(self, count: int) -> ThreadPoolExecutor:
        with self.lock:
            if self.pool is None or self.count < count:
                if self.pool is not None:
                    self.pool.shutdown(wait=False)
                self.count, self.pool = count, _start(count)
            return self.pool


def _start(count: int) -> ThreadPoolExecutor:
    """Threads of which each leaves torch's operators itself alone to run on.

    torch holds that number for each thread; but to set it also sets the number that threads begin with. A thread that
    does nothing else finds that one out and sets it back.
    """
    ready = threading.Barrier(count + 1, timeout=_PATIENCE)  # only then is each task on a thread of its own

    def begin() -> None:
        torch.get_num_threads()  # a thread that has not looked yet would still take the number at first
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, "pldistill")
    with ThreadPoolExecutor(1) as other:
        at_first = other.submit(torch.get_num_threads).result()
        try:
            for _ in range(count):
                pool.submit(begin)
            ready.wait()
        finally:
            other.submit(torch.set_num_threads, at_first).result()
    return pool


_threads = _Threads()


def _forget() -> None:
    """In a forked process none of the parent's threads is alive, and a lock may be held by one of them."""
    global _threads
    _threads = _Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def threads_for_rows() -> int:
    """How many threads may share the rows of a call: torch's number, where each thread has a number of its own."""
    return min(torch.get_num_threads(), MOST_THREADS) if torch.backends.openmp.is_available() else 1


def share(work: Callable[[Chunk], None], chunks: Iterable[Chunk], count: int) -> None:
    """Do `work` on every chunk, by so many threads; each takes the next chunk when it is done with one.

    The threads work in inference mode, which may write to what was made in any mode, and hear no warning of NumPy. The
    first error of a thread is raised when all have ended; then no further chunk is taken.
    """
    if count < 2:
        for chunk in chunks:
            work(chunk)
        return
    left = deque(chunks)
    pool = _threads.pool_of(count)
    running = [pool.submit(_take, work, left) for _ in range(min(count, len(left)))]
    try:
        wait(running)
    except BaseException:  # Ctrl-C
        left.clear()
        raise
    for each in running:
        each.result()


def _take(work: Callable[[Chunk], None], left: deque[Chunk]) -> None:
    try:
        with torch.inference_mode(), np.errstate(all="ignore"):
            while True:
                try:
                    chunk = left.popleft()
                except IndexError:
                    return
                work(chunk)
    except BaseException:
        left.clear()
        raise
