"""What a launcher says in the environment, and Ctrl-C and SIGTERM as a question; without torch.

The loop asks between two steps whether a signal came, so that a step is never cut in half.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

# What launchers call it: torchrun (also below `accelerate launch` for GPUs), and the MPIs that `accelerate launch`
# starts processes of a CPU by: Intel MPI, Open MPI, MVAPICH.
_NAMES = {
    "SIZE": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "LOCAL_SIZE": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
    "RANK": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
}


class RemoteProcessError(ValueError):
    """Another process failed; it says itself what was wrong."""


def launched() -> int:
    """How many processes the launcher has started, whether or not they have met."""
    return _told("SIZE", 1)


def launched_here() -> int:
    """How many of them on this machine."""
    return _told("LOCAL_SIZE", 1)


def _told(what: str, default: int) -> int:
    """What the launcher said in the environment."""
    said = [os.environ[name] for name in _NAMES[what] if name in os.environ]
    return int(said[0]) if said else default


class Interrupted(Exception):
    """A run was asked to stop and has saved its state.

    Attributes:
        signal: the signal's number; the command line exits with 128 + signal, as shells expect.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class Interrupts:
    """While open, SIGINT and SIGTERM set `received` and nothing more; a second SIGINT interrupts at once.

    Not so with `patient`, for one of several processes: a launcher sends on the signal that the terminal has sent.
    Outside the main thread Python delivers no signals: there this does nothing.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.received = number


def launched_rank() -> int:
    """Which of the processes this one is, from 0, as the launcher says; 0 where it has started one."""
    return _told("RANK", 0) if launched() > 1 else 0
