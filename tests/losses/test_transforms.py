"""`torch.func` over every loss: the numbers are those of one call after another, and of plain autograd."""

from functools import partial

import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from losses_list import ALL_LOSSES
from pldistill import losses

# torch's forward mode scripts its own rules on first use, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
RANKING = [loss for loss in ALL_LOSSES if loss.function.__module__.endswith(("ranking", "stagewise"))]
# In float32 a second derivative is a small rest of larger terms, and each CPU sums these in its own order.
CANCELED = 5e-6
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def draw(batch=3, rows=4, classes=5, dtype=torch.float64):
    """A batch of batches; one label in each is left out."""
    generator = torch.Generator().manual_seed(11)
    students, teachers = (torch.randn(batch, rows, classes, generator=generator, dtype=dtype) for _ in range(2))
    labels = torch.randint(classes, (batch, rows), generator=generator)
    labels[:, 1] = -100
    return students, teachers, labels


def value_and_gradient(loss, student, *constants):
    student = student.clone().requires_grad_()
    value = loss(student, *constants)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


def one_by_one(function, *tensors):
    return torch.stack([function(*each) for each in zip(*tensors, strict=True)])


def close(measured, expected, atol=1e-6):
    measured = measured.to(expected.dtype)  # torch itself gives some tangents of `dist`, 0-dimensional ones, in float64
    tight = {"rtol": 1e-10, "atol": 1e-13} if expected.dtype == torch.float64 else {"rtol": 1e-5, "atol": atol}
    torch.testing.assert_close(measured, expected, **tight)


@every_loss
@every_dtype
def test_grad_vjp_and_jacrev(loss, dtype):
    (student, *_), (teacher, *_), (labels, *_) = draw(dtype=dtype)
    expected, gradient = value_and_gradient(loss, student, teacher, labels)
    slope, value = func.grad_and_value(loss)(student, teacher, labels)
    close(value, expected)
    close(slope, gradient)
    value, pull = func.vjp(lambda s: loss(s, teacher, labels), student)
    close(value, expected)
    close(pull(torch.tensor(3.0, dtype=dtype))[0], 3 * gradient)
    close(func.jacrev(loss)(student, teacher, labels), gradient)


@every_loss
@every_dtype
def test_vmap(loss, dtype):
    tensors = draw(dtype=dtype)
    close(func.vmap(loss)(*tensors), one_by_one(loss, *tensors))
    students, teachers, labels = tensors
    once = [value_and_gradient(loss, s, teachers[0], labels[0])[0] for s in students]
    close(func.vmap(loss, in_dims=(0, None, None))(students, teachers[0], labels[0]), torch.stack(once))
    moved = func.vmap(loss, in_dims=(2, 1, 1))(students.movedim(0, 2), teachers.movedim(0, 1), labels.T)
    close(moved, one_by_one(loss, *tensors))
    if loss.summed:
        each = func.vmap(lambda s, t, y: loss(s, t, y, reduction="none"))(*tensors)
        close(each, one_by_one(lambda s, t, y: loss(s, t, y, reduction="none"), *tensors))


@every_loss
@every_dtype
def test_vmap_of_grad_gives_gradients_by_sample(loss, dtype):
    tensors = draw(dtype=dtype)
    expected = one_by_one(lambda *each: value_and_gradient(loss, *each)[1], *tensors)
    assert expected.abs().amax((1, 2)).min() > 1e-3
    close(func.vmap(func.grad(loss))(*tensors), expected)


@every_loss
def test_vmap_of_vmap(loss):
    tensors = [x.unflatten(0, (2, 2)) for x in draw(batch=4)]
    expected = one_by_one(loss, *(x.flatten(0, 1) for x in tensors)).view(2, 2)
    close(func.vmap(func.vmap(loss))(*tensors), expected)


@every_loss
def test_gradients_through_vmap(loss):
    students, teachers, labels = draw()
    expected = one_by_one(lambda *each: value_and_gradient(loss, *each)[1], students, teachers, labels)
    students.requires_grad_()
    close(torch.autograd.grad(func.vmap(loss)(students, teachers, labels).sum(), students)[0], expected)


@every_loss
def test_jvp_and_jacfwd(loss):
    (student, *_), (teacher, *_), (labels, *_) = draw()
    expected, gradient = value_and_gradient(loss, student, teacher, labels)
    tangent = torch.linspace(-1, 2, 20, dtype=torch.float64).view(4, 5)
    value, along = func.jvp(lambda s: loss(s, teacher, labels), (student,), (tangent,))
    close(value, expected)
    close(along, (gradient * tangent).sum())
    close(func.jacfwd(loss)(student, teacher, labels), gradient)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(student, tangent), teacher, labels)
        close(forward_ad.unpack_dual(dual).tangent, (gradient * tangent).sum())


@every_loss
@every_dtype
def test_hessians_by_every_order_of_modes(loss, dtype):
    (student, *_), (teacher, *_), (labels, *_) = draw(rows=3, dtype=dtype)
    expected = torch.autograd.functional.hessian(lambda s: loss(s, teacher, labels), student)
    assert expected.abs().max() > 1e-4
    for outer, inner in ((func.jacrev, func.jacrev), (func.jacrev, func.jacfwd), (func.jacfwd, func.jacrev)):
        close(outer(inner(loss))(student, teacher, labels), expected, CANCELED)
    vectorized = torch.autograd.functional.hessian(lambda s: loss(s, teacher, labels), student, vectorize=True)
    close(vectorized, expected, CANCELED)


@every_loss
def test_forward_over_forward_mode_is_right_or_refused_in_words(loss):
    (student, *_), (teacher, *_), (labels, *_) = draw(rows=3)
    v = torch.linspace(-1, 2, 15, dtype=torch.float64).view(3, 5)
    nested = func.jacfwd(func.jacfwd(loss))
    twice = partial(func.jvp, lambda s: func.jvp(lambda z: loss(z, teacher, labels), (s,), (v,))[1], (student,), (v,))
    if loss in RANKING:
        for call in (lambda: nested(student, teacher, labels), twice):
            with pytest.raises(NotImplementedError, match=r"no forward mode over forward mode: .* jacrev for one"):
                call()
    else:
        expected = torch.autograd.functional.hessian(lambda s: loss(s, teacher, labels), student)
        close(nested(student, teacher, labels), expected)
        close(twice()[1], (v * (expected * v).sum((2, 3))).sum())


@every_loss
def test_hessian_vector_products(loss):
    students, teachers, labels = draw(rows=3)
    v = torch.linspace(-1, 2, 15, dtype=torch.float64).view(3, 5)

    def product(s, t, y):
        return func.jvp(func.grad(lambda z: loss(z, t, y)), (s,), (v,))[1]

    def by_autograd(s, t, y):
        return torch.autograd.functional.hvp(lambda z: loss(z, t, y), s, v)[1]

    expected = one_by_one(by_autograd, students, teachers, labels)
    close(product(students[0], teachers[0], labels[0]), expected[0])
    close(func.vmap(product)(students, teachers, labels), expected)


@every_loss
def test_batched_backward(loss):
    (student, *_), (teacher, *_), (labels, *_) = draw(dtype=torch.float32)
    student.requires_grad_()
    value = loss(student, teacher, labels)
    _, gradient = value_and_gradient(loss, student.detach(), teacher, labels)
    factors = torch.tensor([1.0, -2.0, 0.5])
    (found,) = torch.autograd.grad(value, student, factors, is_grads_batched=True)
    close(found, factors[:, None, None] * gradient)


@every_loss
def test_teachers_are_constants_in_every_mode(loss):
    (student, *_), (teacher, *_), (labels, *_) = draw()
    assert not func.grad(lambda t: loss(student, t, labels))(teacher).any()
    assert not func.jvp(lambda t: loss(student, t, labels), (teacher,), (torch.ones_like(teacher),))[1].any()
    assert not func.jacfwd(lambda t: loss(student, t, labels))(teacher).any()


@every_loss
def test_a_single_row_under_vmap_is_refused_in_words(loss):
    (student, *_), (teacher, *_), (labels, *_) = draw()
    with pytest.raises(ValueError, match=r"student_logits must have shape \(N, C\) .* got \(5,\)"):
        func.vmap(loss)(student, teacher, labels)


@every_loss
def test_empty_and_left_out(loss):
    students, teachers, labels = draw()
    labels[1] = -100
    close_nan = func.vmap(loss)(students, teachers, labels).isnan()
    assert close_nan.tolist() == [False, True, False]
    gradients = func.vmap(func.grad(loss))(students, teachers, labels)
    assert not gradients[1].any()
    assert gradients[0].any()
    none = func.vmap(loss)(students[:, :0], teachers[:, :0], labels[:, :0])
    assert none.shape == (3,)
    assert none.isnan().all()


def test_rankings_and_weights_under_vmap():
    students, teachers, labels = draw()
    rankings = one_by_one(losses.teacher_optimal_ranking, teachers, labels)
    assert torch.equal(func.vmap(losses.teacher_optimal_ranking)(teachers, labels), rankings)
    known = labels.clamp(min=0)
    close(func.vmap(losses.pld_weights)(teachers, known), one_by_one(losses.pld_weights, teachers, known))
    close(func.vmap(losses.standardize)(teachers), one_by_one(losses.standardize, teachers))
    weights = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = one_by_one(losses.plackett_luce, students, rankings, weights)
    close(func.vmap(losses.plackett_luce)(students, rankings, weights), expected)
    slopes = one_by_one(lambda *each: value_and_gradient(losses.plackett_luce, *each)[1], students, rankings, weights)
    close(func.vmap(func.grad(losses.plackett_luce))(students, rankings, weights), slopes)

    def by_stages(s, t, y, w):
        return losses.plackett_luce_kl(s, t, y, stage_weights=w)

    tensors = (students, teachers, labels, weights)
    close(func.vmap(by_stages)(*tensors), one_by_one(by_stages, *tensors))


@pytest.mark.parametrize("name", ["attention_transfer", "hint", "pkt", "rkd", "sp"])
def test_features(name):
    loss, generator = getattr(losses, name), torch.Generator().manual_seed(5)
    shape = (3, 4, 5) if name in ("pkt", "rkd") else (3, 4, 5, 2, 2)
    students, teachers = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    close(func.vmap(loss)(students, teachers), one_by_one(loss, students, teachers))
    gradients = one_by_one(lambda *each: value_and_gradient(loss, *each)[1], students, teachers)
    close(func.vmap(func.grad(loss))(students, teachers), gradients)
    tangent = torch.ones_like(students[0]).cumsum(0)
    along = func.jvp(lambda s: loss(s, teachers[0]), (students[0],), (tangent,))[1]
    close(along, (gradients[0] * tangent).sum())
    assert not func.jvp(lambda t: loss(students[0], t), (teachers[0],), (tangent,))[1].any()


def test_variational_information():
    generator = torch.Generator().manual_seed(6)
    means, teachers = (torch.randn(3, 2, 5, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    scales = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    close(func.vmap(losses.vid)(means, teachers, scales), one_by_one(losses.vid, means, teachers, scales))
    expected = one_by_one(lambda *each: value_and_gradient(losses.vid, *each)[1], means, teachers, scales)
    close(func.vmap(func.grad(losses.vid))(means, teachers, scales), expected)
