"""PLD on a CUDA device: the kernel beside the plain version, the same bits on every run, no wait, in a CUDA graph."""

import pytest
import torch
from torch import Tensor

from numeric_cases import CASES
from pldistill.kernels import cuda, kernel_for
from pldistill.losses import pld

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.skipif(not cuda.HAS_TRITON, reason="Triton is not installed here"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(rows: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (rows,), generator=generator)
    return student.to("cuda", dtype).requires_grad_(), teacher.to("cuda", dtype), labels.cuda()


def loss_and_gradient(student: Tensor, teacher: Tensor, labels: Tensor, **options) -> tuple[Tensor, Tensor]:
    loss = pld(student, teacher, labels, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), student)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_numeric_table(case):
    def on_device(student: Tensor, teacher: Tensor, labels: Tensor, **options) -> Tensor:
        return pld(student.cuda(), teacher.cuda(), labels.cuda(), **options).cpu()

    loss_error, gradient_error = case.errors(on_device)
    assert loss_error <= case.loss_bound
    assert gradient_error <= case.gradient_bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 100, 513, 1000, 1024, 1025])
def test_says_what_the_plain_version_says(classes, dtype):
    student, teacher, labels = drawn(37, classes, dtype)
    labels[3] = -100
    assert (kernel_for(student, teacher) is cuda.pld) == (classes <= cuda.MOST_CLASSES)
    loss, gradient = loss_and_gradient(student, teacher, labels, temperature=2.0)
    wide = student.detach().double().requires_grad_()
    expected, expected_gradient = loss_and_gradient(wide, teacher.double(), labels, temperature=2.0)
    torch.testing.assert_close(loss, expected.float(), rtol=2e-6, atol=1e-7)
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lower_class_and_every_run_gives_the_same_bits(dtype):
    student, teacher, labels = drawn(64, 1000, dtype)
    teacher = teacher.round()
    first = loss_and_gradient(student, teacher, labels, reduction="none")
    for _ in range(5):
        again = loss_and_gradient(student, teacher, labels, reduction="none")
        assert all(map(torch.equal, again, first))
    wide = student.detach().double().requires_grad_()
    expected, expected_gradient = loss_and_gradient(wide, teacher.double(), labels, reduction="none")
    torch.testing.assert_close(first[0], expected.float(), rtol=2e-6, atol=0)
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(first[1], expected_gradient.to(dtype), rtol=rounding, atol=3e-7)


@pytest.mark.parametrize("classes", [1000, 2000])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_waits_for_the_device(classes, reduction):
    student, teacher, labels = drawn(8, classes)
    loss_and_gradient(student, teacher, labels, reduction=reduction)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradient(student, teacher, labels, reduction=reduction)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("classes", [100, 1000, 2000])
def test_a_cuda_graph_replays_it(classes):
    student, teacher, labels = drawn(16, classes)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            loss_and_gradient(student, teacher, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = loss_and_gradient(student, teacher, labels)
    with torch.no_grad():
        student.copy_(student.flip(0))
        teacher.copy_(teacher.flip(1))
        labels[2] = -100
    graph.replay()
    expected, expected_gradient = loss_and_gradient(student, teacher, labels)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


def test_rows_apart_and_more_than_one_stream():
    student, teacher, labels = drawn(9, 101)
    apart = torch.full((9, 300), torch.nan, device="cuda")
    apart[:, 50:151] = student.detach()
    view = apart[:, 50:151].requires_grad_()
    expected = loss_and_gradient(student, teacher, labels)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        measured = loss_and_gradient(view, teacher.T.contiguous().T, labels.int())
    torch.cuda.current_stream().wait_stream(side)
    assert all(map(torch.equal, measured, expected))


def test_a_label_that_is_no_class_shows():
    student, teacher, labels = drawn(4, 10)
    labels[1] = 10
    losses, gradient = loss_and_gradient(student, teacher, labels, reduction="none")
    assert losses.isnan().tolist() == [False, True, False, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]
