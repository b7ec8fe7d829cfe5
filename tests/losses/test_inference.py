"""What a teacher, or anyone, made under `torch.inference_mode()` is as good as what was made under `no_grad`."""

import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill import losses

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(dtype, shape=(6, 5)):
    generator = torch.Generator().manual_seed(4)
    student = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(5, shape[:1] + shape[2:], generator=generator)
    labels[1] = -100
    return student, teacher, labels


def made_in_inference_mode(*tensors):
    with torch.inference_mode():
        copies = [tensor.detach().clone() for tensor in tensors]
    assert all(copy.is_inference() for copy in copies)
    return copies


def value_and_gradient(function, student, *constants):
    value = function(student, *constants)
    return value, torch.autograd.grad(value.sum(), student)[0]


def assert_alike(function, student, *constants):
    measured = value_and_gradient(function, student, *made_in_inference_mode(*constants))
    expected = value_and_gradient(function, student, *constants)
    assert expected[1].any()
    assert all(torch.equal(a, b) for a, b in zip(measured, expected, strict=True))


@every_loss
@every_dtype
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2)], ids=str)
def test_teachers_and_labels(loss, dtype, shape):
    assert_alike(loss, *draw(dtype, shape))
    assert_alike(loss.module(**loss.options), *draw(dtype, shape))


@every_loss
@every_dtype
def test_the_graph_may_be_gone_through_again(loss, dtype):
    student, teacher, labels = draw(dtype)
    value = loss(student, *made_in_inference_mode(teacher, labels))
    first, second = (torch.autograd.grad(value, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, value_and_gradient(loss, student, teacher, labels)[1])


@every_loss
def test_a_student_without_a_graph(loss):
    student, teacher, labels = draw(torch.float32)
    expected = loss(student, teacher, labels)
    inferred = made_in_inference_mode(student, teacher, labels)
    assert torch.equal(loss(*inferred), expected)
    with torch.inference_mode():
        assert torch.equal(loss(*inferred), expected)


@every_dtype
def test_rankings_and_weights(dtype):
    student, teacher, labels = draw(dtype)
    ranking = losses.teacher_optimal_ranking(teacher, labels)
    weights = torch.linspace(0, 1, 30).view(6, 5).to(dtype)
    for given in (weights, weights[2]):
        assert_alike(losses.plackett_luce, student, ranking, given)
        assert_alike(
            lambda s, t, y, w: losses.plackett_luce_kl(s, t, y, stage_weights=w), student, teacher, labels, given
        )
    with torch.inference_mode():
        assert torch.equal(losses.teacher_optimal_ranking(teacher, labels), ranking)
    inferred, y = made_in_inference_mode(teacher, labels.clamp(min=0))
    assert torch.equal(losses.pld_weights(inferred, y), losses.pld_weights(teacher, y))
    assert torch.equal(losses.standardize(inferred), losses.standardize(teacher))


@every_dtype
@pytest.mark.parametrize("name", ["attention_transfer", "hint", "pkt", "rkd", "sp"])
def test_features(name, dtype):
    shape = (6, 5) if name in ("pkt", "rkd") else (6, 5, 4, 4)
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    assert_alike(getattr(losses, name), student.requires_grad_(), teacher)


@every_dtype
def test_variational_information(dtype):
    generator = torch.Generator().manual_seed(6)
    mean, teacher = (torch.randn(3, 5, 2, 2, generator=generator).to(dtype) for _ in range(2))
    assert_alike(losses.vid, mean.requires_grad_(), teacher, torch.linspace(-1, 1, 5).to(dtype))
