"""Losses of tokens from hidden states: value and gradients are those of the plain path, in chunks of any size."""

import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill.losses import (
    TeacherHead,
    dist,
    fused_linear,
    kd,
    pld,
    pld_from_top_k,
    skd,
    teacher_top_k,
    tokens,
)

every_summed_loss = pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if loss.summed], ids=str)


def draw(vocabulary=7, teacher_vocabulary=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(6)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    student = [normal(3, 6, 4), normal(vocabulary, 4), normal(vocabulary)]
    theirs = teacher_vocabulary or vocabulary
    teacher = TeacherHead(normal(3, 6, 5), normal(theirs, 5), normal(theirs))
    labels = torch.randint(min(vocabulary, theirs), (3, 6), generator=generator)
    labels[torch.rand(3, 6, generator=generator) < 0.3] = -100
    return [each.requires_grad_() for each in student], teacher, labels


def logits(hidden, weight, bias):
    return hidden @ weight.T + (0 if bias is None else bias)


@every_summed_loss
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_value_and_gradients_are_the_plain_paths(loss, chunk):
    (hidden, weight, bias), teacher, labels = draw()
    expected = tokens(loss.function, logits(hidden, weight, bias), logits(*teacher), labels, **loss.options)
    found = fused_linear(loss.function, hidden, weight, teacher, labels, bias=bias, chunk=chunk, **loss.options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(2 * each, (hidden, weight, bias)) for each in (found, expected)]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12 * max(1.0, plain.abs().max().item()))


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("num_items", [None, 40])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_options_of_tokens(shift, num_items, with_bias):
    (hidden, weight, bias), teacher, labels = draw()
    bias, options = bias if with_bias else None, {"shift": shift, "num_items": num_items}
    expected = tokens(pld, logits(hidden, weight, bias), logits(*teacher), labels, temperature=2.0, **options)
    found = fused_linear(pld, hidden, weight, teacher, labels, bias=bias, chunk=5, temperature=2.0, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    inputs = (hidden, weight, bias)[: 2 + with_bias]
    for ours, plain in zip(*(torch.autograd.grad(each, inputs) for each in (found, expected)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_part_that_is_frozen_has_no_gradient(frozen):
    student, teacher, labels = draw()
    student[frozen].requires_grad_(False)
    hidden, weight, bias = student
    fused_linear(kd, hidden, weight, teacher, labels, bias=bias, chunk=4).backward()
    found = [each.grad for each in student]
    for each in student:
        each.grad = None
    tokens(kd, logits(*student), logits(*teacher), labels).backward()
    assert found[frozen] is None
    for ours, each in zip(found, student, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, each.grad, rtol=0, atol=1e-12)


def test_without_gradients_the_value_stays():
    (hidden, weight, bias), teacher, labels = draw()
    with torch.no_grad():
        found = fused_linear(kd, hidden, weight, teacher, labels, bias=bias, chunk=4)
        expected = tokens(kd, logits(hidden, weight, bias), logits(*teacher), labels)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_store_of_the_teachers_first_tokens():
    (hidden, weight, bias), teacher, labels = draw()
    compared = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    store = teacher_top_k(logits(*teacher), 3, compared, class_dim=-1)
    found = fused_linear(pld_from_top_k, hidden, weight, store, labels, bias=bias, chunk=4)
    expected = tokens(pld, logits(hidden, weight, bias), logits(*teacher), labels, top_k=3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for ours, plain in zip(*(torch.autograd.grad(each, (hidden, weight)) for each in (found, expected)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [(7, 9), (9, 7)])
def test_heads_of_two_sizes_are_cut_on_request_alone(ours, theirs):
    (hidden, weight, bias), teacher, labels = draw(ours, theirs)
    with pytest.raises(ValueError, match=f"teacher.weight has {theirs} tokens but weight {ours}: common_vocabulary"):
        fused_linear(kd, hidden, weight, teacher, labels, bias=bias)
    options = {"common_vocabulary": True}
    found = fused_linear(kd, hidden, weight, teacher, labels, bias=bias, chunk=4, **options)
    expected = tokens(kd, logits(hidden, weight, bias), logits(*teacher), labels, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, plain in zip(*(torch.autograd.grad(each, (weight, bias)) for each in (found, expected)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)


def test_nothing_valid_is_a_zero_with_a_graph():
    (hidden, weight, bias), teacher, labels = draw()
    found = fused_linear(pld, hidden, weight, teacher, torch.full_like(labels, -100), bias=bias)
    assert found.item() == 0
    assert all(not each.any() for each in torch.autograd.grad(found, (hidden, weight, bias)))


def test_half_precision_sums_the_head_in_float32():
    (hidden, weight, bias), teacher, labels = draw(dtype=torch.bfloat16)
    found = fused_linear(kd, hidden, weight, teacher, labels, bias=bias, chunk=2)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found, (hidden, weight, bias))
    assert all(each.dtype == torch.bfloat16 for each in gradients)
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight, bias)]
    expected = tokens(kd, logits(*exact), logits(*(each.double() for each in teacher)), labels)
    assert found.item() == pytest.approx(expected.item(), rel=0.02)
    for ours, plain in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        assert (ours.double() - plain).norm() < 0.02 * plain.norm()


def test_a_second_derivative_is_refused():
    (hidden, weight, bias), teacher, labels = draw()
    found = fused_linear(kd, hidden, weight, teacher, labels, bias=bias)
    (gradient,) = torch.autograd.grad(found, hidden, create_graph=True)
    with pytest.raises(NotImplementedError, match="fused_linear has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": dist}, "loss must not be dist, which relates all rows"),
        ({"loss": skd}, "loss must not be skd, which relates all rows"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"chunk": True}, "chunk must be an integer of at least 1, got True"),
        ({"hidden": torch.zeros(18, 4)}, r"hidden must have shape \(B, S, D\)"),
        ({"weight": torch.zeros(7, 5)}, r"weight must have shape \(V, D\) with D = 4 of hidden, got \(7, 5\)"),
        ({"weight": None}, "weight must be a torch.Tensor, got NoneType"),
        ({"bias": torch.zeros(6)}, r"bias must have shape \(7,\), got \(6,\)"),
        ({"teacher": torch.zeros(3, 6, 7)}, "teacher must be a TeacherHead or a TeacherTopK, got Tensor"),
        ({"teacher": TeacherHead(torch.zeros(3, 6, 5), torch.zeros(7, 4))}, r"teacher.weight must have shape \(V, D\)"),
        (
            {"teacher": TeacherHead(torch.zeros(3, 5, 5), torch.zeros(7, 5))},
            r"teacher.hidden must have the student's \(B, S\) \(3, 6\)",
        ),
        ({"labels": torch.zeros(3, 5, dtype=torch.long)}, r"labels must have shape \(3, 6\) \(B, S\), got \(3, 5\)"),
        ({"class_dim": 1}, "class_dim is not an option of tokens"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    (hidden, weight, bias), teacher, labels = draw()
    names = {"loss": kd, "hidden": hidden, "weight": weight, "teacher": teacher, "labels": labels, "bias": bias}
    with pytest.raises(ValueError, match=message):
        fused_linear(**{**names, **changes})
