"""State that survives a pulled plug: written aside, hashed, put in place at once, checked when read.

    step-STEP-HASH.safetensors   a whole state (`state.py`); the last two are there
    index.json                   names the newest with its SHA-256 and, as `before`, the one before it

Checkpoints of older runs, `step-STEP-HASH.pt`, are read too. What others put into the folder is left alone.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from pldistill.files import write_atomically
from pldistill.json_files import Count, JsonFile, read_json, read_regular
from pldistill.paths import kind_of
from pldistill.training import state as states

INDEX = "index.json"
_OURS = re.compile(r"\.?step-\d{8,}(-[0-9a-f]{8})?\.(pt|safetensors)(\.part)?|\.index\.json\.part")
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{8})\.(pt|safetensors)")


class EntryFile(JsonFile):
    """A state that the index names. Its SHA-256, or the beginning of it, as its file's name has that."""

    file: Annotated[str, Field(pattern=r"^step-\d{8,}(-[0-9a-f]{8})?\.(pt|safetensors)$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    step: Count


class IndexFile(EntryFile):
    """What index.json must hold: the newest state, and the one before it."""

    before: EntryFile | None = None


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
        before = [entry for entry in _read_index(folder) if entry.file != name][:1]
    except ValueError:
        before = []  # a new index takes its place
    write_atomically(folder / name, data)
    _write_index(folder, [EntryFile(file=name, sha256=digest, step=step), *before])


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
            state = _read(folder / entry.file, entry.sha256)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if wrong and warn is not None:
            warn(f"{wrong[0]}; the run goes on from {entry.file}")
            _write_index(folder, entries[place:])
        return state
    if wrong:
        raise ValueError("; ".join(wrong))
    return None


def _read(path: Path, expected: str) -> dict[str, Any]:
    """Read one state; `expected` may be the beginning of its SHA-256."""
    if kind_of(path) is None:
        raise ValueError(f"checkpoint: expected {str(path)!r}, which is missing")
    data = read_regular(path, f"checkpoint {str(path)!r}")
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(expected):
        raise ValueError(f"checkpoint: {str(path)!r} is damaged: expected SHA-256 {expected}, got {digest}")
    try:
        state = _load_old(data) if path.suffix == ".pt" else states.decode(data)
    except ValueError as error:
        raise ValueError(f"checkpoint: {str(path)!r}: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint: {str(path)!r}: expected a dict of a run's state, got {type(state).__name__}")
    return state


def _load_old(data: bytes) -> Any:
    """A state as older runs wrote it: a torch file."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"expected a state of a run, got {len(data)} bytes that are none: {reason}") from None


def _read_index(folder: Path) -> list[EntryFile]:
    """The checkpoints that the index names, the newest first; ValueError where it is damaged."""
    path = folder / INDEX
    if kind_of(path) is None:
        return []
    index = read_json(path, IndexFile, f"checkpoint: {str(path)!r} is damaged")
    return [index, *([] if index.before is None else [index.before])]


def _by_name(folder: Path) -> list[EntryFile]:
    """The checkpoints that are there, the newest first; their names have the beginning of their SHA-256."""
    names = [name for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))]
    parts = sorted(((int(name[1]), name[2], name[0]) for name in names), reverse=True)
    return [EntryFile(file=name, sha256=digest, step=step) for step, digest, name in parts]


def _write_index(folder: Path, entries: Sequence[EntryFile]) -> None:
    """Put the index in place; what it does not name of our files goes."""
    newest, *older = entries
    index = IndexFile(file=newest.file, sha256=newest.sha256, step=newest.step, before=older[0] if older else None)
    write_atomically(folder / INDEX, index.model_dump_json(exclude_none=True).encode())
    named = {entry.file for entry in entries[:2]}
    for path in folder.iterdir():
        if path.is_file() and path.name not in named and _OURS.fullmatch(path.name):
            path.unlink()
