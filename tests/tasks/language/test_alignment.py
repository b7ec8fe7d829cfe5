"""Two byte-level tokenizers of one text: where tokens end, how one's are spelled in the other's, and losses on both."""

import math
import random

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Lowercase

from pldistill.losses import ChunkedLogits, align_tokens, common_tokens, kd, p_kl, pld, projected_tokens, uld
from pldistill.tasks.language.alignment import (
    encode_with_ends,
    make_projection,
    token_bytes,
    token_ends,
    token_sizes,
)
from pldistill.tasks.language.tokenizer import END, train_tokenizer

PROSE = [
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; "
    "and darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters.",
    "naïve café, 你好 world — déjà vu; don't, won't: 1234 567\n\n\ttabs and  spaces 🙂",
]
OTHER = ["the then there these they them their that than", "waters watered watering water was without within with"]


@pytest.fixture(scope="module")
def pair():
    """Of 290 and 400 tokens, the larger one's of other text too, so that neither is a part of the other."""
    return train_tokenizer(PROSE * 3, 290), train_tokenizer([*PROSE, *OTHER * 9], 400)


def random_texts():
    draw = random.Random(5)
    letters = "aeth dn.\n\t-1é你🙂 "
    return ["".join(draw.choice(letters) for _ in range(draw.randint(0, 40))) for _ in range(60)] + PROSE + OTHER


def test_the_bytes_of_tokens_are_the_text_s(pair):
    for tokenizer in pair:
        spelled, sizes = token_bytes(tokenizer), token_sizes(tokenizer)
        for text in random_texts():
            ids = tokenizer.encode(text).ids
            assert b"".join(spelled[number] for number in ids) == text.encode()
            assert [int(sizes[number]) for number in ids] == [len(spelled[number]) for number in ids]
        assert spelled[tokenizer.token_to_id(END)] is None
        assert sizes[tokenizer.token_to_id(END)] == 1
        assert set(spelled) - {None} >= {bytes([byte]) for byte in range(256)}


def test_ends_are_counted_in_bytes_and_special_tokens_have_none(pair):
    tokenizer, _ = pair
    sizes = token_sizes(tokenizer)
    ids, ends = encode_with_ends(tokenizer, ["é", "the the", ""])
    rows = [[int(end) for end in row if end >= 0] for row in ends]
    assert [row[0] for row in rows] == [1, 1, 1]
    assert [row[-1] for row in rows] == [4, 9, 2]  # two marks beside 2, 7 and 0 bytes
    assert (ids[ends < 0] == tokenizer.token_to_id(END)).all()
    assert token_ends(torch.tensor([[0, 1, 2]]), torch.tensor([1, 0, 3])).tolist() == [[1, -1, 4]]
    assert torch.equal(token_ends(ids, sizes)[ends >= 0], ends[ends >= 0])


def spans(tokenizer, ids, ends):
    """Bytes of each token with their marks, for a brute-force alignment."""
    spelled = token_bytes(tokenizer)
    return [(spelled[number] or b"\0") for number, end in zip(ids.tolist(), ends.tolist(), strict=True) if end >= 0]


def test_chunks_are_the_least_equal_pieces_of_real_texts(pair):
    texts = random_texts()
    (ours, our_ends), (theirs, their_ends) = (encode_with_ends(tokenizer, texts) for tokenizer in pair)
    chunks = align_tokens(our_ends, their_ends)
    number = longer = 0
    for row in range(len(texts)):
        left = spans(pair[0], ours[row], our_ends[row])
        right = spans(pair[1], theirs[row], their_ends[row])
        i = j = 1  # behind the mark, which nothing predicts
        while i < len(left):
            n, m = 1, 1
            while (a := b"".join(left[i : i + n])) != (b := b"".join(right[j : j + m])):
                n, m = (n + 1, m) if len(a) < len(b) else (n, m + 1)
            assert (chunks[0][row, i : i + n] == number).all()
            assert (chunks[1][row, j : j + m] == number).all()
            i, j, number, longer = i + n, j + m, number + 1, longer + (n != m)
        assert (chunks[0][row, i:] == -1).all()
        assert (chunks[1][row, j:] == -1).all()
    assert longer > 50


def test_every_row_of_the_projection_sums_to_one(pair):
    for student, teacher in (pair, pair[::-1]):
        w = make_projection(student, teacher)
        theirs, ours = token_bytes(teacher), token_bytes(student)
        rows = {}
        for u, v, weight in zip(*(part.tolist() for part in w), strict=True):
            rows.setdefault(u, {})[v] = weight
        assert sorted(rows) == list(range(len(ours)))  # the end of a text among them
        assert all(math.fsum(row.values()) == 1 for row in rows.values())
        assert max(map(len, rows.values())) <= 4
        same = {spelled: number for number, spelled in enumerate(theirs) if spelled}
        for u, spelled in enumerate(ours):
            if spelled in same:
                assert rows[u] == {same[spelled]: 1.0}
            elif spelled:  # nothing gets a weight that is not spelled with it, or it with the token
                assert all(theirs[v] in spelled or spelled in theirs[v] for v in rows[u])
        assert rows[student.token_to_id(END)] == {teacher.token_to_id(END): 1.0}
        assert sum(len(row) > 1 for row in rows.values()) > 5


def of_merges(*merges):
    """A tokenizer of a, b, c and the tokens that these merges make, in their order."""
    names = [END, "a", "b", "c", *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(BPE(vocab={name: number for number, name in enumerate(names)}, merges=list(merges)))
    tokenizer.add_special_tokens([END])
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


TWO = [10 / 11, 1 / 11]  # of a spelling of two tokens


def test_the_weights_of_a_spelling():
    """To the teacher "ab" is a, b and "abc" is a, bc; its own "bc" is b, c to the student, which has both exactly."""
    student, teacher = of_merges(("a", "b"), ("ab", "c")), of_merges(("b", "c"))
    w = make_projection(student, teacher)
    dense = torch.zeros(6, 5, dtype=torch.float64).index_put((w.source, w.target), w.weights)
    expected = torch.zeros(6, 5, dtype=torch.float64)
    expected[[0, 1, 2, 3], [0, 1, 2, 3]] = 1  # the end of a text, a, b, c
    expected[4, [1, 2]] = expected[5, [1, 4]] = torch.tensor(TWO, dtype=torch.float64)
    torch.testing.assert_close(dense, expected, rtol=1e-15, atol=0)
    spelled = make_projection(student, teacher, decay=1.0)
    assert spelled.weights[spelled.source == 4].tolist() == [0.5, 0.5]
    assert make_projection(student, teacher, pieces=1).weights.tolist() == [1] * 6


def test_a_token_that_the_teacher_s_are_spelled_with_has_part_of_them():
    """The teacher's "abc" is ab, c to the student, and "ab", which the teacher has not, is a, b to it."""
    student, teacher = of_merges(("a", "b")), of_merges(("b", "c"), ("a", "bc"))
    w = make_projection(student, teacher)
    row = w.source == 4
    assert w.target[row].tolist() == [1, 5, 2]
    total = sum(TWO) + TWO[0]
    expected = [TWO[0] / total, TWO[0] / total, TWO[1] / total]
    assert w.weights[row].tolist() == pytest.approx(expected, rel=1e-15)
    kept = make_projection(student, teacher, keep=2)
    assert kept.target[kept.source == 4].tolist() == [1, 5]
    assert kept.weights[kept.source == 4].tolist() == [0.5, 0.5]


def test_the_first_token_of_a_spelling(pair):
    """From the larger tokenizer to the smaller: one token of weight 1 a row, which the token begins with."""
    for source, target in (pair, pair[::-1]):
        w = make_projection(source, target, pieces=1, both_ways=False)
        ours, theirs = token_bytes(source), token_bytes(target)
        assert torch.equal(w.source, torch.arange(len(ours)))
        assert torch.equal(w.weights, torch.ones(len(ours), dtype=torch.float64))
        for u, v in zip(w.source.tolist(), w.target.tolist(), strict=True):
            assert (ours[u] or b"mark").startswith(theirs[v] or b"mark")


def knowing(pair, alone=False):
    """Both models sure of the texts' tokens; chunks of one token of either alone, or all."""
    encoded = [encode_with_ends(tokenizer, PROSE) for tokenizer in pair]
    chunks = align_tokens(*(ends for _, ends in encoded))
    if alone:
        lengths = [side[side >= 0].bincount() for side in chunks]
        single = (lengths[0] == 1) & (lengths[1] == 1)
        valid = [(side >= 0) & single[side] for side in chunks]
        chunks = align_tokens(*(ends for _, ends in encoded), student_valid=valid[0], teacher_valid=valid[1])
    sides = []
    for tokenizer, (ids, _), numbers in zip(pair, encoded, chunks, strict=True):
        logits = torch.zeros(*ids.shape, tokenizer.get_vocab_size())
        logits[:, :-1].scatter_(2, ids[:, 1:, None], 30.0)
        sides.append(ChunkedLogits(logits, ids, numbers))
    return sides


def test_losses_of_two_real_tokenizers(pair):
    """A teacher that knows the text: what a student that knows it too has, and one that does not."""
    w, back = make_projection(*pair), make_projection(*pair[::-1], pieces=1, both_ways=False)
    student, teacher = knowing(pair)
    blank = student._replace(logits=torch.zeros_like(student.logits))
    assert uld(student, teacher).item() < 1e-6
    assert uld(blank, teacher).item() > 1
    assert projected_tokens(kd, student, teacher, back, temperature=1.0).item() < 1e-6
    assert projected_tokens(kd, blank, teacher, back, temperature=1.0).item() > 1
    assert projected_tokens(pld, student, teacher, back) < 0.1 * projected_tokens(pld, blank, teacher, back)
    pairs = common_tokens(w)
    spelled = [token_bytes(tokenizer) for tokenizer in pair]
    assert all(spelled[0][u] == spelled[1][v] for u, v in pairs.tolist())
    assert len(pairs) > 250


def test_p_kl_asks_a_student_that_knows_the_text_for_something_else_in_chunks_of_several_tokens(pair):
    """As published: a teacher's token that the student spells in pieces is reached by no piece of weight 1."""
    w = make_projection(*pair)
    for alone, low, high in ((True, 0, 1e-3), (False, 5, math.inf)):
        student, teacher = knowing(pair, alone)
        assert low <= p_kl(student, teacher, w).item() < high


def test_what_is_no_byte_level_tokenizer_is_refused(pair):
    words = Tokenizer(WordLevel({"a": 0, END: 1}))
    with pytest.raises(ValueError, match="tokenizer: expected a byte-level one, got one with the decoder None"):
        token_bytes(words)
    nameless = Tokenizer(BPE(vocab={"a": 0}, merges=[]))
    nameless.decoder = ByteLevelDecoder()
    with pytest.raises(ValueError, match="expected a token for the end of a text"):
        token_sizes(nameless)
    lower = Tokenizer.from_str(pair[0].to_str())
    lower.normalizer = Lowercase()
    with pytest.raises(ValueError, match="expected one that leaves a text as it is, got another text for 'The'"):
        encode_with_ends(lower, ["the", "The"])
    for options in ({"pieces": 0}, {"keep": True}, {"decay": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
            make_projection(*pair, **options)
