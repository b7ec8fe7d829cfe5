"""Losses across tokenizers: the formulas written out, gradients, micro-batches, extreme logits, what is refused."""

import math
from functools import partial

import pytest
import torch

from pldistill.losses import (
    ChunkedLogits,
    Projection,
    align_tokens,
    common_tokens,
    decoupled_pld,
    dist,
    h_kl,
    kd,
    p_kl,
    pld,
    pld_from_top_k,
    projected_tokens,
    teacher_weights,
    uld,
)

# Two texts; the chunks of the first have 1, 2 and 1 tokens of the student and 2, 1 and 1 of the teacher.
STUDENT_ENDS = torch.tensor([[1, 3, 4, 6, 8], [1, 2, 5, -1, -1]])
TEACHER_ENDS = torch.tensor([[1, 2, 3, 6, 8, 9], [1, 5, -1, -1, -1, -1]])
# Rows: the same token, two pieces, two pieces, the same token, nothing. Column 5 is reached by nobody.
DENSE = torch.tensor(
    [[0, 1, 0, 0, 0, 0, 0], [0.7, 0, 0.3, 0, 0, 0, 0], [0, 0, 0.2, 0, 0.8, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0] * 7],
    dtype=torch.float64,
)
# The other way: each teacher's token is one of the student's, of which the last is reached by nobody.
BACK = torch.eye(5, dtype=torch.float64)[[1, 0, 1, 3, 2, 0, 3]]


def sparse(dense):
    source, target = dense.nonzero(as_tuple=True)
    return Projection(source, target, dense[source, target])


W, W_BACK = sparse(DENSE), sparse(BACK)
COMMON = torch.tensor([[0, 1], [2, 4], [3, 3]])


def sides(scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    ours, theirs = align_tokens(STUDENT_ENDS, TEACHER_ENDS)
    made = []
    for chunks, size in ((ours, 5), (theirs, 7)):
        logits = (scale * torch.randn(*chunks.shape, size, generator=generator, dtype=torch.float64)).to(dtype)
        made.append(ChunkedLogits(logits, torch.randint(size, chunks.shape, generator=generator), chunks))
    made[0].logits.requires_grad_()
    return made


def chunks_of(side):
    """(row, places) of each chunk, by a search."""
    count = int(side.chunks.max()) + 1
    return [
        (row, places)
        for chunk in range(count)
        for row in range(len(side.chunks))
        if (places := [i for i, number in enumerate(side.chunks[row].tolist()) if number == chunk])
    ]


def means(side, temperature, columns=None):
    """Of each chunk the last token's distribution by the chain rule, the arithmetic and the geometric mean."""
    made = []
    for row, places in chunks_of(side):
        p = [side.logits[row, i - 1] / temperature for i in places]
        p = [(z if columns is None else z[columns]).softmax(-1) for z in p]
        chained = p[-1]
        if columns is None:
            for i, before in zip(places[:-1], p[:-1], strict=True):
                chained = chained * before[side.ids[row, i]]
        made.append((chained, sum(p) / len(p), math.prod(p) ** (1 / len(p))))
    return made


def l1(p, q):
    width = max(len(p), len(q))
    p, q = (sorted(z.tolist(), reverse=True) + [0.0] * (width - len(z)) for z in (p, q))
    return sum(abs(a - b) for a, b in zip(p, q, strict=True))


def uld_by_hand(student, teacher, tau=1.0):
    return [l1(p[0], q[0]) for p, q in zip(means(student, tau), means(teacher, tau), strict=True)]


def p_kl_by_hand(student, teacher, tau=1.0):
    reached = [0, 1, 2, 3, 4]
    pairs = zip(means(student, tau), means(teacher, tau, reached), strict=True)
    return [tau**2 * sum(q[2] * (q[2] / (p[1] @ DENSE)[reached]).log()).item() for p, q in pairs]


def h_kl_by_hand(student, teacher, tau=1.0):
    made = []
    for (*_, p), (*_, q) in zip(means(student, tau), means(teacher, tau), strict=True):
        divergence = sum(q[v] * (q[v] / p[u]).log() for u, v in COMMON.tolist()).item()
        made.append(tau**2 * (divergence + l1(p[[1, 4]], q[[0, 2, 5, 6]])))
    return made


def projected_by_hand(loss, student, teacher, **options):
    made = []
    for (row, ours), (_, theirs) in zip(chunks_of(student), chunks_of(teacher), strict=True):
        scores = (teacher.logits[row, theirs[0] - 1].softmax(-1) @ BACK).log()
        scores[4] = scores[:4].min() - 100
        label = student.ids[row, ours[0]][None]
        made.append(loss(student.logits[row, ours[0] - 1][None], scores[None], label, **options).item())
    return made


CASES = {
    "uld": (partial(uld, temperature=1.5), partial(uld_by_hand, tau=1.5)),
    "p_kl": (partial(p_kl, projection=W, temperature=1.5), partial(p_kl_by_hand, tau=1.5)),
    "h_kl": (partial(h_kl, common=COMMON, temperature=1.5), partial(h_kl_by_hand, tau=1.5)),
    "pld": (partial(projected_tokens, pld, projection=W_BACK), partial(projected_by_hand, pld)),
    "kd": (
        partial(projected_tokens, kd, projection=W_BACK, temperature=2.0),
        partial(projected_by_hand, kd, temperature=2.0),
    ),
    "decoupled_pld": (
        partial(projected_tokens, decoupled_pld, projection=W_BACK, beta=2.0),
        partial(projected_by_hand, decoupled_pld, beta=2.0),
    ),
}
every_loss = pytest.mark.parametrize("name", CASES)


def test_the_chunks_that_the_tests_are_made_of():
    student, teacher = sides()
    assert chunks_of(student) == [(0, [1]), (0, [2, 3]), (0, [4]), (1, [1, 2])]
    assert chunks_of(teacher) == [(0, [1, 2]), (0, [3]), (0, [4]), (1, [1])]


@every_loss
def test_a_loss_is_its_formula(name):
    loss, by_hand = CASES[name]
    student, teacher = sides()
    losses = by_hand(student, teacher)
    assert loss(student, teacher).item() == pytest.approx(sum(losses) / 4, rel=1e-12)
    assert loss(student, teacher, num_items=9).item() == pytest.approx(sum(losses) / 9, rel=1e-12)
    weight = torch.tensor([0.3, 2.0], dtype=torch.float64)
    weighted = 0.3 * sum(losses[:3]) + 2.0 * losses[3]
    assert loss(student, teacher, weight=weight).item() == pytest.approx(weighted / 4, rel=1e-12)
    assert loss(student, teacher, weight=0.5).item() == pytest.approx(sum(losses) / 8, rel=1e-12)


@every_loss
def test_gradients_are_those_of_the_values(name):
    loss, _ = CASES[name]
    student, teacher = sides()
    teacher.logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(student._replace(logits=z), teacher), student.logits)
    loss(student, teacher).backward()
    assert teacher.logits.grad is None
    seen = student.logits.grad.abs().sum(-1) > 0
    scoring = torch.zeros_like(seen)
    scoring[:, :-1] = student.chunks[:, 1:] >= 0
    first = torch.zeros_like(seen)
    first[[0, 0, 0, 1], [0, 1, 3, 0]] = True
    assert torch.equal(seen, first if loss.func is projected_tokens else scoring)


@every_loss
def test_micro_batches_add_up(name):
    loss, _ = CASES[name]
    student, teacher = sides()
    weight = torch.tensor([0.3, 2.0], dtype=torch.float64)
    whole, parts = loss(student, teacher, weight=weight), 0
    for row in (0, 1):
        ours, theirs = align_tokens(STUDENT_ENDS[row : row + 1], TEACHER_ENDS[row : row + 1])
        pair = [
            ChunkedLogits(side.logits[row : row + 1], side.ids[row : row + 1], chunks)
            for side, chunks in ((student, ours), (teacher, theirs))
        ]
        parts = parts + loss(*pair, num_items=torch.tensor(4), weight=weight[row : row + 1])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, student.logits)[0] for value in (parts, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extreme_logits_have_finite_losses_and_gradients(name, dtype):
    loss, by_hand = CASES[name]
    student, teacher = sides(scale=400.0, dtype=dtype)
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.logits.grad.isfinite().all()
    if name == "uld":  # the formulas written out overflow in the others
        exact = [side._replace(logits=side.logits.double()) for side in (student, teacher)]
        assert value.item() == pytest.approx(sum(by_hand(*exact)) / 4, rel=1e-4, abs=1e-6)


def test_a_gap_between_projected_tokens_is_in_the_gradient():
    """The student is 300 above on a token that is spelled otherwise: in float32 its exp is 0, its logarithm is not."""
    student, teacher = sides(dtype=torch.float32)
    with torch.no_grad():
        student.logits.zero_()
        student.logits[..., 3] = 300.0
        teacher.logits.zero_()
        teacher.logits[..., 1] = 50.0
    value = p_kl(student, teacher, W)
    value.backward()
    assert value.item() == pytest.approx(300, rel=1e-3)
    assert student.logits.grad[0, 0, 0].item() == pytest.approx(-1 / 4, rel=1e-3)


@every_loss
def test_no_chunk_is_a_zero_with_a_graph(name):
    loss, _ = CASES[name]
    student, teacher = (side._replace(chunks=torch.full_like(side.chunks, -1)) for side in sides())
    value = loss(student, teacher)
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, student.logits)[0], torch.zeros_like(student.logits))


def test_one_tokenizer_and_the_identity_are_the_losses_of_one_vocabulary():
    """Chunks of a token each: P-KL and the projected KD are KD, and H-KL too where all tokens are common."""
    generator = torch.Generator().manual_seed(1)
    s, t = (torch.randn(2, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    ids, ends = torch.randint(6, (2, 4), generator=generator), torch.arange(1, 5).expand(2, 4)
    student, teacher = (ChunkedLogits(z, ids, c) for z, c in zip((s, t), align_tokens(ends, ends), strict=True))
    identity = Projection(torch.arange(6), torch.arange(6), torch.ones(6))
    expected = kd(s[:, :-1].flatten(0, 1), t[:, :-1].flatten(0, 1), temperature=2.0)
    for value in (
        p_kl(student, teacher, identity, temperature=2.0),
        h_kl(student, teacher, common_tokens(identity), temperature=2.0),
        projected_tokens(kd, student, teacher, identity, temperature=2.0),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ranked = pld(s[:, :-1].flatten(0, 1), t[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(projected_tokens(pld, student, teacher, identity), ranked, rtol=1e-12, atol=0)


def test_the_pairs_of_equal_tokens():
    assert common_tokens(W).tolist() == [[0, 1], [3, 3]]
    assert common_tokens(W, at_least=0.75).tolist() == COMMON.tolist()
    rivals = Projection(torch.tensor([0, 1, 2]), torch.tensor([4, 4, 4]), torch.tensor([0.7, 0.9, 0.9]))
    assert common_tokens(rivals, at_least=0.6).tolist() == [[1, 4]]
    assert common_tokens(rivals).shape == (0, 2)


@pytest.mark.parametrize("by", ["confidence", "entropy", "cross_entropy"])
def test_weights_of_teachers(by):
    student, teacher = sides()
    sizes = torch.tensor([9.0, 5.0], dtype=torch.float64)
    scores = []
    for side in (teacher, student):
        for row in (0, 1):
            places = [i for i, chunk in enumerate(side.chunks[row]) if chunk >= 0]
            p = [side.logits[row, i - 1].softmax(-1).detach() for i in places]
            if by == "cross_entropy":
                scores.append(sum(z[side.ids[row, i]].log() for i, z in zip(places, p, strict=True)) / sizes[row])
            else:
                scores.append(sum(z.max() if by == "confidence" else (z * z.log()).sum() for z in p) / len(p))
    expected = (3 * torch.stack(scores).view(2, 2)).softmax(0)
    measured = teacher_weights([teacher, student], by=by, sharpness=3.0, sizes=sizes)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=0)
    assert not measured.requires_grad
    even = teacher_weights([teacher, student], by=by, sharpness=0.0, sizes=sizes)
    assert torch.equal(even, torch.full((2, 2), 0.5, dtype=torch.float64))


def replaced(side, **fields):
    return lambda student, teacher: {side: (student if side == "student" else teacher)._replace(**fields)}


WRONG = [
    (lambda s, t: {"teacher": t.logits}, ValueError, "teacher must be a ChunkedLogits, got Tensor"),
    (replaced("student", chunks=torch.zeros(2, 4)), ValueError, "student.chunks must be numbers of chunks"),
    (replaced("student", ids=torch.zeros(2, 4).long()), ValueError, r"student.ids must have shape \(2, 5\)"),
    (replaced("student", ids=torch.full((2, 5), 5)), IndexError, r"student.ids must be in 0\.\.4 .* got 5"),
    (replaced("teacher", chunks=torch.zeros(2, 6).long()), ValueError, "teacher.chunks must be -1 at the first token"),
    (replaced("teacher", chunks=torch.full((2, 6), -1)), ValueError, "teacher must have the student's 4 chunks"),
    (lambda s, t: {"teacher": t._replace(chunks=t.chunks * 3 // 3 + (t.chunks == 1) * 1)}, ValueError, "each of 0..3"),
    (
        lambda s, t: {"teacher": ChunkedLogits(*(part[:1] for part in t))},
        ValueError,
        "teacher must have the student's 2 texts",
    ),
    (lambda s, t: {"temperature": 0.0}, ValueError, "temperature must be a positive finite number"),
    (lambda s, t: {"num_items": 0}, ValueError, "num_items must be a finite number above 0"),
    (lambda s, t: {"weight": torch.ones(3)}, ValueError, r"weight must be a number or of shape \(2,\)"),
    (lambda s, t: {"weight": -1.0}, ValueError, "weight must be a finite number of at least 0"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_sides_that_do_not_fit_are_refused(change, error, message):
    student, teacher = sides()
    with pytest.raises(error, match=message):
        uld(**{"student": student, "teacher": teacher, **change(student, teacher)})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w.weights, ValueError, "projection must be a Projection, got Tensor"),
        (lambda w: w._replace(weights=w.weights * 0.72), ValueError, "must sum to 1, got 0.72 for 0"),
        (lambda w: w._replace(weights=w.weights - 1), ValueError, "projection.weights must be above 0, got -?0"),
        (lambda w: w._replace(target=w.target + 9), IndexError, r"projection.target must be in 0\.\.[46], got 1"),
        (lambda w: w._replace(source=w.source - 1), IndexError, r"projection.source must be in 0\.\.[46], got -1"),
        (lambda w: w._replace(source=w.source[:2]), ValueError, r"projection.source must have the weights' shape \(E"),
    ],
)
@pytest.mark.parametrize(("loss", "projection"), [(p_kl, W), (partial(projected_tokens, pld), W_BACK)])
def test_projections_that_do_not_fit_are_refused(loss, projection, change, error, message):
    with pytest.raises(error, match=message):
        loss(*sides(), change(projection))


@pytest.mark.parametrize(
    ("common", "error", "message"),
    [
        (COMMON[:, :1], ValueError, r"common must have shape \(K, 2\), got \(3, 1\)"),
        (COMMON.flip(0)[[0, 0]], ValueError, "common must have no token twice, got the student's 3 twice"),
        (COMMON + 3, IndexError, r"common must have the student's tokens 0\.\.4, got 3 to 6"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(common, error, message):
    with pytest.raises(error, match=message):
        h_kl(*sides(), common)


@pytest.mark.parametrize("loss", [dist, pld_from_top_k])
def test_losses_of_other_things_are_refused(loss):
    with pytest.raises(ValueError, match=f"loss must be of one row of logits of both models, got {loss.__name__}"):
        projected_tokens(loss, *sides(), W_BACK)


def test_bad_weights_of_teachers_are_refused():
    _, teacher = sides()
    with pytest.raises(ValueError, match="teachers must be at least one"):
        teacher_weights([])
    with pytest.raises(ValueError, match=r"teachers\[1\] must be a ChunkedLogits"):
        teacher_weights([teacher, None])
    with pytest.raises(ValueError, match=r"by must be one of .* did you mean 'entropy'"):
        teacher_weights([teacher], by="entrpy")
    with pytest.raises(ValueError, match=r"sizes must be a tensor of shape \(2,\), .* got NoneType"):
        teacher_weights([teacher], by="cross_entropy")
    with pytest.raises(ValueError, match="sizes must be above 0, got 0"):
        teacher_weights([teacher], by="cross_entropy", sizes=torch.tensor([3, 0]))
    with pytest.raises(ValueError, match="at_least must be in"):
        common_tokens(W, at_least=0.0)
