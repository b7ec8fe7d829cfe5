"""`hfds/NAME` as text: a data set of Hugging Face `datasets`, by its name, or a folder of one.

A document is a row's "text".
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

COLUMN = "text"
VALIDATION = ("validation", "val", "valid", "test")
SAVED = ("dataset_dict.json", "state.json")  # of a folder that `save_to_disk` wrote: of all splits, of one


def read_splits(path: Path, *, evaluation: bool) -> tuple[list[str], list[str]]:
    """The documents of the split `train` and of the first validation split that there is, each without empty rows.

    A folder may hold what `save_to_disk` wrote, or files that `load_dataset` reads. Without a validation split the
    second is empty. For `evaluation` a validation split is enough, and the first is then empty.

    Raises:
        ValueError: the package `datasets` is not installed; no such data set, no split `train`, no column of strings
            named "text".
    """
    name = f"hfds/{path}"
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(f"hfds: expected the package datasets for {name}; pip install datasets brings it")
    splits = _load(path, name)
    scoring = next((split for split in VALIDATION if split in splits), None)
    if evaluation and scoring is not None:
        return [], _texts(name, splits, scoring)
    if "train" not in splits:
        raise ValueError(f"{name}: expected a split train, got {', '.join(map(str, splits)) or 'none'}")
    return _texts(name, splits, "train"), [] if scoring is None else _texts(name, splits, scoring)


def _load(path: Path, name: str) -> dict[str, Any]:
    datasets = importlib.import_module("datasets")  # optional, so a type checker need not find it
    try:
        if any((path / file).is_file() for file in SAVED):
            saved = datasets.load_from_disk(str(path))
            return saved if isinstance(saved, dict) else {"train": saved}
        return datasets.load_dataset(str(path))
    except Exception as error:  # the Hub's client, pyarrow and the package's own checks raise anything
        about = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{name}: expected a data set on this machine or the Hub; datasets failed ({about})"
        ) from error


def _texts(name: str, splits: Any, split: str) -> list[str]:
    columns = splits[split].column_names
    if COLUMN not in columns:
        raise ValueError(f'{name}: expected a column "{COLUMN}" in {split}, got {", ".join(columns)}')
    texts = list(splits[split][COLUMN])
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise ValueError(f'{name}: expected strings in the column "{COLUMN}" of {split}, got {text!r} in row {row}')
    return [text for text in texts if text]
