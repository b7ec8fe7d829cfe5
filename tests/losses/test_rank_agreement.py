"""Kendall's tau, CMKD and RankDistil: by hand pair by pair in float64, and the textbook's correlations in the limit."""

import math
from itertools import combinations

import pytest
import torch

from pldistill.losses import cmkd, kendall, rankdistil
from reference import softmax


def draw(rows=10, classes=6):
    generator = torch.Generator().manual_seed(7)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[0, 1] = teacher[0, 2]
    return student, teacher


def sign(x):
    return (x > 0) - (x < 0)


def kendall_by_hand(s, t, temperature=2.0):
    pairs = list(combinations(range(len(s)), 2))
    return 1 - sum(math.tanh((s[i] - s[j]) / temperature) * sign(t[i] - t[j]) for i, j in pairs) / len(pairs)


def pearson(a, b):
    a, b = ([x - sum(v) / len(v) for x in v] for v in (a, b))
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-8)


def cmkd_by_hand(s, t, alpha=2.0, beta=3.0, temperature=2.0, rank_temperature=1.5):
    classes = range(len(s))
    ours = [sum(1 / (1 + math.exp((s[j] - s[i]) / rank_temperature)) for j in classes if j != i) for i in classes]
    theirs = [sum((t[i] > t[j]) + (t[i] == t[j]) / 2 for j in classes if j != i) for i in classes]
    middle, count = (len(s) - 1) / 2, len(s)
    products = sum((a - middle) * (b - middle) for a, b in zip(ours, theirs, strict=True))
    spearman = 12 * products / (count * (count**2 - 1))
    p, q = (softmax([x / temperature for x in z]) for z in (s, t))
    return alpha * (1 - pearson(p, q)) + beta * (1 - spearman)


def rankdistil_by_hand(s, t, top=2):
    first = sorted(range(len(t)), key=lambda c: (-t[c], c))[:top]
    pairs = [(i, j) for i in first for j in range(len(t)) if t[j] < t[i]]
    return sum(math.log1p(math.exp(s[j] - s[i])) for i, j in pairs) / len(pairs)


BY_HAND = {
    "kendall": (kendall, kendall_by_hand, {"temperature": 2.0}),
    "cmkd": (cmkd, cmkd_by_hand, {"alpha": 2.0, "beta": 3.0, "temperature": 2.0, "rank_temperature": 1.5}),
    "rankdistil": (rankdistil, rankdistil_by_hand, {"top": 2}),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("classes", [3, 6, 40])
def test_value_is_that_written_out_by_hand(name, classes):
    loss, by_hand, options = BY_HAND[name]
    tensors = draw(classes=classes)
    expected = [by_hand(*row) for row in zip(*(tensor.tolist() for tensor in tensors), strict=True)]
    assert loss(*tensors, reduction="none", **options).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_is_that_of_the_value(name):
    loss, _, options = BY_HAND[name]
    student, teacher = draw(rows=4)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, **options), student.requires_grad_())


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_is_finite_where_logits_are_extreme_alike_or_masked_by_the_student_alone(name):
    loss, _, options = BY_HAND[name]
    rows = [[1e30, -1e30, 0.0, 5.0], [2.0, 2.0, 2.0, 2.0], [1.0, 0.0, -math.inf, -math.inf]]
    student = torch.tensor(rows, requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).expand(3, 4)
    losses = loss(student, teacher, reduction="none", **options)
    (gradient,) = torch.autograd.grad(losses[:2].sum(), student, retain_graph=True)
    assert losses[:2].isfinite().all()
    assert losses[2] > 0
    assert gradient.isfinite().all()
    assert torch.autograd.grad(losses[2], student)[0].isfinite().all()


def test_a_sharp_kendall_is_one_minus_tau():
    student = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for teacher, tau in (([1.0, 2.0, 3.0, 4.0], 1), ([4.0, 3.0, 2.0, 1.0], -1), ([1.0, 2.0, 4.0, 3.0], 4 / 6)):
        assert kendall(student, torch.tensor([teacher]), temperature=1e-3).item() == pytest.approx(1 - tau, abs=1e-6)


def test_sharp_ranks_give_spearmans_correlation():
    """ρ = 1 - 6 Σ d² / (C (C² - 1)), d the differences of the ranks 1..C."""
    student = torch.tensor([[10.0, 40.0, 20.0, 30.0, 50.0]])
    teacher = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    ranks = [1, 4, 2, 3, 5]
    rho = 1 - 6 * sum((r - k) ** 2 for k, r in enumerate(ranks, 1)) / (5 * 24)
    measured = cmkd(student, teacher, alpha=0.0, beta=1.0, rank_temperature=1e-3)
    assert measured.item() == pytest.approx(1 - rho, abs=1e-6)


def test_rankdistil_leaves_the_order_behind_the_first_alone():
    teacher = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    student = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])
    swapped = student[:, [0, 1, 4, 2, 3]]
    torch.testing.assert_close(rankdistil(student, teacher, top=2), rankdistil(swapped, teacher, top=2))
    assert rankdistil(student[:, [1, 0, 2, 3, 4]], teacher, top=2) > rankdistil(student, teacher, top=2)
    assert rankdistil(swapped, teacher, top=5) > rankdistil(student, teacher, top=5)


def test_rows_with_nothing_to_compare_cost_nothing():
    student = torch.randn(3, 1, requires_grad=True)
    for loss in (kendall, cmkd, rankdistil):
        value = loss(student, torch.zeros(3, 1))
        assert value == 0
        assert not torch.autograd.grad(value, student)[0].any()
    assert rankdistil(torch.randn(2, 4), torch.zeros(2, 4)) == 0


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "10"])
def test_rankdistil_refuses_another_number_of_classes(value):
    with pytest.raises(ValueError, match=r"^top must be an integer of at least 1, got "):
        rankdistil(*draw(), top=value)
