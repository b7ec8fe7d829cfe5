"""Which precision fits the device: what `amp: auto` becomes, and what bfloat16 costs where it is emulated.

On a CPU without bfloat16 arithmetic a network in bfloat16 takes ten times as long as in float32. Torch says what most
CPUs have. Where it does not, or where the environment holds oneDNN or ATen back, one convolution is timed both ways.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


NAMES = {"bf16": "bfloat16", "fp16": "float16", "off": "float32"}
_ROUNDS = 5
# Variables that hold the libraries back from what the CPU has, so that what torch says of the CPU does not tell.
_HELD_BACK = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of a precision in `NAMES`."""
    import torch

    return getattr(torch, NAMES[precision])


def resolve(amp: str, device: torch.device) -> str:
    """Give the precision that `amp` means on the device: `auto` is bf16 where it is native, else off (float32)."""
    if amp != "auto":
        return amp
    return "bf16" if has_bf16(device) else "off"


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16, and does not emulate it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    told = _told_of_cpu()
    return told if told is not None else slowdown() < 1


def cpu_capability() -> str:
    """Name the CPU's vector instructions as torch uses them, and its bfloat16 arithmetic: `AVX512, bf16`, say."""
    import torch

    native = "bf16" if has_bf16(torch.device("cpu")) else "no bf16"
    return f"{torch.backends.cpu.get_cpu_capability()}, {native}"


def slowdown() -> float:
    """How many times as long one convolution takes in bfloat16 as in float32 on this CPU; timed once a process."""
    import torch

    return _slowdown(torch.get_num_threads())


def _told_of_cpu() -> bool | None:
    """What torch knows of the CPU's bfloat16; None where it does not tell."""
    import torch

    if any(os.environ.get(name) for name in _HELD_BACK) or platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    queries: list[Callable[[], bool] | None] = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    if any(query is None for query in queries):  # another version of torch
        return None
    return any(query() for query in queries if query is not None)


@lru_cache
def _slowdown(threads: int) -> float:
    import torch

    took: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        convolution = torch.nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)
        images = torch.zeros(16, 32, 16, 16).to(memory_format=torch.channels_last)
        for number in range(_ROUNDS + 1):
            for dtype, seconds in took.items():
                began = time.perf_counter()
                with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
                    convolution(images)
                if number > 0:  # the first prepares kernels
                    seconds.append(time.perf_counter() - began)
    return statistics.median(took[torch.bfloat16]) / statistics.median(took[torch.float32])


def warning(amp: str, device: torch.device) -> str | None:
    """What to tell a user who asked for bf16 by name where it is emulated; None elsewhere."""
    if amp != "bf16" or device.type != "cpu" or has_bf16(device):
        return None
    return (
        f"amp 'bf16': this CPU emulates bfloat16: a convolution takes {slowdown():.1f} times as long as in float32; "
        "--amp auto takes what fits"
    )


def of_record(recipe: dict[str, Any], env: dict[str, Any]) -> str:
    """The precision that a recorded run computed in; records of earlier versions name it in the recipe alone."""
    return str(env.get("precision", recipe.get("amp", "off")))
