"""The paper's tables as data: `results.yaml`, the only source of published figures."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("pldistill.studies").joinpath("results.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def published(table: str) -> dict[str, Any]:
    """A table of the paper by its key."""
    return _tables()[table]
