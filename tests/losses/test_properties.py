"""What holds for every loss: shapes, reductions, left-out rows, symmetries, extreme and half-precision inputs."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses_list import ALL_LOSSES

every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
every_blind_loss = pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if loss.blind], ids=str)
every_summed_loss = pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if loss.summed], ids=str)


def draw(rows=8, classes=6, dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (
        (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(2)
    )
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def gradient_of(loss, student):
    return torch.autograd.grad(loss, student)[0]


@every_blind_loss
def test_blind_to_a_constant_added(loss):
    student, teacher, labels = draw()
    shifts = torch.linspace(-50, 50, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(student + shifts, teacher - 3 * shifts, labels), loss(student, teacher, labels))


@pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if not loss.blind], ids=str)
def test_the_others_see_a_constant_added(loss):
    student, teacher, labels = draw()
    shifts = torch.linspace(-50, 50, 8, dtype=torch.float64)[:, None]
    assert not torch.isclose(loss(student + shifts, teacher, labels), loss(student, teacher, labels), rtol=1e-3)


@every_blind_loss
def test_gradient_rows_sum_to_zero(loss):
    student, teacher, labels = draw()
    gradient = gradient_of(loss(student, teacher, labels), student)
    assert gradient.abs().max() > 1e-4
    assert gradient.sum(1).abs().max() < 1e-13 * max(1, gradient.abs().max())


@every_loss
def test_renaming_the_classes_renames_the_gradient(loss):
    student, teacher, labels = draw()
    new = torch.tensor([3, 0, 5, 1, 4, 2])  # new[i] is the old name of class i
    measured, renamed = loss(student, teacher, labels), loss(student[:, new], teacher[:, new], new.argsort()[labels])
    torch.testing.assert_close(renamed, measured)
    torch.testing.assert_close(gradient_of(renamed, student), gradient_of(measured, student))


@every_loss
def test_order_of_samples_does_not_matter(loss):
    student, teacher, labels = draw()
    torch.testing.assert_close(loss(student.flip(0), teacher.flip(0), labels.flip(0)), loss(student, teacher, labels))


@every_loss
def test_the_teacher_is_a_constant(loss):
    student, teacher, labels = draw()
    teacher.requires_grad_()
    loss(student, teacher, labels).backward()
    assert student.grad is not None
    assert teacher.grad is None


@every_summed_loss
def test_reductions(loss):
    student, teacher, labels = draw()
    each = loss(student, teacher, labels, reduction="none")
    assert each.shape == (8,)
    one = loss(student[3:4], teacher[3:4], labels[3:4])
    torch.testing.assert_close(each[3], one)
    torch.testing.assert_close(loss(student, teacher, labels, reduction="sum"), each.sum())
    torch.testing.assert_close(loss(student, teacher, labels), each.mean())
    assert (each >= 0).all()


@every_loss
@pytest.mark.parametrize("positions", [(3,), (2, 3), (1, 2, 2)])
def test_positions_are_rows(loss, positions):
    rows = 4 * math.prod(positions)
    student, teacher, labels = draw(rows=rows)
    shaped = [z.view(4, *positions, 6).movedim(-1, 1) for z in (student, teacher)]
    labels = labels.masked_fill(torch.arange(rows) % 5 == 0, -100)
    expected, measured = loss(student, teacher, labels), loss(*shaped, labels.view(4, *positions))
    torch.testing.assert_close(measured, expected)
    torch.testing.assert_close(gradient_of(measured, student), gradient_of(expected, student))
    if loss.summed:
        each = loss(*shaped, labels.view(4, *positions), reduction="none")
        assert each.shape == (4, *positions)
        torch.testing.assert_close(each.flatten(), loss(student, teacher, labels, reduction="none"))


@every_loss
@pytest.mark.parametrize("ignore_index", [-100, 255, 2])
def test_left_out_rows_do_not_count(loss, ignore_index):
    student, teacher, labels = draw()
    labels = labels.masked_fill(labels == ignore_index, 0)
    out = torch.tensor([False, True, False, False, True, False, False, True])
    measured = loss(student, teacher, labels.masked_fill(out, ignore_index), ignore_index=ignore_index)
    expected = loss(student[~out], teacher[~out], labels[~out])
    torch.testing.assert_close(measured, expected)
    torch.testing.assert_close(gradient_of(measured, student), gradient_of(expected, student))


@every_loss
def test_nothing_leaks_from_left_out_rows(loss):
    student, teacher, labels = draw()
    labels[[1, 4]] = -100
    expected = loss(student, teacher, labels)
    broken, broken_teacher = student.detach().clone(), teacher.clone()
    broken[1], broken_teacher[4] = math.nan, math.nan
    broken[4, 0] = math.inf
    broken.requires_grad_()
    measured = loss(broken, broken_teacher, labels)
    torch.testing.assert_close(measured, expected)
    gradient = gradient_of(measured, broken)
    assert not gradient[[1, 4]].any()
    torch.testing.assert_close(gradient, gradient_of(expected, student))


@every_loss
@pytest.mark.parametrize("rows", [0, 3])
def test_empty_and_all_left_out_batches_are_as_cross_entropys(loss, rows):
    student, teacher, _ = draw(rows=rows, dtype=torch.float32)
    labels = torch.full((rows,), -100)
    for reduction in ("mean", "sum", "none") if loss.summed else ("mean",):
        expected = F.cross_entropy(student, labels, reduction=reduction)
        measured = loss(student, teacher, labels, reduction=reduction)
        torch.testing.assert_close(measured, expected, equal_nan=True)
        gradient, expected_gradient = (gradient_of(x.sum(), student) for x in (measured, expected))
        assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if not loss.needs_labels], ids=str)
def test_without_labels_every_row_counts(loss):
    student, teacher, labels = draw()
    torch.testing.assert_close(loss(student, teacher, None), loss(student, teacher, labels))
    assert loss(student[:0], teacher[:0], None).isnan()


@every_loss
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_have_finite_gradients(loss, scale):
    student, teacher, labels = draw(rows=16, dtype=torch.float32, scale=scale)
    for teacher_logits in (teacher, teacher / scale):
        measured = loss(student, teacher_logits, labels)
        assert measured.isfinite()
        assert gradient_of(measured, student).isfinite().all()


@every_loss
def test_classes_masked_in_both_nets_do_not_exist(loss):
    student, teacher, labels = draw()
    others = [0, 1, 3, 4]
    labels = torch.tensor(others)[labels % 4]
    masked, masked_teacher = student.detach().clone(), teacher.clone()
    masked[:, [2, 5]], masked_teacher[:, [2, 5]] = -math.inf, -math.inf
    masked.requires_grad_()
    restricted = torch.tensor([0, 1, -1, 2, 3, -1])[labels]
    measured, expected = loss(masked, masked_teacher, labels), loss(student[:, others], teacher[:, others], restricted)
    torch.testing.assert_close(measured, expected)
    gradient = gradient_of(measured, masked)
    assert (gradient[:, [2, 5]] == 0).all()
    torch.testing.assert_close(gradient[:, others], gradient_of(expected, student)[:, others])


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    student, teacher, labels = draw(dtype=dtype)
    wide = student.detach().float().requires_grad_()
    measured, expected = loss(student, teacher, labels), loss(wide, teacher.float(), labels)
    assert measured.dtype == torch.float32
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=0)
    assert torch.equal(gradient_of(measured, student), gradient_of(expected, wide).to(dtype))


@every_loss
def test_autocast_changes_nothing(loss):
    student, teacher, labels = draw(dtype=torch.float32)
    expected = loss(student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        measured = loss(student, teacher, labels)
    assert measured.dtype == torch.float32
    assert torch.equal(measured, expected)
    assert torch.equal(gradient_of(measured, student), gradient_of(expected, student))


@every_loss
def test_float64_stays(loss):
    student, teacher, labels = draw()
    assert loss(student, teacher, labels).dtype == torch.float64
    assert loss(student.float(), teacher, labels).dtype == torch.float64


@every_loss
def test_noncontiguous_tensors(loss):
    student, teacher, labels = draw()
    apart = [torch.stack([x, x], -1)[..., 0] for x in (student, teacher, labels)]
    torch.testing.assert_close(loss(*apart), loss(student, teacher, labels))
