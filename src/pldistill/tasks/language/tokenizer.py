"""Tokenizers of the `tokenizers` library: trained on a text, or read from a file; and what names one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pldistill.paths import kind_of

FILE, END = "tokenizer.json", "<|endoftext|>"
_ENDS = (END, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")  # what public tokenizers call the end of a text


def train_tokenizer(documents: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE (GPT-2's splitting) of `size` tokens: the bytes, the end of a text, and merges by frequency.

    Any text can be written in it and read back to the byte. The same text gives the same tokenizer. A text too short
    for so many merges gives a smaller one.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = ByteLevelDecoder()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def read_tokenizer(path: str | Path, what: str = "tokenizer") -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of a folder that has one.

    Raises:
        ValueError: where there is none, or the file is none.
    """
    file = Path(path) / FILE if kind_of(Path(path)) == "a folder" else Path(path)
    if kind_of(file) != "a file":
        raise ValueError(f"{what}: expected a tokenizer.json or a folder with one, got {str(path)!r}, which has none")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no narrower one
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what}: {str(file)!r} is damaged or no tokenizer of the tokenizers library: {reason}"
        ) from None
    tokenizer.no_truncation()  # which are of single texts, for a model's input
    tokenizer.no_padding()
    return tokenizer


def token_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Every token by its id; an id that no token has is `<unused ID>`."""
    by_id = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    return tuple(by_id.get(number, f"<unused {number}>") for number in range(max(by_id) + 1))


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a text.

    Raises:
        ValueError: for a tokenizer without one of the usual names.
    """
    for name in _ENDS:
        if (number := tokenizer.token_to_id(name)) is not None:
            return number
    raise ValueError(f"tokenizer: expected a token for the end of a text, one of {', '.join(_ENDS)}, got none of them")


def fingerprint(tokenizer: Tokenizer) -> str:
    """A SHA-256 of all that the tokenizer does."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def encode(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """`(T,)` int32: the documents one after the other, the end of a text before each and after the last.

    So every token of a document has one before it that it is predicted from.

    Raises:
        ValueError: for a text that the tokenizer cannot write.
    """
    end = end_of_text(tokenizer)
    parts: list[np.ndarray] = []
    for first in range(0, len(documents), 1024):
        try:
            encodings = tokenizer.encode_batch_fast(list(documents[first : first + 1024]), add_special_tokens=False)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"tokenizer: cannot write the text: {' '.join(str(error).split())}") from None
        for encoding in encodings:
            parts += [np.array([end], np.int32), np.array(encoding.ids, np.int32)]
    return np.concatenate([*parts, np.array([end], np.int32)])
