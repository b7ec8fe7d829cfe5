"""The Hessians of the ranking losses, against those that autograd finds of the formulas written out in float64."""

import math
from functools import partial

import pytest
import torch
from torch.autograd.functional import hessian

from losses_list import ALL_LOSSES
from pldistill import kernels
from pldistill.losses import decoupled_pld, listmle, p_listmle, plackett_luce, plackett_luce_kl, pld
from pldistill.losses._plackett_luce import hessian_product

RANKING = [loss for loss in ALL_LOSSES if loss.function.__module__.endswith(("ranking", "stagewise"))]


def order_of(teacher, label):
    return [label, *(c for c in teacher.argsort(descending=True, stable=True).tolist() if c != label)]


def row_by_hand(student, order, alpha):
    """-Σ_k α_k log p_k by a loop over places; nothing of what stands at places of weight 0."""
    return sum(a * (student[order[k:]].logsumexp(0) - student[order[k]]) for k, a in enumerate(alpha) if a > 0)


def stages_by_hand(student, teacher, order, weights, temperature):
    """τ² Σ_k w_k KL_k, each KL that of two softmaxes over what is left."""
    total = 0
    for k, w in enumerate(weights):
        log_p, log_q = ((z[order[k:]] / temperature).log_softmax(0) for z in (student, teacher))
        total = total + w * (log_q.exp() * (log_q - log_p)).sum()
    return temperature**2 * total


def own_and_others(q, own, others):
    behind = q[1:] / q[1:].sum() * others
    return torch.cat([q.new_tensor([own]), behind])


def floored(q, floor):
    return own_and_others(q, floor, 1 - floor) if q[0] < floor else q


def ranks(count):
    return torch.arange(1, count + 1, dtype=torch.float64)


# Each with its weights by place, of q = softmax(t / τ) in the ranking's order.
WEIGHTINGS = [
    (partial(pld, temperature=2.0), 2.0, lambda q: q),
    (partial(pld, temperature=0.7, label_weight=0.6), 0.7, lambda q: floored(q, 0.6)),
    (partial(decoupled_pld, temperature=2.0, alpha=1.5, beta=2.0), 2.0, lambda q: own_and_others(q, 1.5, 2.0)),
    (listmle, 1.0, lambda q: torch.full_like(q, 1 / len(q))),
    (partial(listmle, weights="sum"), 1.0, torch.ones_like),
    (p_listmle, 1.0, lambda q: 2.0 ** (len(q) - ranks(len(q))) - 1),
    (
        partial(p_listmle, normalize=True),
        1.0,
        lambda q: (2.0 ** (len(q) - ranks(len(q))) - 1) / (2.0 ** len(q) - 1 - len(q)),
    ),
]
every_weighting = pytest.mark.parametrize(("loss", "temperature", "alpha_of"), WEIGHTINGS)


def draw(rows=3, classes=6, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(8)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def by_hand(student, teacher, labels, temperature, alpha_of):
    """The mean of the rows that are not left out."""
    rows = []
    for s, t, y in zip(student, teacher.double(), labels.tolist(), strict=True):
        if y != -100:
            order = order_of(t, y)
            rows.append(row_by_hand(s, order, alpha_of((t / temperature).softmax(0)[order])))
    return sum(rows) / len(rows)


@every_weighting
@pytest.mark.usefixtures("scan")
def test_hessian_is_that_of_the_formula(loss, temperature, alpha_of):
    student, teacher, labels = draw()
    labels[1] = -100
    expected = hessian(
        partial(by_hand, teacher=teacher, labels=labels, temperature=temperature, alpha_of=alpha_of), student
    )
    assert expected[0, :, 0].abs().max() > 1e-3
    found = hessian(lambda s: loss(s, teacher, labels), student)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("stages", [1, 3, "teacher"])
@pytest.mark.usefixtures("scan")
def test_hessian_of_the_stages(stages):
    student, teacher, labels = draw()
    temperature, loss = 3.0, partial(plackett_luce_kl, temperature=3.0, stage_weights=stages, reduction="sum")

    def written_out(s):
        total = 0
        for row, t, y in zip(s, teacher, labels.tolist(), strict=True):
            order = order_of(t, y)
            mass = (t / temperature).softmax(0)[order]
            weights = mass if stages == "teacher" else [1 / stages] * stages
            total = total + stages_by_hand(row, t, order, weights, temperature)
        return total

    torch.testing.assert_close(
        hessian(lambda s: loss(s, teacher, labels), student), hessian(written_out, student), rtol=1e-12, atol=1e-14
    )


@pytest.mark.usefixtures("scan")
def test_hessian_with_any_ranking_and_weights():
    student, teacher, _ = draw()
    ranking = teacher.argsort(1)
    weights = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    weights[0, 2:4] = 0

    def written_out(s):
        rows = zip(s, ranking.tolist(), weights, strict=True)
        return sum(row_by_hand(row, order, alpha) for row, order, alpha in rows)

    found = hessian(lambda s: plackett_luce(s, ranking, weights, reduction="sum"), student)
    torch.testing.assert_close(found, hessian(written_out, student), rtol=1e-12, atol=1e-14)


@every_weighting
@pytest.mark.usefixtures("scan")
def test_masked_classes_have_no_part(loss, temperature, alpha_of):
    student, teacher, _ = draw()
    others, labels = [0, 2, 3, 5], torch.tensor([3, 0, 2])
    restricted = torch.tensor([others.index(y) for y in labels.tolist()])
    make = partial(by_hand, teacher=teacher[:, others], labels=restricted, temperature=temperature, alpha_of=alpha_of)
    expected = hessian(make, student[:, others])
    student[:, [1, 4]], teacher[:, [1, 4]] = -math.inf, -math.inf
    found = hessian(lambda s: loss(s, teacher, labels), student)
    torch.testing.assert_close(found[:, others][..., others], expected, rtol=1e-12, atol=1e-14)
    assert not found[:, [1, 4]].any()
    assert not found[..., [1, 4]].any()


@pytest.mark.usefixtures("scan")
def test_a_class_that_is_ruled_out_at_weight_0_has_no_part():
    student, _, _ = draw(rows=1)
    ranking, weights = torch.tensor([[2, 4, 0, 1, 5, 3]]), torch.tensor([[0.5, 0.0, 1.0, 0.0, 2.0, 1.0]])
    student[0, 4] = student[0, 1] = -math.inf
    found = hessian(lambda s: plackett_luce(s, ranking, weights), student)[0, :, 0]
    left, places = [2, 0, 5, 3], [0.5, 1.0, 2.0, 1.0]
    expected = hessian(lambda s: row_by_hand(s, [0, 1, 2, 3], torch.tensor(places)), student[0, left])
    torch.testing.assert_close(found[left][:, left], expected, rtol=1e-12, atol=1e-14)
    assert not found[[1, 4]].any()
    assert not found[:, [1, 4]].any()


def hessian_by_matrices(student, order, alpha):
    """Σ_k α_k (diag(σ) - σ σᵀ), σ the softmax over what is left at place k: any logits that are finite."""
    total = torch.zeros(len(student), len(student), dtype=torch.float64)
    for k, a in enumerate(alpha):
        sigma = torch.zeros_like(student).scatter(0, torch.tensor(order[k:]), student[order[k:]].softmax(0))
        total += a * (sigma.diag() - sigma.outer(sigma))
    return total


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.usefixtures("scan")
def test_products_are_exact_at_any_range_of_the_logits(scale):
    """To what float64 rounds the logits to, of weights that sum to 1 and a v of about 1."""
    student, teacher, _ = draw(rows=4, classes=40, scale=1.0)
    student, v = scale * student, torch.randn(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ranking, weights = teacher.argsort(1), teacher.softmax(1)
    found = hessian_product(v, student, ranking, weights, 1.0)
    for at in range(4):
        matrix = hessian_by_matrices(student[at], ranking[at].tolist(), weights[at])
        torch.testing.assert_close(found[at], matrix @ v[at], rtol=1e-10, atol=1e-14 + 1e-15 * scale)
    constant = hessian_product(torch.full_like(v, 1e6), student, ranking, weights, 1.0)
    assert not constant.any()  # the losses are blind to a constant added


def test_products_are_exact_when_all_weight_is_behind():
    """The worths that are left at the last places are 1e4 below the first: their inverses overflow."""
    student = torch.linspace(0, -1e4, 30, dtype=torch.float64)[None].clone()
    student[0, -1] = student[0, -2]
    v = torch.linspace(-1, 1, 30, dtype=torch.float64)[None]
    ranking, weights = torch.arange(30)[None], torch.linspace(0, 1, 30, dtype=torch.float64)[None]
    expected = hessian_by_matrices(student[0], list(range(30)), weights[0]) @ v[0]
    assert expected[-1].abs() > 1e-3
    torch.testing.assert_close(hessian_product(v, student, ranking, weights, 1.0)[0], expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("loss", RANKING, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_second_derivative_is_finite_at_extreme_logits(loss, dtype):
    student, teacher, labels = draw(rows=8, scale=1e4, dtype=torch.float32)
    student = student.to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher.to(dtype), labels), student, create_graph=True)
    (bent,) = torch.autograd.grad((gradient * torch.arange(6)).sum(), student)
    assert bent.dtype == dtype
    assert bent.isfinite().all()


@every_weighting
@pytest.mark.parametrize("plain", [False, True])
def test_float32_by_kernel_and_plainly(loss, temperature, alpha_of, plain):
    student, teacher, labels = draw(rows=5, classes=20, dtype=torch.float32)
    labels[3] = -100
    wide, student = student.double().requires_grad_(), student.requires_grad_()
    v = torch.randn(5, 20, generator=torch.Generator().manual_seed(2))
    exact = by_hand(wide, teacher, labels, temperature, alpha_of)
    (slope,) = torch.autograd.grad(exact.square(), wide, create_graph=True)
    (expected,) = torch.autograd.grad((slope * v).sum(), wide)
    with kernels.switched_off() if plain else torch.enable_grad():
        found = loss(student, teacher, labels).square()
    (gradient,) = torch.autograd.grad(found, student, create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), student)
    assert (product.double() - expected).norm() <= 2e-6 * expected.norm()


@pytest.mark.parametrize("loss", RANKING, ids=str)
def test_left_out_rows_have_none_whatever_they_hold(loss):
    student, teacher, labels = draw()
    labels[1] = -100
    clean = hessian(lambda s: loss(s, teacher, labels), student)
    student[1], teacher[1, 2] = math.nan, math.nan
    found = hessian(lambda s: loss(s, teacher, labels), student)
    torch.testing.assert_close(found, clean, rtol=1e-12, atol=1e-14)  # NaN has the sums carried as logarithms
    assert not found[1].any()
    for dtype in (torch.float32, torch.float64):
        s = student.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(s, teacher.to(dtype), labels), s, create_graph=True)
        (bent,) = torch.autograd.grad(gradient.square().sum(), s)
        assert bent[[0, 2]].any()
        assert not bent[1].any()


@pytest.mark.parametrize("loss", RANKING, ids=str)
def test_chunks_change_nothing(loss, monkeypatch):
    student, teacher, labels = draw(rows=37, classes=6)
    student.requires_grad_()

    def bent():
        (gradient,) = torch.autograd.grad(loss(student, teacher, labels), student, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), student)[0]

    whole = bent()
    monkeypatch.setattr("pldistill.losses._plackett_luce._CHUNK_CPU", 60)
    assert torch.equal(bent(), whole)


def test_a_gradient_penalty_trains():
    """Steps down a penalty on the gradient's length make it smaller: its own gradient is not nought or turned round."""
    student, teacher, labels = draw(dtype=torch.float32)
    student.requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(pld(student, teacher, labels, reduction="sum"), student, create_graph=True)
        return gradient.square().sum()

    before = penalty()
    for _ in range(20):
        (step,) = torch.autograd.grad(penalty(), student)
        with torch.no_grad():
            student -= 0.5 * step
    assert penalty() < before / 2
