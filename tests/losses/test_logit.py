"""The logit losses: values written out by hand, the textbook formulas in float64, the originals' conventions."""

import math

import pytest
import torch
import torch.nn.functional as F

import reference
from pldistill.losses import dist, dkd, jensen_shannon, kd, reverse_kl, standardize

LOSSES = {kd: reference.kd, reverse_kl: reference.reverse_kl, jensen_shannon: reference.jensen_shannon}


def draw(rows=6, classes=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


# Probabilities 1/4, 3/4 of the student and 1/2, 1/2 of the teacher, at temperature 2.
STUDENT, TEACHER = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[5.0, 5.0]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (kd, 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)),
        (reverse_kl, 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)),
        (
            jensen_shannon,
            (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)) / 2
            + (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)) / 2,
        ),
    ],
)
def test_divergences_by_hand(loss, expected):
    assert loss(STUDENT, TEACHER, temperature=2.0).item() == pytest.approx(4 * expected, rel=1e-5)
    assert loss(STUDENT, TEACHER, temperature=2.0, tau_squared=False).item() == pytest.approx(expected, rel=1e-5)


def test_dkd_by_hand():
    student, teacher = torch.tensor([[0.2, 0.3, 0.5]]).log(), torch.tensor([[0.4, 0.1, 0.5]]).log()
    target = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.5)
    others = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    at_2 = dkd(student, teacher, torch.tensor([2]), alpha=3.0, beta=2.0, temperature=1.0)
    assert at_2.item() == pytest.approx(3 * target + 2 * others, rel=1e-5)
    target = 0.4 * math.log(0.4 / 0.2) + 0.6 * math.log(0.6 / 0.8)
    others = 1 / 6 * math.log(1 / 6 / (3 / 8)) + 5 / 6 * math.log(5 / 6 / (5 / 8))
    at_0 = dkd(student, teacher, torch.tensor([0]), alpha=3.0, beta=2.0, temperature=1.0)
    assert at_0.item() == pytest.approx(3 * target + 2 * others, rel=1e-5)


def test_dist_by_hand():
    student, teacher = (
        torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
        torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]),
    )

    def pearson(a, b):
        a, b = ([x - sum(v) / len(v) for x in v] for v in (a, b))
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-8)

    rows = [pearson(a, b) for a, b in zip(student.tolist(), teacher.tolist(), strict=True)]
    columns = [pearson(a, b) for a, b in zip(student.T.tolist(), teacher.T.tolist(), strict=True)]
    expected = 3 * (1 - sum(rows) / 2) + 5 * (1 - sum(columns) / 3)
    measured = dist(student.log(), teacher.log(), beta=3.0, gamma=5.0, temperature=1.0)
    assert measured.item() == pytest.approx(expected, rel=1e-5)


def test_standardize_by_hand():
    logits = torch.tensor([[1.0, 2.0, 6.0]])
    std = math.sqrt((2**2 + 1**2 + 3**2) / 2)
    assert standardize(logits)[0].tolist() == pytest.approx([-2 / std, -1 / std, 3 / std], rel=1e-6)


@pytest.mark.parametrize("loss", [*LOSSES, dkd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_the_textbooks(loss, dtype):
    textbook = {**LOSSES, dkd: reference.dkd}[loss]
    student, teacher, labels = draw(rows=16, classes=100, dtype=dtype)
    student.requires_grad_()
    exact_student = student.detach().double().requires_grad_()
    exact = textbook(exact_student, teacher.double(), labels)
    losses = loss(student, teacher, labels, reduction="none")
    tolerance = 5e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(losses.double(), exact, rtol=tolerance, atol=0)
    (gradient,), (exact_gradient,) = (
        torch.autograd.grad(x.sum(), s) for x, s in ((losses, student), (exact, exact_student))
    )
    error = (gradient.double() - exact_gradient).norm(dim=1) / exact_gradient.norm(dim=1)
    assert error.max() < tolerance


@pytest.mark.parametrize("classes", [5, 1000])
def test_dist_is_the_textbooks(classes):
    student, teacher, _ = draw(rows=16, classes=classes)
    student.requires_grad_()
    measured, exact = dist(student, teacher), reference.dist(student, teacher)
    torch.testing.assert_close(measured, exact, rtol=1e-10, atol=0)
    gradient, exact_gradient = (torch.autograd.grad(x, student)[0] for x in (measured, exact))
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("loss", [*LOSSES, dkd])
def test_nothing_to_learn_from_oneself(loss):
    student, _, labels = draw()
    student.requires_grad_()
    measured = loss(student, student.detach(), labels)
    measured.backward()
    assert measured.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_kd_is_torchs_kl_div():
    student, teacher, _ = draw()
    torchs = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean") * 16
    torch.testing.assert_close(kd(student, teacher), torchs)


def test_jensen_shannon_is_symmetric_and_bounded():
    student, teacher, _ = draw(rows=50)
    there = jensen_shannon(student, teacher, temperature=1.0, reduction="none")
    back = jensen_shannon(teacher, student, temperature=1.0, reduction="none")
    torch.testing.assert_close(there, back)
    assert (there <= math.log(2)).all()
    opposite = torch.tensor([[1000.0, 0.0]])
    assert jensen_shannon(opposite, -opposite, temperature=1.0).item() == pytest.approx(math.log(2), rel=1e-6)


def test_dkd_parts_sum_to_kd_by_their_weights():
    """KL(q || p) = KL(b_q || b_p) + (1 - q_y) KL(q̂ || p̂), for one row: the decoupling itself."""
    student, teacher, labels = draw(rows=1)
    rest = 1 - (teacher / 4).softmax(1)[0, labels].item()
    torch.testing.assert_close(dkd(student, teacher, labels, alpha=1.0, beta=rest), kd(student, teacher))


def test_dkd_stays_finite_for_a_student_that_is_sure():
    student = torch.tensor([[500.0, 0.0, 1.0]], requires_grad=True)
    loss = dkd(student, torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_dist_of_one_row_has_no_intra_class_term_to_learn_from():
    student, teacher, _ = draw(rows=1)
    student.requires_grad_()
    alone = dist(student, teacher, beta=0.0, gamma=1.0, temperature=1.0)
    assert alone.item() == 1
    assert not torch.autograd.grad(alone, student)[0].any()


def test_dist_leaves_ignored_rows_out_of_both_correlations():
    student, teacher, labels = draw()
    labels[[1, 4]] = -100
    kept = labels != -100
    torch.testing.assert_close(dist(student, teacher, labels), dist(student[kept], teacher[kept]))


def test_standardize_keeps_masked_classes_out():
    logits, _, _ = draw()
    masked = logits.clone()
    masked[:, [2, 5]] = -math.inf
    others = [0, 1, 3, 4, 6]
    result = standardize(masked)
    torch.testing.assert_close(result[:, others], standardize(logits[:, others]))
    assert (result[:, [2, 5]] == -math.inf).all()
    assert standardize(logits.half()).dtype == torch.float32


def test_standardize_of_equal_logits_is_zero_with_a_finite_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    result = standardize(logits)
    assert not result.any()
    assert torch.autograd.grad(result[0, 0], logits)[0].isfinite().all()
