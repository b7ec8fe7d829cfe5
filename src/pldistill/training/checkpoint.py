"""State that survives a pulled plug: written aside, hashed, put in place at once, checked when read.

    step-STEP-HASH.safetensors   a whole state (`state.py`); the last two are there
    index.json                   names the newest with its SHA-256 and, as `before`, the one before it

Checkpoints of older runs, `step-STEP-HASH.pt`, are read too. What others put into the folder is left alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pldistill.files import write_atomically
from pldistill.training import state as states

INDEX = "index.json"
_OURS = re.compile(r"\.?step-\d{8,}(-[0-9a-f]{8})?\.(pt|safetensors)(\.part)?|\.index\.json\.part")
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{8})\.(pt|safetensors)")


def save(folder: Path, state: dict[str, Any], *, step: int) -> None:
    """Make `state` the folder's checkpoint, and keep the one before it.

    The file is written and synced under a name of its own, then the index is swapped to it in one rename, and only
    then older files go: at every moment the index names a whole file.
    """
    data = states.encode(state)
    digest = hashlib.sha256(data).hexdigest()
    name = f"step-{step:08d}-{digest[:8]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = [entry for entry in _read_index(folder) if entry["file"] != name][:1]
    except ValueError:
        before = []  # a new index takes its place
    write_atomically(folder / name, data)
    _write_index(folder, [{"file": name, "sha256": digest, "step": step}, *before])


def load(folder: Path, warn: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Read the folder's newest sound checkpoint, on the CPU, or give None where none was finished.

    Args:
        folder: where `save` wrote.
        warn: is told of a damaged one that the one before stands in for, and of a damaged index; the index then names
            what is used.

    Raises:
        ValueError: if no checkpoint that the index names is what was written.
    """
    wrong = []
    try:
        entries = _read_index(folder)
    except ValueError as error:
        entries, wrong = _by_name(folder), [str(error)]
    for place, entry in enumerate(entries):
        try:
            state = _read(folder / entry["file"], entry["sha256"])
        except ValueError as error:
            wrong.append(str(error))
            continue
        if wrong and warn is not None:
            warn(f"{wrong[0]}; the run goes on from {entry['file']}")
            _write_index(folder, entries[place:])
        return state
    if wrong:
        raise ValueError("; ".join(wrong))
    return None


def _read(path: Path, expected: str) -> dict[str, Any]:
    """Read one state; `expected` may be the beginning of its SHA-256."""
    if not path.is_file():
        raise ValueError(f"checkpoint: expected {str(path)!r}, which is missing")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(expected):
        raise ValueError(f"checkpoint: {str(path)!r} is damaged: expected SHA-256 {expected}, got {digest}")
    if path.suffix == ".pt":
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return states.decode(data)


def _read_index(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints that the index names, the newest first; ValueError where it is damaged."""
    try:
        newest = json.loads((folder / INDEX).read_bytes())
        entries = [newest, *([newest["before"]] if "before" in newest else [])]
        return [{"file": str(e["file"]), "sha256": _digest(e["sha256"]), "step": int(e["step"])} for e in entries]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"checkpoint: {str(folder / INDEX)!r} is damaged") from None


def _by_name(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints that are there, the newest first; their names have the beginning of their SHA-256."""
    names = [name for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))]
    parts = sorted(((int(name[1]), name[2], name[0]) for name in names), reverse=True)
    return [{"file": name, "sha256": digest, "step": step} for step, digest, name in parts]


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{8,64}", text):
        raise ValueError(f"expected a SHA-256, got {text!r}")
    return text


def _write_index(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Put the index in place; what it does not name of our files goes."""
    newest, *older = entries
    index = {**newest, "before": older[0]} if older else newest
    write_atomically(folder / INDEX, json.dumps(index).encode())
    named = {entry["file"] for entry in entries[:2]}
    for path in folder.iterdir():
        if path.is_file() and path.name not in named and _OURS.fullmatch(path.name):
            path.unlink()
