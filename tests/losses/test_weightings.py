"""PLD with a floor for the label, and decoupled PLD, against their formulas written out; and the weights themselves."""

import itertools
import math

import pytest
import torch

from pldistill import kernels
from pldistill.losses import (
    DecoupledPLDLoss,
    PLDLoss,
    decoupled_pld,
    plackett_luce,
    pld,
    pld_weights,
    teacher_optimal_ranking,
)


def by_hand(student, teacher, labels, weights_of, temperature):
    """-sum_k alpha_k log p_k, row by row in float64; `weights_of(q, y)` gives alpha by class."""
    losses = []
    for s, t, y in zip(student.double(), teacher.double(), labels.tolist(), strict=True):
        order = [y, *(c for c in t.argsort(descending=True, stable=True).tolist() if c != y)]
        alpha = weights_of((t / temperature).softmax(0), y)
        losses.append(sum(alpha[c] * (s[order[k:]].logsumexp(0) - s[c]) for k, c in enumerate(order)))
    return torch.stack(losses).mean()


def floored(floor):
    def weights(q, y):
        if q[y] >= floor:
            return q
        others = q.clone()
        others[y] = 0
        alpha = others / others.sum() * (1 - floor)
        alpha[y] = floor
        return alpha

    return weights


def apart(own, others):
    def weights(q, y):
        alpha = q.clone()
        alpha[y] = 0
        alpha = others * alpha / alpha.sum()
        alpha[y] = own
        return alpha

    return weights


FORMS = [
    ("no floor", lambda *a, **k: pld(*a, **k), floored(0.0)),
    ("floor 0.2", lambda *a, **k: pld(*a, **k, label_weight=0.2), floored(0.2)),
    ("floor 1", lambda *a, **k: pld(*a, **k, label_weight=1.0), floored(1.0)),
    ("decoupled 1, 3", lambda *a, **k: decoupled_pld(*a, **k), apart(1.0, 3.0)),
    ("decoupled 0.5, 9", lambda *a, **k: decoupled_pld(*a, **k, alpha=0.5, beta=9.0), apart(0.5, 9.0)),
]
SHAPES = list(itertools.product((2, 10, 100), (1.0, 5.0, 20.0), (1.0, 4.0)))


@pytest.mark.parametrize("form", FORMS, ids=[form[0] for form in FORMS])
@pytest.mark.parametrize(("classes", "spread", "temperature"), SHAPES)
@pytest.mark.parametrize("plain", [False, True])
def test_values_and_gradients_are_the_formula_s(form, classes, spread, temperature, plain):
    generator = torch.Generator().manual_seed(classes)
    student = 3 * torch.randn(16, classes, generator=generator)
    teacher = spread * torch.randn(16, classes, generator=generator)
    labels = torch.randint(classes, (16,), generator=generator)
    _, loss, weights_of = form
    exact = student.double().requires_grad_()
    expected = by_hand(exact, teacher, labels, weights_of, temperature)
    (slope,) = torch.autograd.grad(expected, exact)
    student.requires_grad_()
    with kernels.switched_off() if plain else torch.enable_grad():
        found = loss(student, teacher, labels, temperature=temperature)
        (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (gradient.double() - slope).norm() <= 1e-6 * slope.norm()


@pytest.mark.parametrize("form", FORMS, ids=[form[0] for form in FORMS])
def test_gradcheck_in_float64(form):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher, labels = 2 * torch.randn(4, 6, dtype=torch.float64, generator=generator), torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda s: form[1](s, teacher, labels, temperature=2.0), (student,))


def test_the_weights_are_those_of_the_loss_and_sum_to_one():
    teacher, labels = 4 * torch.randn(8, 20), torch.randint(20, (8,))
    student, ranking = torch.randn(8, 20), teacher_optimal_ranking(teacher, labels)
    for floor in (0.0, 0.3):
        weights = pld_weights(teacher, labels, temperature=2.0, label_weight=floor)
        assert torch.allclose(weights.sum(1), torch.ones(8), atol=1e-6)
        assert bool((weights[:, 0] >= floor - 1e-7).all())
        loss = pld(student, teacher, labels, temperature=2.0, label_weight=floor)
        assert torch.allclose(loss, plackett_luce(student, ranking, weights), rtol=1e-6)


def test_pld_is_decoupled_pld_with_the_teacher_s_own_parts():
    """alpha = q_y, beta = 1 - q_y, for one row."""
    teacher, student, labels = torch.randn(1, 9), torch.randn(1, 9), torch.tensor([4])
    own = teacher.softmax(1)[0, 4].item()
    decoupled = decoupled_pld(student, teacher, labels, temperature=1.0, alpha=own, beta=1 - own)
    assert decoupled.item() == pytest.approx(pld(student, teacher, labels).item(), rel=1e-6)


def test_a_beta_of_nothing_is_cross_entropy_and_so_is_a_floor_of_all():
    student, teacher, labels = torch.randn(8, 12), torch.randn(8, 12), torch.randint(12, (8,))
    expected = torch.nn.functional.cross_entropy(student, labels).item()
    assert decoupled_pld(student, teacher, labels, beta=0.0).item() == pytest.approx(expected, rel=1e-6)
    assert pld(student, teacher, labels, label_weight=1.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("gap", [50.0, 120.0, 1e4, math.inf])
def test_a_teacher_that_is_sure_leaves_finite_figures(plain, gap):
    """The label, or another class, is so far ahead that nothing is left for the others in float32."""
    student = torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    teacher = torch.zeros(4, 5)
    teacher[:, 0] = 0.0 if gap == math.inf else gap
    if gap == math.inf:
        teacher[:, 1:] = -math.inf  # all but class 0 are ruled out
    with kernels.switched_off() if plain else torch.enable_grad():
        for loss in (pld(student, teacher, labels, label_weight=0.2), decoupled_pld(student, teacher, labels)):
            (gradient,) = torch.autograd.grad(loss, student)
            assert math.isfinite(loss.item())
            assert bool(gradient.isfinite().all())


def test_one_class_has_nobody_behind_it():
    student = torch.randn(3, 1, requires_grad=True)
    loss = decoupled_pld(student, torch.randn(3, 1), torch.zeros(3, dtype=torch.int64))
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PLDLoss(label_weight=1.5), r"label_weight must be a number in \[0, 1\], got 1.5"),
        (lambda: PLDLoss(label_weight="0.2"), r"label_weight must be a number in \[0, 1\], got '0.2'"),
        (lambda: DecoupledPLDLoss(beta=-1), "beta must be a finite number of at least 0, got -1"),
        (lambda: DecoupledPLDLoss(alpha=math.nan), "alpha must be a finite number of at least 0, got nan"),
        (lambda: pld_weights(torch.zeros(2, 3), torch.zeros(2).long(), temperature=0.0), "temperature"),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
