"""Files written whole or not at all, and the cache folder of those that can be made again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """`$PLDISTILL_CACHE`, or `~/.cache/pldistill`."""
    return Path(os.environ.get("PLDISTILL_CACHE") or "~/.cache/pldistill").expanduser()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a neighbor of `path`, then rename it: a reader sees all of it or none.

    Raises:
        ValueError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        hint = "set PLDISTILL_CACHE to a folder that can be written"
        raise ValueError(f"cache folder {path.parent}: cannot write there ({error.strerror}); {hint}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, also after a power cut, sees the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    if os.name == "posix":  # the new name lives in the folder, which has its own sync
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
