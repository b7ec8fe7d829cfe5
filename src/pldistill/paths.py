"""What lies at a path: a file, a folder, or what is neither; and the line that refuses the wrong one.

A FIFO would be waited for, a device never ends and a socket cannot be read: none of them is opened.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has one slash of the two
_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(path: Path | str) -> str | None:
    """What lies at a path, links followed: `a file`, `a folder`, `a FIFO`, ...; None for nothing.

    Raises:
        ValueError: it cannot be looked at, as in a folder without permission or under a name that no file can have.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{str(path)!r} cannot be read: {reason}") from None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")


def is_address(text: Path | str) -> bool:
    """Whether a text is an address as `https://example.org/a`, which no file has."""
    return _ADDRESS.match(str(text)) is not None


def require_file(path: Path | str, name: str, what: str = "a file") -> None:
    """Refuse what is not a regular file, before it is opened.

    Args:
        path: what was given.
        name: of the argument, for the message.
        what: is expected, in words.

    Raises:
        ValueError: nothing there, a folder, a FIFO, a socket, a device, or an address.
    """
    _require("a file", path, name, what)


def require_folder(path: Path | str, name: str, what: str = "a folder") -> None:
    """Refuse what is not a folder; as `require_file`."""
    _require("a folder", path, name, what)


def require_new_or_folder(path: Path | str, name: str) -> None:
    """Refuse a path, of a folder to write in, at which something else than a folder lies, or below a file.

    Raises:
        ValueError: naming what lies there.
    """
    place = Path(path)
    for above in (place, *place.parents):
        if (kind := kind_of(above)) is not None:
            if kind != "a folder":
                where = "" if above == place else f": {str(above)!r}"
                raise ValueError(f"{name}: expected a folder, got {str(path)!r}{where}, which is {kind}")
            return


def _require(wanted: str, path: Path | str, name: str, what: str) -> None:
    """Refuse a path at which something else lies than what is wanted, one of `kind_of`'s kinds."""
    try:
        kind = kind_of(path)
    except ValueError as error:
        raise ValueError(f"{name}: expected {what}, got {error}") from None
    if kind == wanted:
        return
    if is_address(path):
        address = re.sub(":/+", "://", str(path), count=1)
        raise ValueError(f"{name}: expected {what}, got the address {address!r}: nothing is downloaded here")
    if name == str(path):
        raise ValueError(f"{name}: expected {what}, got {kind or 'nothing there'}")
    found = "does not exist" if kind is None else f"is {kind}"
    raise ValueError(f"{name}: expected {what}, got {str(path)!r}, which {found}")
