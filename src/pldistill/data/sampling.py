"""Every draw is a function of (seed, view, sample id, name): no generator, so no state to save, share or lose."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

Views = int | np.ndarray


def key(seed: int, view: int, name: str) -> int:
    """A 64-bit start for one named stream of draws: the first 8 bytes of BLAKE2b over the three, on any machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{view}/{name}".encode(), digest_size=8).digest(), "little")


def bits(seed: int, view: Views, ids: np.ndarray, name: str) -> np.ndarray:
    """`(N,)` uint64 for `ids (N,)`: the id-th value of the splitmix64 sequence that starts at `key(seed, view, name)`.

    `view` is one for all, or each id's own `(N,)`.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (finaliser: Stafford's mix 13).
    """
    state = _start(seed, view, name) + (np.asarray(ids).astype(np.uint64) + np.uint64(1)) * _GAMMA
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def _start(seed: int, view: Views, name: str) -> np.ndarray | np.uint64:
    if not isinstance(view, np.ndarray):
        return np.uint64(key(seed, view, name))
    few, which = np.unique(view, return_inverse=True)
    return np.array([key(seed, int(one), name) for one in few], dtype=np.uint64)[which]


def uniform(seed: int, view: Views, ids: np.ndarray, name: str) -> np.ndarray:
    """`(N,)` float64 in [0, 1), one draw for each id: the upper 53 bits of `bits`."""
    return (bits(seed, view, ids, name) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, view: int, ids: Tensor) -> Tensor:
    """`(N,)` int64 positions in the order of the view. Two images keep their relative order in every subset."""
    return torch.from_numpy(np.argsort(bits(seed, view, ids.numpy(), "order"), kind="stable"))
