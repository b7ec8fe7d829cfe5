"""NKD, TTM, WTTM and RLD: by hand row by row in float64, their edges, and where the public code overflows."""

import math

import pytest
import torch

from pldistill.losses import nkd, rld, ttm, wttm
from reference import softmax


def draw(rows=12, classes=7):
    generator = torch.Generator().manual_seed(4)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def kl(a, b):
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


def tempered(logits, temperature, classes=None):
    return softmax([logits[c] / temperature for c in (range(len(logits)) if classes is None else classes)])


def nkd_by_hand(s, t, y, gamma=1.5, temperature=2.0):
    others = [c for c in range(len(s)) if c != y]
    p, q = tempered(s, temperature, others), tempered(t, temperature, others)
    rest = -sum(b * math.log(a) for a, b in zip(p, q, strict=True))
    return -tempered(t, 1)[y] * math.log(tempered(s, 1)[y]) + gamma * temperature**2 * rest


def ttm_by_hand(s, t, y, temperature=2.0):
    powers = [p ** (1 / temperature) for p in tempered(t, 1)]
    return kl([power / sum(powers) for power in powers], tempered(s, 1))


def wttm_by_hand(s, t, y, temperature=2.0):
    return sum(p ** (1 / temperature) for p in tempered(t, 1)) * ttm_by_hand(s, t, y, temperature)


def rld_by_hand(s, t, y, alpha=1.5, beta=3.0, temperature=2.0, target_temperature=1.5):
    sure, own = max(tempered(t, target_temperature)), tempered(s, target_temperature)[y]
    below = [c for c in range(len(s)) if t[c] < t[y]]
    rest = kl(tempered(t, temperature, below), tempered(s, temperature, below)) if below else 0
    return alpha * target_temperature**2 * kl([sure, 1 - sure], [own, 1 - own]) + beta * temperature**2 * rest


BY_HAND = {
    "nkd": (nkd, nkd_by_hand, {"gamma": 1.5, "temperature": 2.0}),
    "ttm": (ttm, ttm_by_hand, {"temperature": 2.0}),
    "wttm": (wttm, wttm_by_hand, {"temperature": 2.0}),
    "rld": (rld, rld_by_hand, {"alpha": 1.5, "beta": 3.0, "temperature": 2.0, "target_temperature": 1.5}),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("classes", [2, 7, 50])
def test_value_is_that_written_out_by_hand(name, classes):
    loss, by_hand, options = BY_HAND[name]
    tensors = draw(classes=classes)
    expected = [by_hand(*row) for row in zip(*(tensor.tolist() for tensor in tensors), strict=True)]
    assert loss(*tensors, reduction="none", **options).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_is_that_of_the_value(name):
    loss, _, options = BY_HAND[name]
    student, teacher, labels = draw(rows=5)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels, **options), student.requires_grad_())


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_a_student_that_is_confidently_wrong_or_right_has_a_finite_loss_that_it_learns_from(name, gap):
    loss, _, options = BY_HAND[name]
    student = torch.tensor([[0.0, gap, 1.0], [gap, 0.0, 1.0]], requires_grad=True)
    losses = loss(
        student, torch.tensor([[3.0, 1.0, 2.0]]).expand(2, 3), torch.tensor([0, 0]), reduction="none", **options
    )
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert losses.isfinite().all()
    assert losses[0] > 5
    assert gradient.isfinite().all()
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_nkd_of_two_classes_has_its_first_term_alone():
    student, teacher, labels = draw(classes=2)
    torch.testing.assert_close(nkd(student, teacher, labels, gamma=9.0), nkd(student, teacher, labels, gamma=0.0))
    alone = nkd(student, teacher, labels, gamma=1.0) - nkd(student, teacher, labels, gamma=0.0)
    assert alone == 0


def test_ttm_is_a_student_at_temperature_1_and_least_at_the_transformed_teacher():
    _, teacher, _ = draw()
    matched = (teacher / 4).requires_grad_()
    for loss in (ttm, wttm):
        value = loss(matched, teacher, temperature=4.0)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert torch.autograd.grad(value, matched)[0].abs().max() < 1e-12
        assert loss(teacher, teacher, temperature=4.0) > 0.1


def test_wttms_weight_is_1_of_a_sure_teacher_and_its_bound_of_an_unsure_one():
    student = torch.tensor([[0.0, 1.0, 3.0, 2.0]], dtype=torch.float64)
    sure, unsure = torch.tensor([[900.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    torch.testing.assert_close(wttm(student, sure, temperature=2.0), ttm(student, sure, temperature=2.0))
    torch.testing.assert_close(wttm(student, unsure, temperature=2.0), 2 * ttm(student, unsure, temperature=2.0))


def test_rld_leaves_out_classes_above_the_label_and_those_tied_with_it():
    teacher = torch.tensor([[5.0, 2.0, 2.0, 1.0, 0.0]])
    student = torch.tensor([[0.3, 1.0, -2.0, 0.5, 4.0]], requires_grad=True)
    second = rld(student, teacher, torch.tensor([1]), alpha=0.0, beta=1.0, temperature=1.0)
    (gradient,) = torch.autograd.grad(second, student)
    assert (gradient[0] != 0).tolist() == [False, False, False, True, True]
    q, p = tempered([1.0, 0.0], 1), tempered([0.5, 4.0], 1)
    assert second.item() == pytest.approx(kl(q, p), rel=1e-5)


def test_rlds_rows_whose_label_is_last_count_and_cost_nothing_in_the_second_term():
    teacher = torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
    student = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 1.0]])
    labels = torch.tensor([0, 0])
    each = rld(student, teacher, labels, alpha=0.0, reduction="none")
    assert each[0] == 0 < each[1]
    torch.testing.assert_close(rld(student, teacher, labels, alpha=0.0), each[1] / 2)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "4"])
def test_rld_names_the_temperature_that_is_refused(value):
    with pytest.raises(ValueError, match=r"^target_temperature must be a positive finite number, got "):
        rld(*draw(), target_temperature=value)


@pytest.mark.parametrize("loss", [nkd, rld])
def test_labels_are_asked_for(loss):
    student, teacher, _ = draw()
    with pytest.raises(ValueError, match=r"^labels must be a torch.Tensor, got NoneType"):
        loss(student, teacher, None)
