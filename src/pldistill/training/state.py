"""A tree of dicts, lists, tuples, numbers, texts and tensors as one safetensors file, there and back bit for bit.

The tensors lie in the file by number. The rest is JSON in the file's metadata: a number, a text, true, false and null
as they are, and everything else as an object with one key that says what it is:

    {"tensor": 3}                     the tensor of this number
    {"tensor": 3, "order": [0, 2, 1]} the same, which lies in memory with its dimensions in this order
    {"list": [...]}, {"tuple": [...]}
    {"dict": [[key, value], ...]}     keys are texts or whole numbers

Nothing in such a file is code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pldistill.json_files import DEEPEST

_TREE = "tree"


def encode(state: Any) -> bytes:
    """Give the bytes of the file that holds `state`; tensors of any device come back on the CPU.

    Raises:
        ValueError: for what such a file cannot hold, naming where it is.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "state", tensors)
    return save(tensors, metadata={_TREE: json.dumps(tree)})


def decode(data: bytes) -> Any:
    """Give back what `encode` was given.

    Raises:
        ValueError: for other bytes.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        tree = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_TREE])
        return _unpack(tree, load(data))
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expected a state of a run, got {len(data)} bytes that are none: {reason}") from None


def _pack(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return _pack_tensor(value.detach().cpu(), tensors)
    if isinstance(value, (list, tuple)):
        inner = [_pack(part, f"{where}[{place}]", tensors) for place, part in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": inner}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (int, str)) or isinstance(key, bool):
                raise ValueError(f"{where}: expected keys that are texts or whole numbers, got {key!r}")
        return {"dict": [[key, _pack(part, f"{where}.{key}", tensors)] for key, part in value.items()]}
    raise ValueError(f"{where}: expected a tensor, number, text, list, tuple or dict, got {type(value).__name__}")


def _pack_tensor(value: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A file's tensors are contiguous and share no memory; one whose dimensions lie in another order keeps it."""
    packed: dict[str, Any] = {"tensor": len(tensors)}
    order = sorted(range(value.dim()), key=lambda place: -value.stride(place))
    if not value.is_contiguous() and value.permute(order).is_contiguous():
        packed["order"] = order
        value = value.permute(order)
    tensors[str(len(tensors))] = value.clone(memory_format=torch.contiguous_format)
    return packed


def _unpack(tree: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    if not isinstance(tree, dict):
        return tree
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels")
    if "tensor" in tree:
        value = tensors[str(tree["tensor"])]
        order = tree.get("order")
        return value if order is None else value.permute([order.index(place) for place in range(len(order))])
    ((kind, inner),) = tree.items()
    if kind == "dict":
        return {key: _unpack(part, tensors, depth + 1) for key, part in inner}
    parts = [_unpack(part, tensors, depth + 1) for part in inner]
    return {"list": list, "tuple": tuple}[kind](parts)
