"""Losses of tokens: shift, left-out positions, denominators, vocabularies of two sizes, what is refused."""

import math
from functools import partial

import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill.losses import TeacherTopK, dist, kd, pld, pld_from_top_k, rkd, teacher_top_k, tokens

every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
every_summed_loss = pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if loss.summed], ids=str)


def draw(batch=4, length=5, vocabulary=7, teacher_vocabulary=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    student = 2 * torch.randn(batch, length, vocabulary, generator=generator, dtype=dtype)
    teacher = 2 * torch.randn(batch, length, teacher_vocabulary or vocabulary, generator=generator, dtype=dtype)
    labels = torch.randint(vocabulary, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < 0.3] = -100
    return student.requires_grad_(), teacher, labels


@every_loss
@pytest.mark.parametrize("shift", [True, False])
def test_tokens_are_the_rows_of_valid_positions(loss, shift):
    student, teacher, labels = draw()
    pairs = [(b, i, i + shift) for b in range(4) for i in range(5 - shift) if labels[b, i + shift] != -100]
    rows = [torch.stack([z[b, i] for b, i, _ in pairs]) for z in (student, teacher)]
    expected = loss(*rows, torch.tensor([int(labels[b, j]) for b, _, j in pairs]))
    measured = tokens(loss.function, student, teacher, labels, shift=shift, **loss.options)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each, student)[0] for each in (measured, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


@every_summed_loss
@pytest.mark.parametrize("as_tensor", [True, False])
def test_four_micro_batches_are_one_batch(loss, as_tensor):
    student, teacher, labels = draw()
    labels[2, 1:] = -100  # a micro-batch without a valid position
    count = int((labels[:, 1:] != -100).sum())
    whole = tokens(loss.function, student, teacher, labels, **loss.options)
    parts = sum(
        tokens(
            loss.function,
            student[b : b + 1],
            teacher[b : b + 1],
            labels[b : b + 1],
            num_items=torch.tensor(count) if as_tensor else count,
            **loss.options,
        )
        for b in range(4)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each, student)[0] for each in (parts, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


@every_loss
def test_nothing_valid_is_a_zero_with_a_graph(loss):
    student, teacher, labels = draw()
    found = tokens(loss.function, student, teacher, torch.full_like(labels, -100), **loss.options)
    assert found.item() == 0
    assert torch.equal(torch.autograd.grad(found, student)[0], torch.zeros_like(student))


def test_what_stands_at_left_out_positions_is_not_seen():
    student, teacher, labels = draw()
    spoilt = [z.detach().clone() for z in (student, teacher)]
    for z in spoilt:
        z[:, :-1][labels[:, 1:] == -100] = math.nan
        z[:, -1] = math.inf
    assert tokens(pld, *spoilt, labels) == tokens(pld, student, teacher, labels)


def test_another_ignore_index():
    student, teacher, labels = draw()
    padded = labels.masked_fill(labels == -100, 0)
    expected = tokens(kd, student, teacher, padded.masked_fill(padded == 0, -100))
    assert tokens(kd, student, teacher, padded, ignore_index=0) == expected


def test_half_precision_is_computed_in_float32():
    student, teacher, labels = draw(dtype=torch.bfloat16)
    found = tokens(pld, student, teacher, labels)
    assert found.dtype == torch.float32
    expected = tokens(pld, student.double(), teacher.double(), labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [(7, 9), (9, 7)])
def test_vocabularies_are_cut_on_request_alone(ours, theirs):
    student, teacher, labels = draw(vocabulary=ours, teacher_vocabulary=theirs)
    labels = labels.clamp(max=6)
    with pytest.raises(ValueError, match=f"has {theirs} tokens but student_logits {ours}: common_vocabulary=True"):
        tokens(kd, student, teacher, labels)
    found = tokens(kd, student, teacher, labels, common_vocabulary=True)
    assert found == tokens(kd, student[..., :7], teacher[..., :7], labels)
    assert torch.autograd.grad(found, student)[0][..., 7:].abs().sum() == 0


def test_a_label_in_the_padding_of_a_vocabulary_is_refused():
    student, teacher, labels = draw(vocabulary=9, teacher_vocabulary=7)
    labels[0, 1] = 8
    with pytest.raises(IndexError, match=r"labels must be in 0..6"):
        tokens(kd, student, teacher, labels, common_vocabulary=True)


def test_dist_is_taken_over_the_call_and_refused_with_a_denominator():
    student, teacher, labels = draw()
    valid = labels[:, 1:] != -100
    expected = dist(student[:, :-1][valid], teacher[:, :-1][valid])
    torch.testing.assert_close(tokens(dist, student, teacher, labels), expected, rtol=1e-12, atol=0)
    for loss in (dist, partial(dist, beta=1.0)):
        with pytest.raises(ValueError, match="num_items must be None for dist, which correlates"):
            tokens(loss, student, teacher, labels, num_items=4)


@pytest.mark.parametrize("shift", [True, False])
def test_a_store_of_the_teachers_first_tokens(shift):
    student, teacher, labels = draw()
    compared = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if shift else labels
    store = teacher_top_k(teacher, 3, compared, class_dim=-1)
    found = tokens(pld_from_top_k, student, store, labels, shift=shift)
    expected = tokens(pld, student, teacher, labels, shift=shift, top_k=3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


STORE = TeacherTopK(torch.zeros(2, 5, 3, dtype=torch.long), torch.zeros(2, 5, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "pld"}, "loss must be a function of pldistill.losses, got 'pld'"),
        ({"loss": rkd}, "loss must be a function of .* with a reduction, got rkd"),
        ({"shift": 1}, "shift must be True or False, got 1"),
        ({"num_items": 0}, "num_items must be a finite number above 0, got 0"),
        ({"num_items": torch.tensor(-1)}, "num_items must be a finite number above 0"),
        ({"num_items": math.nan}, "num_items must be a finite number above 0, got nan"),
        ({"num_items": True}, "num_items must be a finite number above 0, got True"),
        ({"reduction": "mean"}, "reduction is not an option of tokens"),
        ({"class_dim": -1}, "class_dim is not an option of tokens"),
        ({"ignore_index": 0.5}, "ignore_index must be an integer"),
        ({"common_vocabulary": "yes"}, "common_vocabulary must be True or False"),
        ({"labels": torch.zeros(4, 4, dtype=torch.long)}, r"labels must have shape \(4, 5\) \(B, S\), got \(4, 4\)"),
        ({"labels": torch.zeros(4, 5)}, "labels must be token ids of an integer dtype"),
        ({"student_logits": torch.zeros(4, 7)}, r"student_logits must have shape \(B, S, V\)"),
        ({"teacher_logits": torch.zeros(4, 3, 7)}, r"teacher_logits must have the student's \(B, S\) \(4, 5\)"),
        (
            {"loss": pld_from_top_k},
            "teacher_logits must be a TeacherTopK for pld_from_top_k .* got Tensor for pld_from",
        ),
        (
            {"teacher_logits": STORE},
            "teacher_logits must be a TeacherTopK for pld_from_top_k .* got TeacherTopK for pld",
        ),
        ({"loss": pld_from_top_k, "teacher_logits": STORE}, r"teacher_logits.ids must have the student's \(B, S\)"),
        ({"teacher_logits": None}, "teacher_logits must be a torch.Tensor, got NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    student, teacher, labels = draw()
    given = {"loss": pld, "student_logits": student, "teacher_logits": teacher, "labels": labels, **changes}
    with pytest.raises(ValueError, match=message):
        tokens(given.pop("loss"), given.pop("student_logits"), given.pop("teacher_logits"), **given)
