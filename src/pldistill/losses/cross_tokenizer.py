"""Losses between models of two tokenizers: sorted probabilities, projections of one vocabulary on the other.

Both models have read one text, in other tokens. `align_tokens` cuts it into chunks that are whole tokens of both; each
loss is of a chunk c. Symbols: V_s and V_t the sizes of the vocabularies, p the student's probabilities, q the
teacher's, τ the temperature, W a projection: how the tokens of one vocabulary are spelled in the other.

The teacher is a constant. Every loss is Σ_c w_c L_c / n, w the weight of the chunk's text and n the number of chunks,
or `num_items`: the chunks of all micro-batches of a step, so that the losses of four add up to that of all. Without a
chunk it is 0, with a graph. Half precision is computed in float32, and all in logarithms: value and gradient are finite
however far apart logits lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pldistill.losses._inputs import (
    check_choice,
    check_factor,
    check_flag,
    check_floats,
    check_integers,
    check_not_negative,
    check_temperature,
    is_eager_cpu,
)
from pldistill.losses.chunks import (
    ChunkedLogits,
    Scored,
    arithmetic_mean,
    chain_rule,
    check_side,
    check_sides,
    geometric_mean,
    log_softmax,
    scored,
    segment_logsumexp,
)
from pldistill.losses.sequence import check_num_items, check_token_options, denominator, loss_couples_rows, loss_name
from pldistill.losses.top_k import pld_from_top_k

SCORES = ("confidence", "entropy", "cross_entropy")


class Projection(NamedTuple):
    """W (V, V'), sparse and without negative entries: the weights of one vocabulary's tokens on another's.

    A row sums to 1, or is empty where nothing in the other vocabulary says what the token says.

    Attributes:
        source: (E,), integers in 0..V-1: the rows of the E entries.
        target: (E,), integers in 0..V'-1: their columns.
        weights: (E,), floating point, above 0.
    """

    source: Tensor
    target: Tensor
    weights: Tensor


def uld(
    student: ChunkedLogits,
    teacher: ChunkedLogits,
    *,
    temperature: float = 1.0,
    num_items: float | Tensor | None = None,
    weight: float | Tensor | None = None,
) -> Tensor:
    """Universal Logit Distillation: L_c = Σ_k |p↓_k - q↓_k|, the probabilities from the largest to the smallest.

    p and q are those of the chunk's last token, times those of its own tokens before it (the chain rule; see
    `chunks.chain_rule` on the public default that is shifted by one token). The smaller vocabulary is padded with
    zeros. It knows no token's meaning: models that are equally sure of different tokens agree.

    Args:
        student: of logits (B, S, V_s).
        teacher: of logits (B, T, V_t), of the same texts and chunks.
        temperature: τ of both softmaxes.
        num_items: n; None: the chunks of this call.
        weight: w, a number or (B,), one for each text as `teacher_weights` makes them, at least 0; None: 1.

    Returns:
        A scalar, float32, or float64 where the logits are.

    Raises:
        ValueError: shapes, dtypes, devices or options do not fit; chunks that are not one another's.
        IndexError: an id outside the vocabulary (eager CPU).

    Source: Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs"
    (2024), which pairs positions by their number; by chunks as in GOLD (TRL).
    """
    tokens, constant = _scored(student, teacher, check_sides(student, teacher), temperature)
    p, q = chain_rule(tokens).exp(), chain_rule(constant).exp()
    return _reduced(_sorted_distance(p, q), tokens, len(student.logits), num_items, weight)


def p_kl(
    student: ChunkedLogits,
    teacher: ChunkedLogits,
    projection: Projection,
    *,
    temperature: float = 1.0,
    tau_squared: bool = True,
    num_items: float | Tensor | None = None,
    weight: float | Tensor | None = None,
) -> Tensor:
    """X-Token's projected KL: L_c = τ² Σ_v q_v (log q_v - log (p W)_v) over the teacher's tokens that W reaches.

    p is the arithmetic mean of the student's distributions in the chunk, q the geometric mean of the teacher's, each a
    softmax over the tokens that W reaches. Geometric means are not divided by their sum, so q may sum to less than 1,
    and the loss of a chunk of several teacher's tokens may be below 0.

    A student that knows the text is not at its minimum where a chunk has several tokens: the pieces that it expects are
    themselves in the teacher's vocabulary, the teacher expects the whole token, and W has no weight from one to the
    other.

    The public code restricts both to the 8,192 tokens with the largest teacher's logits of a micro-batch, and divides p
    W by its sum there: its loss of a chunk hangs on the other chunks. Here all tokens that W reaches take part.

    Args:
        student, teacher, num_items, weight: as `uld`.
        projection: W (V_s, V_t), from the student's tokens to the teacher's.
        temperature: τ of both softmaxes.
        tau_squared: multiply with τ².

    Returns, Raises: as `uld`; ValueError for a projection that does not fit.

    Source: X-Token (arXiv 2605.21699).
    """
    check_flag("tau_squared", tau_squared)
    count = check_sides(student, teacher)
    _check_projection(projection, student, teacher)
    reached, columns = projection.target.long().unique(return_inverse=True)
    tokens, constant = _scored(student, teacher, count, temperature, reached)
    p = _sums(arithmetic_mean(tokens), projection.source, columns, projection.weights, len(reached))
    losses = _divergence(geometric_mean(constant), p) * (temperature**2 if tau_squared else 1)
    return _reduced(losses, tokens, len(student.logits), num_items, weight)


def h_kl(
    student: ChunkedLogits,
    teacher: ChunkedLogits,
    common: Tensor,
    *,
    temperature: float = 1.0,
    tau_squared: bool = True,
    num_items: float | Tensor | None = None,
    weight: float | Tensor | None = None,
) -> Tensor:
    """X-Token's hybrid: L_c = τ² [Σ_(u, v) q_v (log q_v - log p_u) + Σ_k |p↓_k - q↓_k|].

    The first sum is over the pairs of tokens that both vocabularies have, the second over the others of both, from the
    largest probability to the smallest. p and q are the geometric means of each model's distributions in the chunk,
    over its whole vocabulary, and are not divided by a sum: the first term may be below 0.

    The public code cuts the longer of the two sorted lists. Here the shorter is padded with zeros, as in ULD, so that
    no probability goes uncounted.

    Args:
        student, teacher, num_items, weight: as `uld`.
        common: (K, 2), integers: a student's token and the teacher's that is the same, none of them twice, as
            `common_tokens` makes it.
        temperature: τ of both softmaxes.
        tau_squared: multiply with τ².

    Returns, Raises: as `uld`; ValueError for pairs with a token twice or outside its vocabulary.

    Source: X-Token (arXiv 2605.21699), whose pairs for this loss are `common_tokens(W, at_least=0.6)`; with pairs of
    equal strings alone, `common_tokens(W)`, it is GOLD's hybrid there.
    """
    check_flag("tau_squared", tau_squared)
    count = check_sides(student, teacher)
    others = _check_common(common, student, teacher)
    tokens, constant = _scored(student, teacher, count, temperature)
    p, q = geometric_mean(tokens), geometric_mean(constant)
    ours, theirs = common.long().unbind(1)
    losses = _divergence(q[:, theirs], p[:, ours]) + _sorted_distance(p[:, others[0]].exp(), q[:, others[1]].exp())
    return _reduced(losses * (temperature**2 if tau_squared else 1), tokens, len(student.logits), num_items, weight)


def projected_tokens(
    loss: Callable[..., Tensor],
    student: ChunkedLogits,
    teacher: ChunkedLogits,
    projection: Projection,
    *,
    num_items: float | Tensor | None = None,
    weight: float | Tensor | None = None,
    **options: object,
) -> Tensor:
    """A loss of rows on the teacher's scores of the student's tokens, where chunks begin: L_c = L(s, log (q W), x).

    Where a chunk begins both models have read the same text and nothing more, so that what they expect next can be
    compared as it is. With each teacher's token at the first token of the student's spelling of it,
    `make_projection(teacher, student, pieces=1, both_ways=False)`, q W is a distribution over the student's tokens.
    `projected_tokens(pld, ...)` ranks them by it, the token that comes, x, first: PLD across tokenizers. A token that W
    does not reach is behind all others: 100 below the least score of the row.

    Args:
        loss: of this package, of (student_logits, teacher_logits, labels), that does not correlate rows.
        student, teacher, num_items, weight: as `uld`.
        projection: W (V_t, V_s), from the teacher's tokens to the student's.
        options: the loss's own, `temperature=2.0` for example.

    Returns, Raises: as `uld`; ValueError for a projection that does not fit, and for `dist` and `skd`.

    Source: pldistill's own.
    """
    check_token_options(loss, True, None, -100, options)
    if loss_couples_rows(loss) or loss is pld_from_top_k:
        raise ValueError(f"loss must be of one row of logits of both models, got {loss_name(loss)}")
    count = check_sides(student, teacher)
    _check_projection(projection, teacher, student)
    tokens, constant = _scored(student, teacher, count, 1.0)
    logits = _at_first(student, tokens)
    log_q = constant.log_p[constant.first]
    scores = _sums(log_q, projection.source, projection.target, projection.weights, logits.shape[1])
    ruled_out = scores == -torch.inf
    least = scores.masked_fill(ruled_out, torch.inf).amin(1, keepdim=True)
    scores = torch.where(ruled_out, least - 100, scores)
    losses = loss(logits, scores, tokens.ids[tokens.first], reduction="none", **options)
    return _reduced(losses, tokens, len(student.logits), num_items, weight)


def common_tokens(projection: Projection, *, at_least: float = 1.0) -> Tensor:
    """(K, 2) pairs of a student's token and the teacher's that is as good as the same, none of them twice.

    Each student's token whose largest weight is at least this with the teacher's token of that weight; of several that
    want one teacher's token the one with the larger weight has it, of equal ones the first.

    Args:
        projection: W (V_s, V_t), from the student's tokens to the teacher's.
        at_least: in (0, 1]; 1: the same strings alone.

    Raises:
        ValueError: not a Projection, or a bound outside (0, 1].
    """
    if not isinstance(projection, Projection):
        raise ValueError(f"projection must be a Projection, got {type(projection).__name__}")
    if isinstance(at_least, bool) or not isinstance(at_least, int | float) or not 0 < at_least <= 1:
        raise ValueError(f"at_least must be in (0, 1], got {at_least!r}")
    best = projection.weights >= at_least
    ours, theirs, weights = projection.source[best].long(), projection.target[best].long(), projection.weights[best]
    order = ours.argsort(stable=True)
    order = order[weights[order].argsort(descending=True, stable=True)]
    pairs: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for u, v in zip(ours[order].tolist(), theirs[order].tolist(), strict=True):
        if u not in taken[0] and v not in taken[1]:
            pairs.append((u, v))
            taken[0].add(u)
            taken[1].add(v)
    return torch.tensor(sorted(pairs), dtype=torch.int64, device=projection.source.device).view(-1, 2)


def teacher_weights(
    teachers: Sequence[ChunkedLogits], *, by: str = "confidence", sharpness: float = 1.0, sizes: Tensor | None = None
) -> Tensor:
    """(K, B): how much each of K teachers counts for each text, softmax_k(α score_kb); a text's weights sum to 1.

    The loss from several teachers is Σ_k L(student, teacher_k, weight=w_k), the student aligned with each of them. A
    weight is of one text alone, so that micro-batches add up to a batch. Fixed weights are numbers: `weight=0.3`.

    Args:
        teachers: of logits (B, T_k, V_k) of the same texts; the tokens of their chunks are looked at.
        by: "confidence", the mean of the largest probability of a token; "entropy", minus the mean entropy in nats;
            "cross_entropy", minus the cross-entropy of the text in nats a byte: not a token, for teachers whose tokens
            are longer have fewer of them, and each is harder to guess.
        sharpness: α, at least 0; 0: all alike.
        sizes: (B,), bytes of each text; for "cross_entropy" alone.

    Returns:
        float32, or float64 where the logits are; constants.

    Raises:
        ValueError: no teachers, or such as do not fit; sizes missing, or not above 0.

    Source: X-Token (arXiv 2605.21699) weighs a micro-batch by such scores, the cross-entropy a token.
    """
    check_choice("by", by, SCORES)
    check_factor("sharpness", sharpness)
    if not teachers:
        raise ValueError("teachers must be at least one ChunkedLogits, got none")
    for number, teacher in enumerate(teachers):
        check_side(f"teachers[{number}]", teacher)
        if len(teacher.logits) != len(teachers[0].logits):
            texts = f"{len(teachers[0].logits)} texts, got {len(teacher.logits)}"
            raise ValueError(f"teachers[{number}] must have the first one's {texts}")
    if by == "cross_entropy":
        _check_sizes(sizes, len(teachers[0].logits))
    with torch.no_grad():
        scores = torch.stack([_score(teacher, by, sizes) for teacher in teachers])
        return (sharpness * scores).softmax(0)


def _score(teacher: ChunkedLogits, by: str, sizes: Tensor | None) -> Tensor:
    """(B,): a teacher's score of each text; 0 where it has no chunk."""
    sequences, places = (teacher.chunks >= 0).nonzero(as_tuple=True)
    log_q = log_softmax(teacher.logits[sequences, places - 1], 1.0)
    if by == "confidence":
        values = log_q.amax(1).exp()
    elif by == "entropy":
        values = _times(log_q.exp(), log_q).sum(1)
    else:
        values = log_q.gather(1, teacher.ids[sequences, places].long()[:, None])[:, 0]
    count = len(teacher.logits)
    total = values.new_zeros(count).index_add(0, sequences, values)
    if by == "cross_entropy":
        assert sizes is not None
        return total / sizes.to(total)
    return total / sequences.bincount(minlength=count).clamp(min=1)


def _scored(
    student: ChunkedLogits, teacher: ChunkedLogits, count: int, temperature: float, columns: Tensor | None = None
) -> tuple[Scored, Scored]:
    """Both models' tokens of chunks; the teacher's as constants, among these tokens of its vocabulary."""
    check_temperature(temperature)
    with torch.no_grad():
        constant = scored(teacher, count, temperature, columns)
    return scored(student, count, temperature), constant


def _at_first(student: ChunkedLogits, tokens: Scored) -> Tensor:
    """(M, V_s): the logits that score each chunk's first token."""
    sequences, places = (student.chunks >= 0).nonzero(as_tuple=True)
    return student.logits[sequences[tokens.first], places[tokens.first] - 1]


def _sums(log_p: Tensor, source: Tensor, target: Tensor, weights: Tensor, size: int) -> Tensor:
    """(M, size): log Σ w p over a projection's entries, from p's tokens `source` to the tokens `target`."""
    return segment_logsumexp(log_p[:, source.long()] + weights.to(log_p.dtype).log(), target.long(), size, 1)


def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(M,): Σ q (log q - log p), 0 where q is."""
    return _times(log_q.exp(), log_q - log_p).sum(1)


def _times(q: Tensor, logs: Tensor) -> Tensor:
    """q · log, 0 where q is 0 whatever the log is."""
    return q * logs.masked_fill(q == 0, 0)


def _sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    """(M,): Σ_k |p↓_k - q↓_k|, the narrower one padded with zeros."""
    width = max(p.shape[1], q.shape[1])
    ours, theirs = (
        torch.nn.functional.pad(side.sort(1, descending=True).values, (0, width - side.shape[1])) for side in (p, q)
    )
    return (ours - theirs).abs().sum(1)


def _reduced(
    losses: Tensor, tokens: Scored, texts: int, num_items: float | Tensor | None, weight: float | Tensor | None
) -> Tensor:
    """Σ_c w_c L_c / n."""
    check_num_items(num_items)
    if isinstance(weight, Tensor):
        check_floats("weight", weight)
        if weight.shape != (texts,):
            raise ValueError(
                f"weight must be a number or of shape ({texts},), one for each text, got {tuple(weight.shape)}"
            )
        check_not_negative("weight", weight)
        losses = losses * weight.detach().to(losses)[tokens.sequence]
    elif weight is not None:
        check_factor("weight", weight)
        losses = losses * weight
    total = losses.sum() if len(losses) else tokens.log_p.sum()
    return total / denominator(num_items, len(losses), total)


def _check_projection(projection: object, source: ChunkedLogits, target: ChunkedLogits) -> None:
    """Refuse what is no projection from one model's tokens to the other's."""
    if not isinstance(projection, Projection):
        raise ValueError(f"projection must be a Projection, got {type(projection).__name__}")
    check_floats("projection.weights", projection.weights)
    shape, sizes = (
        tuple(projection.weights.shape),
        {"source": source.logits.shape[-1], "target": target.logits.shape[-1]},
    )
    for name, size in sizes.items():
        ids: Tensor = getattr(projection, name)
        check_integers(f"projection.{name}", ids, "token ids")
        if ids.dim() != 1 or ids.shape != projection.weights.shape or len(ids) == 0:
            raise ValueError(
                f"projection.{name} must have the weights' shape (E,) {shape}, E >= 1, got {tuple(ids.shape)}"
            )
        if ids.device != source.logits.device or projection.weights.device != source.logits.device:
            raise ValueError(f"projection is on {ids.device} but the logits on {source.logits.device}")
        if is_eager_cpu(ids) and (ids.min() < 0 or ids.max() >= size):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise IndexError(f"projection.{name} must be in 0..{size - 1}, got {wrong.item()}")
    if not is_eager_cpu(projection.weights):
        return
    if not (projection.weights > 0).all():
        raise ValueError(f"projection.weights must be above 0, got {projection.weights.min().item()}")
    sums = torch.zeros(sizes["source"], dtype=torch.float64)
    sums = sums.index_add(0, projection.source.long(), projection.weights.detach().double())
    wrong = (sums > 0) & ((sums - 1).abs() > 1e-3)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"projection.weights of a token must sum to 1, got {sums[row].item():g} for {row}")


def _check_common(common: object, student: ChunkedLogits, teacher: ChunkedLogits) -> tuple[Tensor, Tensor]:
    """Refuse what is no pairs of tokens; return the tokens of either vocabulary that are in none."""
    check_integers("common", common, "pairs of token ids")
    assert isinstance(common, Tensor)
    if common.dim() != 2 or common.shape[1] != 2:
        raise ValueError(f"common must have shape (K, 2), got {tuple(common.shape)}")
    if common.device != student.logits.device:
        raise ValueError(f"common is on {common.device} but student on {student.logits.device}")
    others = []
    for name, ids, side in zip(("student", "teacher"), common.long().unbind(1), (student, teacher), strict=True):
        size = side.logits.shape[-1]
        if len(ids) and (ids.min() < 0 or ids.max() >= size):
            raise IndexError(f"common must have the {name}'s tokens 0..{size - 1}, got {ids.min()} to {ids.max()}")
        counts = ids.bincount(minlength=size)
        if (counts > 1).any():
            raise ValueError(f"common must have no token twice, got the {name}'s {int(counts.argmax())} twice")
        others.append((counts == 0).nonzero()[:, 0])
    return others[0], others[1]


def _check_sizes(sizes: object, texts: int) -> None:
    if not isinstance(sizes, Tensor) or sizes.shape != (texts,):
        got = tuple(sizes.shape) if isinstance(sizes, Tensor) else type(sizes).__name__
        raise ValueError(
            f"sizes must be a tensor of shape ({texts},), the bytes of each text, for 'cross_entropy', got {got}"
        )
    if is_eager_cpu(sizes) and not (sizes > 0).all():
        raise ValueError(f"sizes must be above 0, got {sizes.min().item()}")
