"""Several processes as one: who this one is, what all of them agree on, sums and batches joined over them.

Ctrl-C and SIGTERM, too, are a question that the loop asks between two steps, so that a step is never cut in half.
Started by `accelerate launch` or `torchrun`. A process that is alone talks to nobody: every function here then gives
back what it was given.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from pldistill.types import Outputs

Result = TypeVar("Result")

# What launchers call it: torchrun (also below `accelerate launch` for GPUs), and the MPIs that `accelerate launch`
# starts processes of a CPU by: Intel MPI, Open MPI, MVAPICH.
_NAMES = {
    "SIZE": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "LOCAL_SIZE": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
    "RANK": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
}


class RemoteProcessError(ValueError):
    """Another process failed; it says itself what was wrong."""


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def launched() -> int:
    """How many the launcher has started, whether or not they have met."""
    return _told("SIZE", 1)


def launched_here() -> int:
    """How many of them on this machine."""
    return _told("LOCAL_SIZE", 1)


def rank() -> int:
    """Which of them this one is, from 0; before they have met, as the launcher says."""
    if world_size() > 1:
        return distributed.get_rank()
    return _told("RANK", 0) if launched() > 1 else 0


def is_main_process() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def _told(what: str, default: int) -> int:
    """What the launcher said in the environment."""
    said = [os.environ[name] for name in _NAMES[what] if name in os.environ]
    return int(said[0]) if said else default


def leave() -> None:
    """Part from the others, at the end of the program."""
    if world_size() > 1:
        distributed.destroy_process_group()


def run_on_all(act: Callable[[], Result]) -> Result:
    """Do `act` in every process, without talking to the others in it; go on only if it went well in all of them.

    Raises:
        Exception: what `act` raised, in the first process where it did so.
        Elsewhere: in the other processes.
    """
    if world_size() == 1:
        return act()
    failure = result = None
    try:
        result = act()
    except Exception as error:
        failure = error
    messages = gather(None if failure is None else f"{type(failure).__name__}: {failure}")
    failed = [number for number, message in enumerate(messages) if message is not None]
    if not failed:
        return result  # pyright: ignore[reportReturnType]  # of a call that went well
    if failed[0] == rank():
        assert failure is not None
        raise failure
    raise RemoteProcessError(f"process {failed[0]} failed: {messages[failed[0]]}")


def run_on_main(act: Callable[[], Result]) -> Result:
    """Do `act` in the first process alone and give what came of it in all of them; its error as in `everywhere`."""
    if world_size() == 1:
        return act()
    box = [run_on_all(lambda: act() if is_main_process() else None)]
    distributed.broadcast_object_list(box, src=0)
    return box[0]  # pyright: ignore[reportReturnType]  # the first process's


def gather(value: Any) -> list[Any]:
    """Give every process's `value`, in the order of the processes, to all of them."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add scalars up over the processes, in float64; every process must have the same names in the same order."""
    if world_size() == 1:
        return dict(sums)
    stacked = torch.stack([value.to(torch.float64) for value in sums.values()])
    distributed.all_reduce(stacked)
    return dict(zip(sums, stacked, strict=True))


def all_reduce_min(numbers: Tensor) -> Tensor:
    """Give the smallest of each number over the processes."""
    if world_size() > 1:
        numbers = numbers.clone()
        distributed.all_reduce(numbers, distributed.ReduceOp.MIN)
    return numbers


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers: BatchNorm's running statistics are each process's own."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def all_gather_with_grad(outputs: Outputs) -> Outputs:
    """Put the outputs of all processes together, in their order, each with the gradient that is due to it.

    Every process then computes the same loss L from the joined rows. Where its n of the N images weight it by n / N
    and gradients are summed over the processes, as the loop does, the sum is the gradient of L on the joined batch: the
    rows of a process get their part of the gradient, times N / n.
    """
    if world_size() == 1:
        return outputs
    return Outputs(join_rows(outputs.logits), {name: join_rows(rows) for name, rows in outputs.features.items()})


def join_rows(rows: Tensor) -> Tensor:
    """Give `(N, ...)` from every process's `(n, ...)`; n may differ from one to the next."""
    if world_size() == 1:
        return rows
    sizes = torch.empty(world_size(), dtype=torch.int64, device=rows.device)
    distributed.all_gather_into_tensor(sizes, torch.tensor([len(rows)], device=rows.device))
    joined = _Join.apply(rows, sizes.tolist())
    assert isinstance(joined, Tensor)
    return joined


class _Join(torch.autograd.Function):
    """Gathers rows; its gradient needs no word with the others, for all of them have the whole."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # what is gathered must have one shape
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        ctx.start, ctx.own, ctx.all = sum(sizes[: rank()]), len(rows), sum(sizes)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own = gradients[0][ctx.start : ctx.start + ctx.own]
        return own * (ctx.all / ctx.own), None


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether `error` is how a process learns that another one has ended or does not answer."""
    return world_size() > 1 and (
        isinstance(error, distributed.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
    )


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
