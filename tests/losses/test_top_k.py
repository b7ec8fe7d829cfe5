"""PLD on the first K ranks: the sum by hand, its derivatives, its bounds, a teacher's store in place of its logits."""

import math

import pytest
import torch

import reference
from pldistill.losses import (
    PLDLoss,
    TeacherTopK,
    plackett_luce,
    pld,
    pld_from_top_k,
    pld_top_k_bound,
    pld_weights,
    teacher_optimal_ranking,
    teacher_top_k,
)

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def draw(rows=6, classes=9, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("top_k", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_first_ranks_by_hand(top_k, temperature):
    student, teacher, labels = draw()
    losses = pld(student, teacher, labels, top_k=top_k, temperature=temperature, reduction="none")
    for s, t, y, loss in zip(student.tolist(), teacher.tolist(), labels.tolist(), losses.tolist(), strict=True):
        worths = [math.exp(z / temperature) for z in t]
        ranking = reference.ranking_of(t, y)
        expected = 0.0
        for k in range(top_k):
            left = sum(math.exp(s[c]) for c in ranking[k:])
            expected += worths[ranking[k]] / sum(worths) * (math.log(left) - s[ranking[k]])
        assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("top_k", [1, 4, 8, 9])
@pytest.mark.parametrize("label_weight", [0.0, 0.4])
@pytest.mark.parametrize("scale", [2.0, 300.0])
def test_the_gradient_is_that_of_a_ranking_whose_tail_weighs_nothing(top_k, label_weight, scale):
    student, teacher, labels = draw(scale=scale)
    ranking = teacher_optimal_ranking(teacher, labels)
    weights = pld_weights(teacher, labels, label_weight=label_weight)
    weights[:, top_k:] = 0
    expected = plackett_luce(student, ranking, weights)
    found = pld(student, teacher, labels, top_k=top_k, label_weight=label_weight)
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("top_k", [8, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ranks_are_exact_pld(top_k, dtype):
    student, teacher, labels = draw(dtype=dtype)
    exact = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float32 else EXACT
    found, expected = pld(student, teacher, labels, top_k=top_k), pld(student, teacher, labels)
    torch.testing.assert_close(found, expected, **exact)
    gradients = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, **exact)


@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_derivatives_of_both_orders(top_k):
    student, teacher, labels = draw(rows=3)

    def loss(s):
        return pld(s, teacher, labels, top_k=top_k)

    assert torch.autograd.gradcheck(loss, student)
    assert torch.autograd.gradgradcheck(loss, student)


@pytest.mark.parametrize("top_k", [1, 3, 9])
@pytest.mark.parametrize("options", [{}, {"label_weight": 0.5}])
def test_the_store_gives_the_same_numbers(top_k, options):
    student, teacher, labels = draw()
    labels[1] = -100
    store = teacher_top_k(teacher, top_k, labels, temperature=2.0)
    assert store.ids.shape == store.log_probabilities.shape == (6, top_k)
    found = pld_from_top_k(student, store, labels, **options)
    expected = pld(student, teacher, labels, top_k=top_k, temperature=2.0, **options)
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("dim", [1, 2, -1])
def test_the_store_has_its_classes_where_the_logits_have(dim):
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(2, 3, 8, generator=generator).double().movedim(-1, dim) for _ in range(2))
    labels = torch.randint(8, (2, 3), generator=generator)
    store = teacher_top_k(teacher, 4, labels, class_dim=dim)
    assert store.ids.shape[dim] == 4
    found = pld_from_top_k(student, store, labels, class_dim=dim, reduction="none")
    torch.testing.assert_close(found, pld(student, teacher, labels, top_k=4, class_dim=dim, reduction="none"), **EXACT)
    bound = pld_top_k_bound(student, store, labels, class_dim=dim)
    assert all(each.shape == labels.shape for each in bound)


def test_a_label_that_was_not_stored_weighs_nothing():
    student, teacher, labels = draw()
    labels = teacher.argmin(1)
    store = teacher_top_k(teacher, 3)
    ranking, weights = teacher_optimal_ranking(teacher, labels), pld_weights(teacher, labels)
    weights[:, 0] = 0
    weights[:, 3:] = 0
    torch.testing.assert_close(
        pld_from_top_k(student, store, labels), plackett_luce(student, ranking, weights), **EXACT
    )
    bound = pld_top_k_bound(student, store, labels)
    torch.testing.assert_close(bound.mass, 1 - weights.sum(1), **EXACT)
    assert bound.loss.isinf().all()


def teachers(kind, rows, classes):
    """Teachers whose best class has the probability 0.9 and whose others are Gaussian, Zipf's, or flat."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(rows, classes - 1, generator=generator, dtype=torch.float64)
    power = -1.2 * torch.arange(1, classes, dtype=torch.float64).log()
    tail = {"gauss": 2.5 * noise, "zipf": power + 0.05 * noise, "smoothed": 0.05 * noise}[kind].log_softmax(1)
    logits = torch.cat([torch.full((rows, 1), math.log(0.9), dtype=torch.float64), tail + math.log(0.1)], 1)
    order = torch.stack([torch.randperm(classes, generator=generator) for _ in range(rows)])
    return logits.gather(1, order), generator


@pytest.mark.parametrize("kind", ["gauss", "zipf", "smoothed"])
@pytest.mark.parametrize("state", ["first step", "fitted", "wrong"])
@pytest.mark.parametrize("top_k", [1, 16, 64])
def test_what_is_left_out_is_within_the_bound(kind, state, top_k):
    teacher, generator = teachers(kind, 8, 500)
    noise = torch.randn(8, 500, generator=generator, dtype=torch.float64)
    student = {"first step": noise, "fitted": 0.95 * teacher + 0.4 * noise, "wrong": -teacher + 5 * noise}[state]
    student.requires_grad_()
    labels = torch.where(torch.arange(8) < 6, teacher.argmax(1), torch.randint(500, (8,), generator=generator))
    bound = pld_top_k_bound(student, teacher_top_k(teacher, top_k, labels), labels)
    whole, head = (pld(student, teacher, labels, reduction="none", **more) for more in ({}, {"top_k": top_k}))
    missing = whole - head
    assert (missing >= 0).all()
    assert (missing <= bound.loss * (1 + 1e-9)).all()
    assert missing.max() > 0
    gradients = [torch.autograd.grad(each.sum(), student)[0] for each in (whole, head)]
    error = (gradients[0] - gradients[1]).abs().sum(1)
    assert (error <= bound.gradient * (1 + 1e-9)).all()
    outside = 1 - pld_weights(teacher, labels)[:, :top_k].sum(1)
    torch.testing.assert_close(bound.mass, outside, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(bound.gradient, 2 * outside, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gap", [120.0, 1e4, 1e30])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_extreme_logits_in_float32(gap, top_k):
    student = torch.tensor([[gap, 0.0, -gap, 1.0], [0.0, gap, 1.0, -gap], [-gap, 0.0, gap, 3.0]], requires_grad=True)
    teacher = torch.tensor([[3.0, 1.0, 0.0, -2.0], [-2.0, 0.0, 1.0, 3.0], [1.0, 3.0, -2.0, 0.0]])
    labels = torch.tensor([2, 0, 1])
    found = pld(student, teacher, labels, top_k=top_k)
    expected = pld(student.double(), teacher.double(), labels, top_k=top_k)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert gradients[0].isfinite().all()


def test_classes_that_the_student_rules_out():
    student = torch.tensor([[0.0, -math.inf, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher, labels = torch.tensor([[3.0, 1.0, 2.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    behind = pld(student, teacher, labels, top_k=2)
    q = teacher.softmax(1)[0]
    total = 1 + math.e + math.e**2
    expected = q[0] * math.log(total) + q[2] * (math.log(total - 1) - 1)
    torch.testing.assert_close(behind, expected, **EXACT)
    assert torch.autograd.grad(behind, student)[0].isfinite().all()
    assert pld(student, teacher, labels, top_k=3).item() == math.inf


def test_chunks_of_rows_change_nothing():
    student, teacher, labels = draw(rows=40, classes=9000)
    whole = pld(student, teacher, labels, top_k=5, reduction="none")
    rows = [pld(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], top_k=5) for i in range(40)]
    torch.testing.assert_close(whole, torch.stack(rows), **EXACT)


@pytest.mark.parametrize("value", [0, 10, True, 2.0, "3"])
def test_a_number_of_ranks_that_there_is_not(value):
    student, teacher, labels = draw()
    with pytest.raises(ValueError, match=r"top_k must be an integer in 1..9, the number of classes, got"):
        pld(student, teacher, labels, top_k=value)
    with pytest.raises(ValueError, match=r"top_k must be an integer in 1..9, the number of classes, got"):
        teacher_top_k(teacher, value)


@pytest.mark.parametrize("value", [0, True, 2.0])
def test_a_module_refuses_what_is_no_number_of_ranks(value):
    with pytest.raises(ValueError, match="top_k must be None or an integer of at least 1, got"):
        PLDLoss(top_k=value)


IDS, LOGS = torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), -1.0)


@pytest.mark.parametrize(
    ("store", "error", "message"),
    [
        ((IDS, LOGS), ValueError, "teacher must be a TeacherTopK, as teacher_top_k makes, got tuple"),
        (TeacherTopK(IDS.float(), LOGS), ValueError, "teacher.ids must be class indices of an integer dtype"),
        (TeacherTopK(IDS[:1], LOGS[:1]), ValueError, r"teacher.ids must have .* \(2, 5\) .* got \(1, 2\)"),
        (TeacherTopK(IDS, LOGS[:, :1]), ValueError, r"teacher.log_probabilities must have .* got \(2, 1\)"),
        (TeacherTopK(IDS + 2, LOGS), IndexError, "teacher.ids must be in 0..4, got 5"),
        (TeacherTopK(IDS - 1, LOGS), IndexError, "teacher.ids must be in 0..4, got -1"),
        (TeacherTopK(IDS, LOGS, LOGS), ValueError, r"label_log_probabilities must have the labels' shape \(2,\)"),
    ],
)
def test_a_store_that_does_not_fit_is_refused(store, error, message):
    with pytest.raises(error, match=message):
        pld_from_top_k(torch.zeros(2, 5), store, torch.tensor([0, 1]))
