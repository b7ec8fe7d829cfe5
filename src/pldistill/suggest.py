"""One plain sentence for an unknown name: what came, what was expected, and the near names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, put the nearest names first and list what is known.

    Lists of more than 40 names (timm's models, say) show the near ones alone.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    message = f"unknown {kind} {name!r}"
    if near:
        message += f"; did you mean {' or '.join(near)}?"
    if len(known) <= 40:
        message += f"{'' if near else ';'} known: {', '.join(known)}"
    return message
