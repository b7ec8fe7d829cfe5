"""Ctrl-C and SIGTERM as a question that the loop asks between two steps, so that a step is never cut in half."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


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
