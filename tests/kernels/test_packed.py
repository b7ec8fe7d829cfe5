"""The packed way of PLD: the plain way's numbers for every input, whatever the chunks, and how it is chosen."""

import math
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch

import reference
from pldistill import kernels
from pldistill.kernels import cpu, cpu_sort, cpu_workspace
from pldistill.losses import pld, teacher_optimal_ranking

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(rows=7, classes=40, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(rows + classes)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def both_ways(student, teacher, labels, **options):
    """Loss and gradient by the kernel, and by the plain way."""
    found = []
    for way in (patch.object(cpu, "pld", wraps=cpu.pld), kernels.switched_off()):
        with way as kernel:
            loss = pld(student, teacher, labels, **options)
        assert kernel is None or kernel.called
        found.append((loss, *torch.autograd.grad(loss.sum(), student)))
    return found


def assert_same(student, teacher, labels, **options):
    (loss, gradient), (expected, expected_gradient) = both_ways(student, teacher, labels, **options)
    assert (loss.dtype, gradient.dtype) == (expected.dtype, expected_gradient.dtype)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-12, equal_nan=True)
    loose = 1e-6 if student.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient, expected_gradient, rtol=loose, atol=3e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_dtype_and_reduction(dtype, reduction, temperature):
    student, teacher, labels = draw(dtype=dtype)
    labels[2] = -100
    assert_same(student, teacher, labels, reduction=reduction, temperature=temperature)


@pytest.mark.parametrize("labels_dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_dtype(labels_dtype):
    student, teacher, labels = draw()
    assert_same(student, teacher, labels.to(labels_dtype), ignore_index=3)


@pytest.mark.parametrize("chunk", [1, 40, 90, 10_000])
def test_chunks_change_nothing(chunk):
    student, teacher, labels = draw()
    whole = pld(student, teacher, labels, reduction="none")
    with patch.multiple(cpu, _CHUNK=chunk, _PARALLEL=0):
        chunked = pld(student, teacher, labels, reduction="none")
    assert torch.equal(chunked, whole)
    gradients = (torch.autograd.grad(losses.square().sum(), student)[0] for losses in (whole, chunked))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_classes(classes):
    assert_same(*draw(classes=classes), reduction="none")


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lower_class(dtype):
    student, _, labels = draw(rows=5, classes=300)
    teacher = torch.randint(-2, 3, (5, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
    teacher[:, ::7] = -0.0
    teacher[4] = 1.0
    labels[3] = 299
    exact, exact_gradient = reference.pld(student.detach(), teacher, labels)
    losses = pld(student, teacher, labels, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-7)


def test_neighboring_floats_are_no_ties():
    student, _, _ = draw(rows=2, classes=64)
    one = torch.tensor(1.0).view(torch.int32)
    up = (one + torch.arange(64, dtype=torch.int32)).view(torch.float32)
    assert_same(student, torch.stack([up, -up]), torch.tensor([5, 9]), reduction="none")


def test_every_half_logit_has_its_place():
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        teacher = every[every.isfinite()][None]
        classes = teacher.shape[1]
        workspace = cpu_workspace.workspace_for(1, classes)
        cpu_sort.rank(workspace, teacher, np.array([7]), np.zeros(1, dtype=bool))
        expected = teacher_optimal_ranking(teacher, torch.tensor([7])).flip(1)
        assert torch.equal(torch.from_numpy(workspace.bits), expected)
        assert torch.equal(workspace.t, teacher.float().gather(1, expected))


@pytest.mark.parametrize("classes", [2**16, 2**16 + 1])
def test_half_logits_of_many_classes(classes):
    student, teacher, labels = draw(rows=2, classes=classes)
    assert_same(student, teacher.bfloat16(), labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("teacher_value", [-math.inf, -3e38, -1e9])
@pytest.mark.parametrize("student_value", [-math.inf, -1e9, 0.0, 30.0])
def test_masked_classes(student_value, teacher_value, dtype):
    student, teacher, labels = draw()
    with torch.no_grad():
        student[:4, ::3] = student_value
    teacher[1:6, ::3] = teacher_value
    assert_same(student, teacher.to(dtype), labels, reduction="none")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row(bad, dtype):
    student, teacher, labels = draw()
    teacher = teacher.to(dtype)
    labels[6] = -100
    teacher[5] = -math.inf
    with torch.no_grad():
        student[[1, 6], 3] = bad
    teacher[[2, 6], 4] = bad
    teacher[3, labels[3]] = bad
    assert_same(student, teacher, labels, reduction="none")


@pytest.mark.parametrize("gap", [30.0, 65.0, 75.0, 100.0, 300.0, 1e4])
def test_any_range_of_the_student(gap):
    student, teacher, labels = draw()
    with torch.no_grad():
        student[0, labels[0]] += gap
        student[1, teacher[1].argmin()] -= gap
        student[2] = torch.linspace(-gap, 0, 40)
        student[3, teacher[3].argmax()] -= gap
    assert_same(student, teacher, labels, reduction="none")


def test_nothing_of_one_call_reaches_the_next():
    student, teacher, labels = draw()
    teacher[0, 3] = -math.inf
    expected = pld(student, teacher, labels)
    (gradient,) = torch.autograd.grad(expected, student)
    pld(torch.full((1, 40), math.nan), torch.zeros(1, 40), torch.tensor([0]))
    with torch.no_grad():
        broken = student.index_fill(1, torch.tensor(3), -math.inf)
    pld(broken, teacher.index_fill(1, torch.tensor(3), -math.inf), labels)
    measured = pld(student, teacher, labels)
    assert torch.equal(measured, expected)
    assert torch.equal(torch.autograd.grad(measured, student)[0], gradient)


def test_rows_that_are_not_together():
    student, teacher, labels = draw(rows=12, classes=10)
    apart = [z.detach().view(2, 6, 10).movedim(-1, 1).requires_grad_(i == 0) for i, z in enumerate((student, teacher))]
    assert_same(*apart, labels.view(2, 6), reduction="none")
    wide = torch.stack([student.detach(), teacher], -1)
    assert_same(wide[..., 0].requires_grad_(), wide[..., 1], labels)


def test_goes_backward_again_and_by_any_factor():
    student, teacher, labels = draw()
    loss = pld(student, teacher, labels)
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(3)]
    assert torch.equal(gradients[0], gradients[1])
    gradients[0].zero_()
    assert torch.equal(gradients[1], gradients[2])
    (thrice,) = torch.autograd.grad(3 * loss, student)
    torch.testing.assert_close(thrice, 3 * gradients[1])


def test_what_comes_from_above_has_its_own_derivative():
    student, teacher, labels = draw()
    factor = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(factor * pld(student, teacher, labels), student, create_graph=True)
    (plain,) = torch.autograd.grad(pld(student, teacher, labels), student)
    torch.testing.assert_close(torch.autograd.grad(gradient[0, 0], factor, retain_graph=True)[0], plain[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivative_is_the_plain_way_s(dtype, reduction):
    student, teacher, labels = draw(dtype=dtype)
    labels[2] = -100
    found = []
    for way in (patch.object(cpu, "pld", wraps=cpu.pld), kernels.switched_off()):
        with way as kernel:
            loss = pld(student, teacher, labels, temperature=2.0, reduction=reduction)
        assert kernel is None or kernel.called
        (gradient,) = torch.autograd.grad(loss.square().sum(), student, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), student)[0])
    assert found[1].any()
    loose = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}[dtype]
    assert (found[0] - found[1]).norm() <= loose * found[1].norm()


def test_the_second_derivative_costs_nothing_until_it_is_asked_for():
    student, teacher, labels = draw()
    with patch("pldistill.losses.ranking._by_teacher") as places, patch("pldistill.losses.ranking._shares") as shares:
        pld(student, teacher, labels).backward()
    assert not places.called
    assert not shares.called


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_transforms_go_the_plain_way():
    student, teacher, labels = draw()
    start = student.detach()

    def function(s):
        return pld(s, teacher, labels)

    expected = function(student)
    (gradient,) = torch.autograd.grad(expected, student)
    with patch.object(cpu, "pld") as kernel:
        torch.testing.assert_close(torch.func.grad(function)(start), gradient)
        torch.testing.assert_close(torch.func.vmap(function)(torch.stack([start, start])), expected.expand(2))
        value, along = torch.func.jvp(function, (start,), (start,))
    assert not kernel.called
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(along, (gradient * start).sum())


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_graph_calls_the_kernel(reduction, dtype):
    torch.compiler.reset()
    student, teacher, labels = draw(dtype=dtype)
    expected = pld(student, teacher, labels, reduction=reduction)
    with warnings.catch_warnings(), patch.object(cpu, "pld", wraps=cpu.pld) as kernel:
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compiled = torch.compile(lambda *z: pld(*z, reduction=reduction), backend="aot_eager", fullgraph=True)
        measured = compiled(student, teacher, labels)
        assert kernel.called
    assert torch.equal(measured, expected)
    gradients = (torch.autograd.grad(loss.sum(), student)[0] for loss in (measured, expected))
    assert torch.equal(*gradients)


def test_the_operator_is_what_torch_asks_of_one():
    student, teacher, labels = draw()
    for reduction in ("mean", "none"):
        arguments = (student, teacher, labels, 2.0, -100, reduction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.library.opcheck(torch.ops.pldistill.pld.default, arguments)


def test_nothing_of_the_users_is_touched():
    student, teacher, labels = draw()
    before = [z.detach().clone() for z in (student, teacher, labels)]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    pld(student, teacher, labels).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, (student, teacher, labels), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_float64_goes_the_plain_way():
    student, teacher, _ = draw(dtype=torch.float64)
    assert kernels.kernel_for(student, teacher) is None
    assert kernels.kernel_for(student.float(), teacher) is None
    assert kernels.kernel_for(student.float(), teacher.float()) is cpu.pld
    with kernels.switched_off():
        assert kernels.kernel_for(student.float(), teacher.float()) is None
