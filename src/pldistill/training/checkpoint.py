"""State that survives a pulled plug: written aside, hashed, put in place at once, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from pldistill.files import write_atomically

INDEX = "index.json"


def save(folder: Path, state: dict[str, Any], *, step: int) -> None:
    """Make `state` the folder's checkpoint.

    The file is written and synced under a name of its own, then the index is swapped to it in one rename, and only
    then older files go: at every moment the index names a whole file.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"step-{step:08d}-{digest[:8]}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, data)
    write_atomically(folder / INDEX, json.dumps({"file": name, "sha256": digest, "step": step}).encode())
    for other in folder.iterdir():
        if other.name not in (name, INDEX):
            other.unlink()


def load(folder: Path) -> dict[str, Any] | None:
    """Read the folder's checkpoint, on the CPU, or give None where none was finished.

    Raises:
        ValueError: if the file that the index names is missing or is not what was written.
    """
    index = folder / INDEX
    if not index.exists():
        return None
    entry = json.loads(index.read_text(encoding="utf-8"))
    path = folder / entry["file"]
    if not path.exists():
        raise ValueError(f"checkpoint: expected {str(path)!r}, which is missing")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise ValueError(f"checkpoint: {str(path)!r} is damaged: expected SHA-256 {entry['sha256']}, got {digest}")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
