"""Several processes as one: who this one is, what all of them agree on, sums and batches joined over them.

Started by `accelerate launch` or `torchrun`. A process that is alone talks to nobody: every function here then gives
back what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from pldistill.launch import RemoteProcessError, launched_rank
from pldistill.types import Outputs

Result = TypeVar("Result")


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0; before they have met, as the launcher says."""
    if world_size() > 1:
        return distributed.get_rank()
    return launched_rank()


def is_main_process() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def leave() -> None:
    """Part from the others, at the end of the program."""
    if world_size() > 1:
        distributed.destroy_process_group()


def run_on_all(act: Callable[[], Result]) -> Result:
    """Do `act` in every process, without talking to the others in it; go on only if it went well in all of them.

    Raises:
        Exception: what `act` raised, in the first process where it did so.
        RemoteProcessError: in the other processes.
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


def mean_of(gradients: list[Tensor]) -> list[Tensor]:
    """Give the mean of each over the processes, which have the same shapes in the same order."""
    if world_size() == 1:
        return gradients
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def all_reduce_min(numbers: Tensor) -> Tensor:
    """Give the smallest of each number over the processes."""
    if world_size() > 1:
        numbers = numbers.clone()
        distributed.all_reduce(numbers, distributed.ReduceOp.MIN)
    return numbers


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in any process."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_min(torch.tensor(-int(flag), device=device)).item())


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
