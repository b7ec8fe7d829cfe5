"""What two byte-level tokenizers make of one text: where tokens end, how one's are spelled in the other's.

The strings of byte-level tokens (GPT-2's, and those of most models since) are bytes, each written as one character, so
lengths in bytes are exact where a tokenizer's own offsets, in characters, are not: a token may end within a character.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pldistill.losses.cross_tokenizer import Projection
from pldistill.tasks.language.tokenizer import end_of_text

_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that stand for themselves
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTE = {**{chr(byte): byte for byte in _PRINTED}, **{chr(256 + n): byte for n, byte in enumerate(_OTHERS)}}
_CHARACTER = {byte: character for character, byte in _BYTE.items()}


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """The bytes that each token stands for, by its id; None for special tokens and for ids that no token has.

    Raises:
        ValueError: for a tokenizer that is not byte-level.
    """
    parts = json.loads(tokenizer.to_str())
    decoder = parts["decoder"] or {}
    if not any(part["type"] == "ByteLevel" for part in (decoder.get("decoders") or [decoder]) if part):
        raise ValueError(f"tokenizer: expected a byte-level one, got one with the decoder {decoder.get('type')!r}")
    added = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    spelled: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    plain = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    for token, number in vocabulary.items():
        if number in added:
            continue
        spelled[number] = plain[number].encode() if number in plain else bytes(_BYTE[character] for character in token)
    return spelled


def token_sizes(tokenizer: Tokenizer) -> Tensor:
    """(V,) int64: bytes of each token; 1 for the end of a text, which both models write, 0 for other special tokens.

    Raises:
        ValueError: for a tokenizer that is not byte-level, or has no end of a text.
    """
    sizes = [len(token or b"") for token in token_bytes(tokenizer)]
    sizes[end_of_text(tokenizer)] = 1
    return torch.tensor(sizes)


def token_ends(ids: Tensor, sizes: Tensor) -> Tensor:
    """(B, S) int64: how many bytes have been read when each token ends, for `align_tokens`; -1 for tokens of size 0."""
    lengths = sizes.to(ids.device)[ids]
    return torch.where(lengths > 0, lengths.cumsum(-1), -1)


def encode_with_ends(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(B, S) int64 twice: the end of a text, a text's tokens and the end again, and where they end, for `align_tokens`.

    Shorter rows are filled up with the end of a text, with ends of -1.

    Raises:
        ValueError: as `token_sizes`; for a tokenizer that changes a text (a normalizer, a prefix).
    """
    end, sizes, spelled = end_of_text(tokenizer), token_sizes(tokenizer), token_bytes(tokenizer)
    rows = []
    for text, encoding in zip(texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
        if b"".join(spelled[number] or b"" for number in encoding.ids) != text.encode():
            raise ValueError(f"tokenizer: expected one that leaves a text as it is, got another text for {text[:40]!r}")
        rows.append(torch.tensor([end, *encoding.ids, end]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)
    beyond = torch.arange(ids.shape[1]) >= torch.tensor([len(row) for row in rows])[:, None]
    return ids, token_ends(ids, sizes).masked_fill(beyond, -1)


def make_projection(
    source: Tokenizer,
    target: Tokenizer,
    *,
    pieces: int = 4,
    decay: float = 0.1,
    keep: int = 4,
    both_ways: bool = True,
) -> Projection:
    """W: how each token of one tokenizer is spelled in the other's, by rules on their bytes.

    A token that both have is itself, of weight 1, and so is the end of a text. Of another, the first `pieces` tokens
    that the target makes of its bytes have weights decay^0, decay^1, ..., divided by their sum; and, `both_ways`, where
    the source spells a target's token with it as the i-th, that token has as much. Of these the `keep` largest stay, of
    equal ones the first, and are divided by their sum. So every row sums to 1, and no weight goes to a token that no
    rule names: the public tool gives 28 % of each such row to the last of its columns by default, whatever that is.
    Special tokens but the end of a text have no row.

    For `p_kl` and `common_tokens` from the student's tokens to the teacher's. For `projected_tokens` from the teacher's
    to the student's, with `pieces=1, both_ways=False`: each of the teacher's tokens is the first of its spelling.

    Args:
        source, target: byte-level tokenizers.
        pieces: how many tokens of a spelling count, at least 1.
        decay: how much less each counts than the one before, in (0, 1].
        keep: how many of the target's tokens a row has at most, at least 1.
        both_ways: count where the target's tokens are spelled with the source's.

    Returns:
        Weights in float64, sorted by the source's token.

    Raises:
        ValueError: for a tokenizer that is not byte-level or has no end of a text, and for numbers out of range.

    Source: X-Token (arXiv 2605.21699), without its scale trick; one piece and one way are pldistill's own.
    """
    for name, value in (("pieces", pieces), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    if not 0 < decay <= 1:
        raise ValueError(f"decay: expected a number in (0, 1], got {decay!r}")
    ours, theirs = token_bytes(source), token_bytes(target)
    same = {spelled: number for number, spelled in reversed(list(enumerate(theirs))) if spelled}
    rows: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for u, spelled in enumerate(ours):
        if spelled in same:
            rows[u] = {same[spelled]: 1.0}
        elif spelled:
            for v, weight in _spelling(target, spelled, pieces, decay):
                rows[u][v] += weight
    for v, spelled in enumerate(theirs if both_ways else ()):
        for u, weight in _spelling(source, spelled, pieces, decay) if spelled else ():
            if ours[u] not in same:
                rows[u][v] += weight
    rows[end_of_text(source)] = {end_of_text(target): 1.0}
    entries = [(u, v, weight) for u in sorted(rows) if rows[u] for v, weight in _largest(rows[u], keep)]
    sources, targets, weights = zip(*entries, strict=True)
    return Projection(torch.tensor(sources), torch.tensor(targets), torch.tensor(weights, dtype=torch.float64))


def _spelling(tokenizer: Tokenizer, spelled: bytes, pieces: int, decay: float) -> list[tuple[int, float]]:
    """The first tokens of these bytes and their weights."""
    tokens = tokenizer.model.tokenize("".join(_CHARACTER[byte] for byte in spelled))[:pieces]
    total = math.fsum(decay**place for place in range(len(tokens)))
    return [(token.id, decay**place / total) for place, token in enumerate(tokens)]


def _largest(row: dict[int, float], keep: int) -> list[tuple[int, float]]:
    """The largest weights, divided by their sum; what rounding leaves goes to the largest."""
    kept = sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:keep]
    total = math.fsum(weight for _, weight in kept)
    weights = [weight / total for _, weight in kept]
    weights[0] = math.fsum([1, *(-weight for weight in weights[1:])])
    return [(number, weight) for (number, _), weight in zip(kept, weights, strict=True)]
