"""The options of a language model's data: its tokenizer, and how long a sequence is."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from pldistill.tasks.spec import TaskOptions

LEAST_VOCABULARY = 257  # the bytes, and the end of a text
_TRAINED = re.compile(r"bpe:([0-9]{1,7})")


def trained_size(tokenizer: str) -> int | None:
    """The vocabulary's size of `bpe:SIZE`; None for another text, which names a file or folder, or the teacher's.

    Raises:
        ValueError: for a size below that of the bytes.
    """
    match = _TRAINED.fullmatch(tokenizer)
    if match is None and tokenizer.startswith("bpe"):
        raise ValueError(f"expected bpe:SIZE, as bpe:512, got {tokenizer!r}")
    if match is not None and not LEAST_VOCABULARY <= int(match[1]) <= 1_000_000:
        raise ValueError(f"expected bpe:SIZE with a size from {LEAST_VOCABULARY} to 1,000,000, got {tokenizer!r}")
    return None if match is None else int(match[1])


def _checked(tokenizer: str) -> str:
    trained_size(tokenizer)
    return tokenizer


class LanguageOptions(TaskOptions):
    """How text becomes sequences of tokens."""

    tokenizer: Annotated[str, AfterValidator(_checked)] = Field(
        "",
        description="bpe:SIZE trains a byte-level BPE on the training text; a tokenizer.json or a folder with one is "
        "read; empty: the teacher's, or bpe:512 without a teacher.",
    )
    context: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        128, description="Tokens of a sequence: so many are predicted, each from those before it."
    )
