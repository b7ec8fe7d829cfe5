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

import torch

MOST_THREADS = 8  # beyond, what each call of torch and NumPy does under Python's lock is the bound
Chunk = TypeVar("Chunk")


class _Threads:
    """As many as were ever asked for, each with one thread of torch."""

    def __init__(self) -> None:
        self.count = 0
        self.pool: ThreadPoolExecutor | None = None
        self.lock = threading.Lock()
        self.starting = threading.Lock()

    def pool_of(self, count: int) -> ThreadPoolExecutor:
        with self.lock:
            if self.pool is None or self.count < count:
                if self.pool is not None:
                    self.pool.shutdown(wait=False)
                self.count = count
                self.pool = ThreadPoolExecutor(count, "pldistill", initializer=_leave_torch_one_thread)
            return self.pool


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

    The first error of a thread is raised when all have ended. Modes of torch and NumPy are a thread's own: `work` sets
    those that it needs.
    """
    left = deque(chunks)

    def take_all() -> None:
        try:
            while True:
                try:
                    chunk = left.popleft()
                except IndexError:
                    return
                work(chunk)
        except BaseException:
            left.clear()
            raise

    if count < 2:
        take_all()
        return
    pool = _threads.pool_of(count)
    running = [pool.submit(take_all) for _ in range(min(count, len(left)))]
    try:
        wait(running)
    except BaseException:  # Ctrl-C
        left.clear()
        raise
    for each in running:
        each.result()


def _leave_torch_one_thread() -> None:
    """Let torch's operators run on this thread alone.

    torch holds the number for each thread, but to set it also sets the number that threads begin with. A thread that
    does nothing else sets that back.
    """
    with _threads.starting:
        at_first = torch.get_num_threads()
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(at_first,))
        other.start()
        other.join()
