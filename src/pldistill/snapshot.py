"""All that a loop needs to go on from where it is, into its folder's checkpoint and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pldistill import checkpoint, distributed

if TYPE_CHECKING:
    from pldistill.loop import Loop


def save(loop: Loop) -> None:
    """Write the folder's checkpoint: the first of several processes does, with what is each one's own."""
    own, *others = distributed.gather(_own(loop))
    if not distributed.first():
        return
    scaler, average = loop.accelerator.scaler, loop.average
    state = {
        "epoch": loop.epoch,
        **own,
        "others": others,
        "distiller": loop.bare.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    checkpoint.save(loop.record.folder / "checkpoint", state, step=loop.epoch * loop.steps + loop.step)


def restore(loop: Loop) -> None:
    """Go on from the folder's checkpoint; where there is none, from the beginning."""
    state = checkpoint.load(loop.record.folder / "checkpoint")
    if distributed.first():
        loop.record.truncate(state["epoch"] if state is not None else 0)
    if state is None:
        return
    own = state if distributed.first() else state["others"][distributed.rank() - 1]
    loop.epoch = state["epoch"]
    loop.tally.load_state_dict(own["tally"])
    loop.bare.load_state_dict(state["distiller"])
    loop.optimizer.load_state_dict(state["optimizer"])
    if loop.average is not None:
        loop.average.load_state_dict(state["average"])
    if loop.accelerator.scaler is not None:
        loop.accelerator.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(own["rng"])
    if own["cuda_rng"] is not None:
        torch.cuda.set_rng_state(own["cuda_rng"])


def _own(loop: Loop) -> dict[str, Any]:
    """Give what is each process's own: its sums, and torch's generators, for what nets draw."""
    return {
        "tally": loop.tally.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if loop.accelerator.device.type == "cuda" else None,
    }
