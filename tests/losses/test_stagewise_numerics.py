"""How exact the KL along the ranking is: the table of `numeric_cases`, models that agree, and infinite logits."""

import math
import warnings
from functools import partial

import pytest
import torch

import reference
from numeric_cases import CASES
from pldistill.losses import plackett_luce_kl
from stagewise_draws import draw, every_weighting, gradient_of


@pytest.mark.parametrize("stages", [2, "teacher"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("scan")
def test_float32_is_as_exact_as_promised(case, stages):
    loss_error, gradient_error = case.errors(
        partial(plackett_luce_kl, stage_weights=stages), partial(reference.plackett_luce_kl, stages=stages)
    )
    assert loss_error <= case.loss_bound
    assert gradient_error <= case.gradient_bound


@every_weighting
@pytest.mark.usefixtures("scan")
def test_a_student_that_is_the_teacher_and_a_constant_costs_nothing(stages):
    _, teacher, labels = draw(dtype=torch.float32, scale=5.0)
    for shift in (0.0, 8.0, 1e4):
        teacher = (teacher + shift) - shift  # so that the shift is exact, as a constant is in real numbers
        student = (teacher + shift).requires_grad_()
        losses = plackett_luce_kl(student, teacher, labels, stage_weights=stages, reduction="none")
        assert losses.tolist() == [0.0] * 6
        assert not gradient_of(losses, student).any()


@pytest.mark.parametrize("shift", [0.3, -77.7])
def test_a_rounded_constant_costs_next_to_nothing(shift):
    _, teacher, labels = draw(dtype=torch.float32, classes=1000, scale=5.0)
    student = (teacher + shift).requires_grad_()
    losses = plackett_luce_kl(student, teacher, labels, stage_weights="teacher", reduction="none")
    assert ((losses >= 0) & (losses < 1e-9)).all()
    assert gradient_of(losses, student).abs().max() < 1e-6 * 4


@pytest.mark.parametrize("difference", [1e-3, 1e-6, 1e-9])
@pytest.mark.usefixtures("scan")
def test_a_small_difference_keeps_its_digits(difference):
    """As U_k / T_k - log T_k + log S_k, the loss of 1e-9 would be rounding alone, of either sign."""
    step, teacher, labels = draw(rows=3, classes=50)
    teacher = (teacher * 2**20).round() / 2**20
    delta = (difference * step.detach() * 2**50).round() / 2**50
    student = (teacher + delta).requires_grad_()
    delta = student.detach() - teacher
    losses = plackett_luce_kl(student, teacher, labels, temperature=1.0, stage_weights=1, reduction="none")
    q = teacher.softmax(1)
    centered = delta - (q * delta).sum(1, keepdim=True)
    moments = [(q * centered**n).sum(1) for n in (2, 3)]
    torch.testing.assert_close(losses, moments[0] / 2 + moments[1] / 6, rtol=1e-5, atol=0)
    gradient = gradient_of(losses, student)
    torch.testing.assert_close(gradient, q * centered, rtol=0, atol=10 * difference**2 + 1e-15)


@pytest.mark.parametrize("student_scale", [1.0, 1e2])
@every_weighting
@pytest.mark.usefixtures("scan")
def test_a_teacher_of_any_spread(stages, student_scale):
    student, teacher, labels = draw(classes=30)
    student = (student_scale * student.detach()).requires_grad_()
    teacher = 1e3 * teacher
    losses = plackett_luce_kl(student, teacher, labels, temperature=1.0, stage_weights=stages, reduction="none")
    exact, exact_gradient = reference.plackett_luce_kl(student, teacher, labels, 1.0, stages)
    torch.testing.assert_close(losses, exact, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient_of(losses, student), exact_gradient, rtol=1e-9, atol=1e-12)


@every_weighting
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e2, 1e4])
def test_never_below_zero(stages, scale):
    student, teacher, labels = draw(rows=50, scale=scale)
    for t in (teacher, *(student.detach() + step * teacher for step in (1e-7, 1e-14, 1e-15, 1e-16))):
        assert (plackett_luce_kl(student, t, labels, stage_weights=stages, reduction="none") >= 0).all()


@every_weighting
@pytest.mark.usefixtures("scan")
def test_classes_masked_in_both_nets_do_not_exist(stages):
    student, teacher, labels = draw(rows=8, classes=16)
    masked, others = [1, 4, 5, 11], [c for c in range(16) if c not in (1, 4, 5, 11)]
    labels = labels % len(others)
    restricted = plackett_luce_kl(
        student[:, others], teacher[:, others], labels, stage_weights=stages, reduction="none"
    )
    with_mask, teacher_with_mask = (z.detach().clone() for z in (student, teacher))
    with_mask[:, masked] = teacher_with_mask[:, masked] = -math.inf
    with_mask.requires_grad_()
    losses = plackett_luce_kl(
        with_mask, teacher_with_mask, torch.tensor(others)[labels], stage_weights=stages, reduction="none"
    )
    torch.testing.assert_close(losses, restricted, rtol=1e-12, atol=0)
    gradient, expected = gradient_of(losses, with_mask), gradient_of(restricted, student)
    torch.testing.assert_close(gradient[:, others], expected[:, others], rtol=1e-12, atol=1e-15)
    assert (gradient[:, masked] == 0).all()


@every_weighting
@pytest.mark.usefixtures("scan")
def test_teacher_alone_may_mask(stages):
    student, teacher, labels = draw(rows=8, classes=20)
    teacher[:, torch.arange(20) % 3 != 0] = -math.inf  # 7 are left, so a tenth stage has nothing to choose from
    assert 0 < (labels % 3 == 0).sum() < 8  # the label, too, in some rows
    losses = plackett_luce_kl(student, teacher, labels, stage_weights=stages, reduction="none")
    exact, exact_gradient = reference.plackett_luce_kl(student, teacher, labels, 4.0, stages)
    torch.testing.assert_close(losses, exact, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient_of(losses, student), exact_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("scan")
def test_a_class_that_the_student_alone_rules_out_costs_infinity_in_its_row_alone():
    student, teacher, labels = draw(classes=12)
    with torch.no_grad():
        student[0, labels[0]] = -math.inf
        student[1, teacher[1].argmin()] = -math.inf
        student[2] = -math.inf
    losses = plackett_luce_kl(student, teacher, labels, reduction="none")
    assert losses.isinf().tolist() == [True, True, True, False, False, False]
    assert (losses > 0).all()
    assert gradient_of(losses, student).isfinite().all()
    second = torch.tensor([0.0, 1.0, *[0.0] * 10])
    losses = plackett_luce_kl(student, teacher, labels, stage_weights=second, reduction="none")
    assert losses.isinf().tolist() == [False, True, True, False, False, False]  # the label is gone by then
    assert gradient_of(losses, student).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@every_weighting
@pytest.mark.usefixtures("scan")
def test_a_bad_row_stays_alone(bad, stages):
    student, teacher, labels = draw()
    with torch.no_grad():
        student[1, 5] = bad
    teacher[2, 7] = bad
    losses = plackett_luce_kl(student, teacher, labels, stage_weights=stages, reduction="none")
    assert losses.isfinite().tolist() == [True, False, False, True, True, True]
    assert gradient_of(losses[[0, 3, 4, 5]], student)[[0, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("stages", [1, "teacher", torch.ones(1)])
@pytest.mark.usefixtures("scan")
def test_one_class_costs_nothing(stages):
    student = torch.tensor([[3.0], [-7.0]], requires_grad=True)
    losses = plackett_luce_kl(student, torch.ones(2, 1), torch.tensor([0, 0]), stage_weights=stages, reduction="none")
    assert losses.tolist() == [0, 0]
    assert gradient_of(losses, student).tolist() == [[0], [0]]


def test_chunks_change_nothing(monkeypatch):
    student, teacher, labels = draw(rows=37)
    for stages in (2, "teacher"):
        whole = plackett_luce_kl(student, teacher, labels, stage_weights=stages, reduction="none")
        gradient = gradient_of(whole, student)
        with monkeypatch.context() as patch:
            patch.setattr("pldistill.losses._plackett_luce._CHUNK_CPU", 60)
            chunked = plackett_luce_kl(student, teacher, labels, stage_weights=stages, reduction="none")
            assert torch.equal(chunked, whole)
            assert torch.equal(gradient_of(chunked, student), gradient)


def test_compiled_path_keeps_infinities_right():
    torch.compiler.reset()
    student, teacher, labels = draw(rows=4, classes=5)
    with torch.no_grad():
        student[0, 1], teacher[0, 1] = -math.inf, -math.inf
        student[1, labels[1]] = -math.inf
        student[3] = teacher[3]
    labels[0] = 3
    loss = partial(plackett_luce_kl, stage_weights="teacher", reduction="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)
        measured = compiled(student, teacher, labels)
    expected = loss(student, teacher, labels)
    torch.testing.assert_close(measured, expected)
    assert measured.isinf().tolist() == [False, True, False, False]
    assert measured[3] == 0
    gradients = [gradient_of(x[[0, 2, 3]], student) for x in (measured, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0][0, 1] == 0
