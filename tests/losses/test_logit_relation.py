"""SKD's term: by hand in float64, entry by entry, degenerate batches, and a student like its teacher."""

import math

import pytest
import torch

from pldistill.losses import SKDLoss, skd


def draw(rows=5, classes=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype), teacher.to(dtype)


def cosines(logits):
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in logits.tolist()]
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]


def by_hand(student, teacher, ridge):
    """D and its covariance entry by entry; S⁻¹ by torch's general inverse."""
    rows, classes = student.shape
    ours, theirs = cosines(student), cosines(teacher)
    d = [[(ours[i][j] - theirs[i][j]) / classes for j in range(rows)] for i in range(rows)]
    means = [sum(d[n][j] for n in range(rows)) / rows for j in range(rows)]
    s = [
        [
            sum((d[n][i] - means[i]) * (d[n][j] - means[j]) for n in range(rows)) / (rows - 1) + ridge * (i == j)
            for j in range(rows)
        ]
        for i in range(rows)
    ]
    inverse = torch.tensor(s, dtype=torch.float64).inverse().tolist()
    squares = [sum(v[i] * inverse[i][j] * v[j] for i in range(rows) for j in range(rows)) for v in d]
    return sum(map(math.sqrt, squares)) / rows


@pytest.mark.parametrize("ridge", [0.1, 1e-3, 10.0])
def test_value_is_that_written_out_by_hand(ridge):
    student, teacher = draw()
    assert skd(student, teacher, ridge=ridge).item() == pytest.approx(by_hand(student, teacher, ridge), rel=1e-9)


def test_gradient_is_that_of_the_value():
    student, teacher = draw()
    assert torch.autograd.gradcheck(lambda s: skd(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_is_its_teacher_has_no_loss_and_a_finite_gradient(dtype):
    _, teacher = draw(dtype=dtype)
    student = teacher.clone().requires_grad_()
    value = skd(student, teacher)
    assert value == 0
    assert not torch.autograd.grad(value, student)[0].any()
    near = (teacher * (1 + 1e-6 * torch.arange(4, dtype=dtype))).requires_grad_()
    assert torch.autograd.grad(skd(near, teacher), near)[0].isfinite().all()


@pytest.mark.parametrize("scale", [1e-20, 1e4, 1e30])
def test_logits_of_any_length_are_directions(scale):
    student, teacher = draw(dtype=torch.float32)
    scaled = (scale * student).requires_grad_()
    value = skd(scaled, teacher)
    assert torch.autograd.grad(value, scaled)[0].isfinite().all()
    if scale > 1:
        torch.testing.assert_close(value, skd(student, teacher), rtol=1e-4, atol=0)


def test_one_row_and_rows_of_zeros():
    student, teacher = draw(rows=1)
    assert skd(student, teacher).item() == pytest.approx(0, abs=1e-12)  # its cosine with itself is 1 in both
    blank = torch.zeros(3, 4, requires_grad=True)
    value = skd(blank, draw(rows=3, dtype=torch.float32)[1])
    assert value > 0
    assert not torch.autograd.grad(value, blank)[0].any()


def test_left_out_rows_take_no_part_in_the_covariance():
    student, teacher = draw(rows=6)
    labels = torch.tensor([0, -100, 1, 2, -100, 3])
    kept = labels != -100
    torch.testing.assert_close(skd(student, teacher, labels), skd(student[kept], teacher[kept]))


@pytest.mark.parametrize("make", [lambda **options: skd(*draw(), **options), SKDLoss])
def test_other_reductions_and_ridges_are_refused(make):
    with pytest.raises(ValueError, match=r"^reduction must be 'mean' for skd, which couples the samples .* got 'sum'"):
        make(reduction="sum")
    for ridge in (0, -0.1, math.nan, math.inf, 1e7, True, "0.1"):
        with pytest.raises(ValueError, match=r"^ridge must be a number from 1e-06 to 1e\+06, got "):
            make(ridge=ridge)
