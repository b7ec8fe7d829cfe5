"""Chunks of two tokenizations: against a brute-force alignment; what a model says of a chunk, by the chain rule."""

import itertools
import random

import pytest
import torch

from pldistill.losses import ChunkedLogits, align_tokens
from pldistill.losses.chunks import arithmetic_mean, chain_rule, geometric_mean, scored, segment_logsumexp


def cut(draw, length):
    """Where the tokens of a text end, the first maybe at byte 0, with tokens that are none of it between."""
    ends = [*sorted(draw.sample(range(1, length), draw.randint(0, length - 1))), length]
    ends = [0, *ends] if draw.random() < 0.7 else ends
    for _ in range(draw.randint(0, 2)):
        ends.insert(draw.randint(0, len(ends)), -1)
    return ends


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


def brute_force(ours, theirs, valid=(None, None)):
    """Every pair of runs of tokens that begins and ends at the same bytes and has no shorter one within."""
    both = sorted(set(ours) & set(theirs) - {-1})
    chunks = []
    for low, high in itertools.pairwise(both):
        runs = [[i for i, end in enumerate(ends) if low < end <= high] for ends in (ours, theirs)]
        if all(ok is None or all(ok[i] for i in run) for run, ok in zip(runs, valid, strict=True)):
            chunks.append(runs)
    return chunks


def test_alignment_is_the_brute_force_one():
    draw = random.Random(3)
    for _ in range(200):
        texts = [(cut(draw, length), cut(draw, length)) for length in (draw.randint(1, 14) for _ in range(3))]
        ends = [padded([text[side] for text in texts]) for side in (0, 1)]
        chosen = [None if draw.random() < 0.5 else torch.rand(side.shape) < 0.8 for side in ends]
        chunks = align_tokens(*ends, student_valid=chosen[0], teacher_valid=chosen[1])
        number, expected = 0, [torch.full(side.shape, -1) for side in ends]
        for row, text in enumerate(texts):
            for runs in brute_force(*text, [None if ok is None else ok[row].tolist() for ok in chosen]):
                for side in (0, 1):
                    expected[side][row, runs[side]] = number
                number += 1
        assert torch.equal(chunks[0], expected[0])
        assert torch.equal(chunks[1], expected[1])


def test_a_mark_of_one_model_alone_moves_nothing():
    student, teacher = torch.tensor([[1, 4, 5, 9]]), torch.tensor([[-1, 1, 5, 7, 9]])
    ours, theirs = align_tokens(student, teacher)
    assert ours.tolist() == [[-1, 0, 0, 1]]
    assert theirs.tolist() == [[-1, -1, 0, 1, 1]]


def test_texts_that_share_no_end_have_no_chunk():
    ours, theirs = align_tokens(torch.tensor([[2, 4]]), torch.tensor([[3, 5]]))
    assert ours.tolist() == theirs.tolist() == [[-1, -1]]
    empty = align_tokens(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int32) - 1)
    assert [tuple(side.shape) for side in empty] == [(2, 0), (2, 3)]


def a_side(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=generator)
    return ChunkedLogits(logits, ids, torch.tensor([[-1, 0, 0, 0, 1], [-1, -1, 2, 2, -1]]))


def test_a_chunk_s_probabilities_multiply_to_the_text_s():
    """At the last token's own id the chain rule has the whole chunk's probability; position i - 1 scores token i."""
    side = a_side()
    log_p = (side.logits / 1.5).log_softmax(-1)
    merged = chain_rule(scored(side, 3, 1.5))
    for chunk, (row, places) in enumerate([(0, [1, 2, 3]), (0, [4]), (1, [2, 3])]):
        whole = sum(log_p[row, i - 1, side.ids[row, i]] for i in places)
        assert merged[chunk, side.ids[row, places[-1]]] == pytest.approx(whole.item(), rel=1e-12)
        before = sum(log_p[row, i - 1, side.ids[row, i]] for i in places[:-1])
        torch.testing.assert_close(merged[chunk], log_p[row, places[-1] - 1] + before, rtol=1e-12, atol=0)


def test_a_text_s_probability_is_the_same_however_its_chunks_lie():
    side = a_side()
    alone = torch.tensor([[-1, 0, 1, 2, 3], [-1, 4, 5, 6, 7]])
    joined = torch.tensor([[-1, 0, 0, 1, 1], [-1, 2, 2, 2, 2]])
    totals = []
    for chunks in (alone, joined):
        tokens = scored(side._replace(chunks=chunks), int(chunks.max()) + 1, 1.0)
        totals.append(chain_rule(tokens).gather(1, tokens.ids[tokens.last][:, None]).sum())
    assert totals[0] == pytest.approx(totals[1].item(), rel=1e-12)


def test_means_of_a_chunk():
    side = a_side()
    tokens = scored(side, 3, 2.0)
    p = (side.logits / 2).softmax(-1)
    for chunk, rows in enumerate([p[0, [0, 1, 2]], p[0, [3]], p[1, [1, 2]]]):
        torch.testing.assert_close(arithmetic_mean(tokens)[chunk].exp(), rows.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            geometric_mean(tokens)[chunk].exp(), rows.prod(0) ** (1 / len(rows)), rtol=1e-12, atol=0
        )


def test_sums_of_logarithms_by_segment():
    values = torch.tensor([[0.0, -900.0, 800.0, -torch.inf, -torch.inf]], dtype=torch.float64, requires_grad=True)
    sums = segment_logsumexp(values, torch.tensor([0, 2, 0, 1, 1]), 4, 1)
    assert sums.tolist() == [[800.0, -torch.inf, -900.0, -torch.inf]]
    sums[0, [0, 2]].sum().backward()
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0]]
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    for dim, index in ((1, [0, 2, 0, 1, 1]), (0, [1, 0, 1])):
        size = max(index) + 1
        by = torch.tensor(index)
        assert torch.autograd.gradcheck(
            lambda x, by=by, size=size, dim=dim: segment_logsumexp(x, by, size, dim), smooth
        )


ENDS = torch.tensor([[0, 2, 5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student_ends": ENDS[0]}, r"student_ends must have shape \(B, S\), got \(3,\)"),
        ({"teacher_ends": ENDS.float()}, "teacher_ends must be byte counts of an integer dtype, got torch.float32"),
        ({"teacher_ends": ENDS.expand(2, 3)}, "teacher_ends must be of the texts"),
        (
            {"student_ends": torch.tensor([[0, 3, -1, 3]])},
            "student_ends must rise along a row.*got 3 behind 3 in row 0",
        ),
        ({"student_valid": ENDS}, r"student_valid must be a bool tensor of shape \(1, 3\), got torch.int64 \(1, 3\)"),
        ({"teacher_valid": [True]}, r"teacher_valid must be a bool tensor of shape \(1, 3\), got list"),
    ],
)
def test_what_cannot_be_aligned(arguments, message):
    with pytest.raises(ValueError, match=message):
        align_tokens(**{"student_ends": ENDS, "teacher_ends": ENDS, **arguments})
