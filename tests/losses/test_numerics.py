"""How exact the Plackett-Luce losses are: the table of `numeric_cases`, half precision, and infinite logits."""

import math

import pytest
import torch

import reference
from numeric_cases import CASES
from pldistill.losses import listmle, p_listmle, plackett_luce, pld

LOSSES = [pld, listmle, lambda s, t, y, **options: p_listmle(s, t, y, normalize=True, **options)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("path")
def test_float32_is_as_exact_as_promised(case):
    loss_error, gradient_error = case.errors()
    assert loss_error <= case.loss_bound
    assert gradient_error <= case.gradient_bound


def draw(rows=8, classes=100, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(dtype, loss):
    student, teacher, labels = draw(dtype=dtype)
    wide = student.detach().float().requires_grad_()
    expected = loss(wide, teacher.float(), labels)
    measured = loss(student, teacher, labels)
    assert measured.dtype == torch.float32
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=0)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(x, s) for x, s in ((measured, student), (expected, wide)))
    assert torch.equal(gradient, expected_gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("path")
def test_half_precision_against_the_reference(dtype):
    student, teacher, labels = draw(classes=1000, dtype=dtype)
    exact, _ = reference.pld(student, teacher, labels)
    torch.testing.assert_close(pld(student, teacher, labels, reduction="none").double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("student_scale", [1.0, 1e4])
@pytest.mark.usefixtures("path")
def test_classes_masked_in_both_nets_do_not_exist(student_scale):
    student, teacher, labels = draw(rows=16, classes=12, dtype=torch.float64)
    masked, others = [1, 4, 5, 11], [0, 2, 3, 6, 7, 8, 9, 10]
    labels = labels % 8  # within the others
    student = (student.detach() * student_scale).requires_grad_()
    with_mask = student.detach().clone()
    with_mask[:, masked] = -math.inf
    with_mask.requires_grad_()
    teacher_with_mask = teacher.clone()
    teacher_with_mask[:, masked] = -math.inf
    restricted = pld(student[:, others], teacher[:, others], labels, reduction="none")
    losses = pld(with_mask, teacher_with_mask, torch.tensor(others)[labels], reduction="none")
    torch.testing.assert_close(losses, restricted, rtol=1e-12, atol=0)
    (gradient,), (expected,) = (
        torch.autograd.grad(x.sum(), s) for x, s in ((losses, with_mask), (restricted, student))
    )
    torch.testing.assert_close(gradient[:, others], expected[:, others], rtol=1e-12, atol=1e-15)
    assert (gradient[:, masked] == 0).all()


@pytest.mark.usefixtures("path")
def test_teacher_alone_may_mask():
    student, teacher, labels = draw()
    teacher[:, ::3] = -math.inf
    exact, exact_gradient = reference.pld(student, teacher, labels)
    losses = pld(student, teacher, labels, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.usefixtures("path")
def test_impossible_class_with_weight_costs_infinity_in_its_row_alone(loss):
    student, teacher, labels = draw()
    worst = teacher.argmin(1)[3]
    for row, column in ((0, labels[0]), (1, teacher[1].argmax()), (3, worst)):
        with torch.no_grad():
            student[row, column] = -math.inf
    if loss is LOSSES[2]:  # the last place weighs nothing there
        with torch.no_grad():
            student[3] = -math.inf
    losses = loss(student, teacher, labels, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert losses.isinf().tolist() == [True, True, False, True, False, False, False, False]
    assert (losses > 0).all()
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("path")
def test_gradient_of_an_impossible_class_is_minus_its_weight():
    student = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    loss = plackett_luce(student, torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.25, 0.125]]))
    (gradient,) = torch.autograd.grad(loss, student)
    share = 0.5 / (1 + math.e) + 0.25 / math.e + 0.125 / math.e
    assert gradient[0].tolist() == pytest.approx([0.5 / (1 + math.e) - 0.5, -0.25, math.e * share - 0.125], abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.usefixtures("path")
def test_a_bad_row_stays_alone(bad):
    student, teacher, labels = draw()
    with torch.no_grad():
        student[1, 5] = bad
    teacher[2, 7] = bad
    losses = pld(student, teacher, labels, reduction="none")
    assert losses.isfinite().tolist() == [True, False, False, True, True, True, True, True]
    (gradient,) = torch.autograd.grad(losses[3:].sum() + losses[0], student)
    assert gradient[[0, 3, 4, 5, 6, 7]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.usefixtures("path")
def test_one_class_costs_nothing(dtype):
    student = torch.tensor([[3.0], [-7.0]], dtype=dtype, requires_grad=True)
    for loss in LOSSES:
        losses = loss(student, torch.ones_like(student), torch.tensor([0, 0]), reduction="none")
        assert losses.tolist() == [0, 0]
        assert torch.autograd.grad(losses.sum(), student)[0].tolist() == [[0], [0]]


def test_chunks_change_nothing(monkeypatch):
    student, teacher, labels = draw(rows=37)
    whole = pld(student, teacher, labels, reduction="none")
    (gradient,) = torch.autograd.grad(whole.sum(), student)
    monkeypatch.setattr("pldistill.losses._plackett_luce._CHUNK_CPU", 500)
    chunked = pld(student, teacher, labels, reduction="none")
    assert torch.equal(chunked, whole)
    assert torch.equal(torch.autograd.grad(chunked.sum(), student)[0], gradient)
