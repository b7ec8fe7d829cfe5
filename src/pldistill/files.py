"""Files written whole or not at all, checked when read; folders that one process holds; the cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pldistill.json_files import Digest, JsonFile, read_json
from pldistill.paths import kind_of, require_file, require_new_or_folder

if TYPE_CHECKING:
    from torch import Tensor

LOCK, HOLDER = ".lock", ".holder.json"
_WAIT_FOR_CHILDREN = 10.0  # seconds: children of a process that was killed may hold its lock until they notice
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
# What a process that was killed leaves of a folder that it had only made.
_UNFINISHED = re.compile(
    r"\.lock|\.holder\.json|env\.json"
    r"|\.(recipe\.json|env\.json|header\.json|\.holder\.json|validation\.bin|view-\d{4}\.bin)\.part"
)


def cache_folder() -> Path:
    """`$PLDISTILL_CACHE`, or `~/.cache/pldistill`; ValueError where neither is there to be found."""
    try:
        return Path(os.environ.get("PLDISTILL_CACHE") or "~/.cache/pldistill").expanduser()
    except RuntimeError:
        raise ValueError("PLDISTILL_CACHE: expected a folder, for this user has no home folder, got none") from None


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


def cached_tensors(file: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file in the cache folder, which `make` gives where it is not there yet.

    Raises:
        ValueError: the folder cannot be written, or the file is damaged.
        OSError: the device's, as for any other file: safetensors has errors of its own for it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if not file.is_file():
        tensors = dict(make())
        try:
            write_whole(file, lambda temporary: save_file(tensors, temporary))
        except SafetensorError as error:
            told = re.search(r"os error (\d+)", str(error))
            if told is None:
                raise
            raise OSError(int(told[1]), os.strerror(int(told[1])), str(file)) from error
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged ({error}); delete it and it is made again") from error


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


def is_new(folder: Path) -> bool:
    """Whether a folder is not there, or holds nothing but what a process that was killed left of a beginning."""
    if not folder.exists():
        return True
    # What is gone by now was a part of something that another process has just renamed.
    return folder.is_dir() and all(_UNFINISHED.fullmatch(path.name) and not path.is_dir() for path in folder.iterdir())


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, against every other process that asks for it.

    The lock is the kernel's: it ends with its process, however that ends, and the files that a dead one left mean
    nothing. A folder that has nothing but these in the end goes with them.

    Where a file system does not know `flock` at all, filelock makes a file that says who made it, and takes it away
    where that process is no more.

    Raises:
        ValueError: another process holds it, a file lies there, or the file system has no locks to give.
    """
    from filelock import FileLock, Timeout  # where a line is refused nothing is to be locked

    require_new_or_folder(folder, "out")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=_WAIT_FOR_CHILDREN if _is_dead(_holder(folder)) else 0)
        while not (folder / LOCK).exists():  # the one before took its file away in between
            lock.release()
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(_in_use(folder)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        told = f"out: {str(folder)!r} lies on a file system without locks ({error.strerror}), where two processes"
        raise ValueError(f"{told} could spoil one another's run; choose a folder on another") from None
    try:
        who = HolderFile(pid=os.getpid(), host=platform.node())
        write_atomically(folder / HOLDER, who.model_dump_json().encode())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        with suppress(PermissionError):  # a system on which an open file cannot go: it means nothing without its lock
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # the first that is not empty, or that another process has taken by now
            for path in made:
                path.rmdir()


def refuse_held(folder: Path) -> None:
    """Refuse a folder that another process holds.

    Raises:
        ValueError: naming it.
    """
    from filelock import FileLock, Timeout

    if not (folder / LOCK).is_file():
        return
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return
    except Timeout:
        raise ValueError(_in_use(folder)) from None


class HolderFile(JsonFile):
    """What .holder.json says of the process that holds a folder."""

    pid: Annotated[int, Field(ge=1, le=2**31 - 1)]
    host: str


def _holder(folder: Path) -> HolderFile | None:
    """Who holds a folder; None where nothing says so, or what does is not written yet or taken away in between."""
    try:
        return read_json(folder / HOLDER, HolderFile)
    except ValueError:
        return None


def _in_use(folder: Path) -> str:
    who = _holder(folder)
    by = "another process" if who is None else f"process {who.pid} on {who.host}"
    return f"out: {str(folder)!r} is in use by {by}"


def _is_dead(who: HolderFile | None) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if who is None or who.host != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(who.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def sha256(path: Path) -> str:
    """A file's SHA-256, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()


def check_digest(path: Path, expected: str) -> None:
    """Check a file against the SHA-256 that it was written with.

    Raises:
        ValueError: it is missing, or not what was written.
    """
    if kind_of(path) is None:
        raise ValueError(f"expected {str(path)!r}, which is missing")
    require_file(path, path.name)
    if (got := sha256(path)) != expected:
        raise ValueError(f"{str(path)!r} is damaged: expected SHA-256 {expected}, got {got}")


class DigestsFile(JsonFile):
    """What result.json says of a run's files: the SHA-256 of each, by its name; runs of old versions say nothing."""

    sha256: dict[str, Digest] | None = None


def check_run_files(folder: Path, names: Iterable[str]) -> None:
    """Check files of a run's folder, or of `best/` in it, against the SHA-256 that the run's result.json has of them.

    Where there is no result, or one without these, as older runs wrote it, nothing is checked.

    Raises:
        ValueError: a file is missing, or not what the run wrote.
    """
    root, prefix = folder, ""
    if not (folder / "result.json").is_file() and folder.name == "best":
        root, prefix = folder.parent, "best/"
    if kind_of(root / "result.json") is None:
        return
    try:
        digests = read_json(root / "result.json", DigestsFile).sha256 or {}
    except ValueError as error:
        raise ValueError(f"{str(root / 'result.json')!r} is damaged: {error}") from None
    for name in names:
        if prefix + name in digests:
            check_digest(folder / name, digests[prefix + name])
