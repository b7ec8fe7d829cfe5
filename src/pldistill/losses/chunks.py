"""Two tokenizations of one text: which tokens of one say what which of the other say, and a model's answer to each.

Symbols: x_1 x_2 ... a model's tokens of a text, c a chunk: the least piece of text that begins and ends where tokens of
both models begin and end. A chunk has n >= 1 tokens of each model. The logits at position i - 1 of a causal model say
what token i is: they score it. The first token is scored by none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pldistill.losses._inputs import check_floats, check_integers, computing_dtype, is_eager_cpu


class ChunkedLogits(NamedTuple):
    """A model's logits of texts, its tokens, and which chunk each token is of.

    Attributes:
        logits: (B, S, V), floating point; those at position i - 1 say what token i is.
        ids: (B, S), integers in 0..V-1: the tokens.
        chunks: (B, S), integers: the chunk of each token, -1 for none, as `align_tokens` makes them for two models.
    """

    logits: Tensor
    ids: Tensor
    chunks: Tensor


def align_tokens(
    student_ends: Tensor,
    teacher_ends: Tensor,
    *,
    student_valid: Tensor | None = None,
    teacher_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The chunks of texts in two tokenizations, exact and in time linear in their bytes: by where tokens end.

    A chunk runs from one byte where a token of both models ends to the next such byte. What lies before the first such
    byte, and behind the last, is of no chunk. Token strings are never compared: a token that ends within a character,
    or a mark at the beginning that one model alone has, moves nothing.

    Args:
        student_ends: (B, S), integers: how many bytes of its text have been read when a token ends, rising along a row;
            negative for tokens that are none of the text (padding, marks that one model alone has).
        teacher_ends: (B, T), the teacher's, of the same texts.
        student_valid, teacher_valid: (B, S) and (B, T) bool, tokens to learn from, or None: all. A chunk with a token
            that is not, of either model, is dropped.

    Returns:
        (B, S) and (B, T) int64, the chunk of each token, numbered 0..M-1 over the batch; -1 for none.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; ends that do not rise (eager CPU).

    Source: pldistill's own; as GOLD's byte offsets (TRL), whose loss then reads positions that are one too late by
    default, see `chain_rule`.
    """
    check_ends("student_ends", student_ends)
    check_ends("teacher_ends", teacher_ends)
    if student_ends.shape[0] != teacher_ends.shape[0] or student_ends.device != teacher_ends.device:
        raise ValueError(
            "teacher_ends must be of the texts and on the device of student_ends, got shapes "
            f"{tuple(teacher_ends.shape)} and {tuple(student_ends.shape)} on {teacher_ends.device} and "
            f"{student_ends.device}"
        )
    _check_valid("student_valid", student_valid, student_ends)
    _check_valid("teacher_valid", teacher_valid, teacher_ends)
    slots = [ends.long().clamp(min=-1) + 1 for ends in (student_ends, teacher_ends)]
    size = 1 + max((int(slot.max()) for slot in slots if slot.numel()), default=0)
    shared = _marks(slots[0], size) & _marks(slots[1], size)
    until = shared.cumsum(1)  # shared ends up to and with each byte
    counts = (until[:, -1:] - 1).clamp(min=0)
    first = counts.cumsum(0) - counts
    chunks = [_chunks(slot, until, counts, first) for slot in slots]
    total = int(counts.sum())
    kept = torch.ones(total, dtype=torch.bool, device=shared.device)
    for chunk, valid in zip(chunks, (student_valid, teacher_valid), strict=True):
        if valid is not None:
            kept[chunk[(chunk >= 0) & ~valid]] = False
    number = torch.where(kept, kept.cumsum(0) - 1, -1)
    return chosen(number, chunks[0]), chosen(number, chunks[1])


def _marks(slots: Tensor, size: int) -> Tensor:
    """(B, size) bool, at e + 1 whether a token ends at e."""
    marks = torch.zeros(len(slots), size, dtype=torch.bool, device=slots.device).scatter(1, slots, True)
    marks[:, :1] = False
    return marks


def _chunks(slots: Tensor, until: Tensor, counts: Tensor, first: Tensor) -> Tensor:
    """A token's chunk by the number of shared ends before its own; -1 before the first and behind the last."""
    place = until.gather(1, (slots - 1).clamp(min=0)) - 1
    inside = (slots > 0) & (place >= 0) & (place < counts)
    return torch.where(inside, place + first, -1)


def chosen(values: Tensor, chunks: Tensor) -> Tensor:
    """`values` (M,) of each token's chunk, -1 for none."""
    return torch.nn.functional.pad(values, (0, 1), value=-1)[chunks]  # -1 is the last


class Scored(NamedTuple):
    """The tokens of chunks, in order.

    Attributes:
        log_p: (N, V), log softmax(z / τ) of the position that scores each.
        ids: (N,), the tokens.
        chunk: (N,), each token's chunk.
        first, last: (M,), each chunk's first and last token among the N.
        sequence: (M,), each chunk's text, 0..B-1.
    """

    log_p: Tensor
    ids: Tensor
    chunk: Tensor
    first: Tensor
    last: Tensor
    sequence: Tensor


def scored(side: ChunkedLogits, count: int, temperature: float, columns: Tensor | None = None) -> Scored:
    """Pack the tokens of chunks with the log-probabilities of the positions before them, among `columns` if any."""
    sequences, places = (side.chunks >= 0).nonzero(as_tuple=True)
    chunk = side.chunks[sequences, places].long()
    logits = side.logits[sequences, places - 1]
    log_p = log_softmax(logits if columns is None else logits[:, columns], temperature)
    tokens = torch.arange(len(chunk), device=chunk.device)
    empty = tokens.new_zeros(count)
    first = empty.scatter_reduce(0, chunk, tokens, "amin", include_self=False)
    last = empty.scatter_reduce(0, chunk, tokens, "amax", include_self=False)
    return Scored(log_p, side.ids[sequences, places].long(), chunk, first, last, sequences[first])


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.to(computing_dtype(logits)) / temperature).log_softmax(-1)


def chain_rule(tokens: Scored) -> Tensor:
    """(M, V): log-probability of a chunk's own tokens but the last, then v: Σ_{j<n} log p_j(x_j) + log p_n(v).

    The chain rule of a text's probability: at v = x_n it is the whole chunk's. Position i - 1 scores token i. TRL's
    GOLD has this as "bayesian". Its default, "observed", multiplies the distribution of the token behind the chunk's
    first one with probabilities of the chunk's own tokens: it is shifted by one token, and is left out here.
    """
    own = tokens.log_p.gather(1, tokens.ids[:, None])[:, 0].index_fill(0, tokens.last, 0)
    before = own.new_zeros(len(tokens.last)).index_add(0, tokens.chunk, own)
    return tokens.log_p[tokens.last] + before[:, None]


def lengths(tokens: Scored) -> Tensor:
    """(M, 1): how many tokens a chunk has."""
    counts = tokens.chunk.bincount(minlength=len(tokens.last))
    return counts.to(tokens.log_p.dtype)[:, None]


def geometric_mean(tokens: Scored) -> Tensor:
    """(M, V): log of the geometric mean of a chunk's distributions, 1/n Σ_j log p_j(v), which sums to at most 1."""
    total = tokens.log_p.new_zeros(len(tokens.last), tokens.log_p.shape[1])
    total = total.index_add(0, tokens.chunk, tokens.log_p)
    return total / lengths(tokens)


def arithmetic_mean(tokens: Scored) -> Tensor:
    """(M, V): log of the mean of a chunk's distributions, log 1/n Σ_j p_j(v)."""
    return segment_logsumexp(tokens.log_p, tokens.chunk, len(tokens.last), 0) - lengths(tokens).log()


def segment_logsumexp(values: Tensor, index: Tensor, size: int, dim: int) -> Tensor:
    """log Σ exp(values) over the entries along `dim` of one index each; -inf for an index without entries.

    The largest of each sum is taken out of it, so neither value nor gradient overflows or loses what lies far below the
    largest of another sum.
    """
    shape = list(values.shape)
    shape[dim] = size
    view = [1] * values.dim()
    view[dim] = -1
    top = values.new_full(shape, -torch.inf)
    top = top.scatter_reduce(dim, index.view(view).expand(values.shape), values.detach(), "amax")
    top = top.masked_fill(top == -torch.inf, 0)
    worths = (values - top.index_select(dim, index)).exp()
    total = values.new_zeros(shape).index_add(dim, index, worths)
    nothing = total == 0
    return (total.masked_fill(nothing, 1).log() + top).masked_fill(nothing, -torch.inf)


def check_ends(name: str, ends: Tensor) -> None:
    check_integers(name, ends, "byte counts")
    if ends.dim() != 2:
        raise ValueError(f"{name} must have shape (B, S), got {tuple(ends.shape)}")
    if not is_eager_cpu(ends) or ends.numel() == 0:
        return
    highest = ends.long().cummax(1).values[:, :-1]
    wrong = (ends[:, 1:] >= 0) & (ends[:, 1:] <= highest)
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must rise along a row but for negative ones, got {ends[row, place + 1].item()} behind "
            f"{highest[row, place].item()} in row {row}"
        )


def _check_valid(name: str, valid: Tensor | None, ends: Tensor) -> None:
    if valid is None:
        return
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != ends.shape:
        got = f"{valid.dtype} {tuple(valid.shape)}" if isinstance(valid, Tensor) else type(valid).__name__
        raise ValueError(f"{name} must be a bool tensor of shape {tuple(ends.shape)}, got {got}")
    if valid.device != ends.device:
        raise ValueError(f"{name} is on {valid.device} but the ends on {ends.device}")


def check_side(name: str, side: object) -> None:
    """Refuse what is no model's logits with tokens and chunks that fit them."""
    if not isinstance(side, ChunkedLogits):
        raise ValueError(f"{name} must be a ChunkedLogits, got {type(side).__name__}")
    check_floats(f"{name}.logits", side.logits)
    if side.logits.dim() != 3 or side.logits.shape[-1] == 0:
        raise ValueError(f"{name}.logits must have shape (B, S, V) with V >= 1, got {tuple(side.logits.shape)}")
    for field, tensor, what in (("ids", side.ids, "token ids"), ("chunks", side.chunks, "numbers of chunks")):
        check_integers(f"{name}.{field}", tensor, what)
        if tensor.shape != side.logits.shape[:2]:
            shape = tuple(side.logits.shape[:2])
            raise ValueError(f"{name}.{field} must have shape {shape} (B, S), got {tuple(tensor.shape)}")
        if tensor.device != side.logits.device:
            raise ValueError(f"{name}.{field} is on {tensor.device} but {name}.logits on {side.logits.device}")
    if not is_eager_cpu(side.chunks):
        return
    if side.chunks.numel() and (side.chunks[:, :1] >= 0).any():
        raise ValueError(f"{name}.chunks must be -1 at the first token, which no position scores, got another")
    ids, size = side.ids[side.chunks >= 0], side.logits.shape[-1]
    wrong = (ids < 0) | (ids >= size)
    if wrong.any():
        raise IndexError(f"{name}.ids must be in 0..{size - 1} where a token is of a chunk, got {ids[wrong][0].item()}")


def check_sides(student: object, teacher: object) -> int:
    """Refuse two models whose chunks are not one another's; return how many there are."""
    check_side("student", student)
    check_side("teacher", teacher)
    assert isinstance(student, ChunkedLogits)
    assert isinstance(teacher, ChunkedLogits)
    if student.logits.device != teacher.logits.device:
        raise ValueError(f"teacher is on {teacher.logits.device} but student on {student.logits.device}")
    if len(student.logits) != len(teacher.logits):
        raise ValueError(f"teacher must have the student's {len(student.logits)} texts, got {len(teacher.logits)}")
    counts = [int(side.chunks.max()) + 1 if side.chunks.numel() else 0 for side in (student, teacher)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"teacher must have the student's {counts[0]} chunks, as align_tokens makes them for both, got {counts[1]}"
        )
    if is_eager_cpu(student.chunks):
        for name, side in (("student", student), ("teacher", teacher)):
            numbers = side.chunks[side.chunks >= 0].unique()
            if len(numbers) != counts[0]:
                raise ValueError(f"{name}.chunks must have each of 0..{counts[0] - 1}, got {len(numbers)} of them")
    return max(counts[0], 0)
