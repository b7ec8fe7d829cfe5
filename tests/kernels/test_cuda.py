"""The CUDA kernel of PLD, read by Triton's interpreter on a CPU: the numeric table, masks, ties, options, layouts."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import reference
from kernel_questions import OTHERS, PLAIN, TABLE, TABLE_ROWS, Question
from places import SUPPORT
from pldistill import kernels
from pldistill.kernels import cuda

needs_triton = pytest.mark.skipif(not cuda.HAS_TRITON, reason="Triton is not installed here")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """All questions, answered by one process."""
    folder = tmp_path_factory.mktemp("interpreted")
    rows = {name: tuple(asked) for name, asked in {**TABLE_ROWS, **PLAIN, **OTHERS}.items()}
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(3, 3, 64, generator=generator)
    numbers[:, 0] = (30 * torch.randn(3, 64, generator=generator)).sort(0, descending=True).values
    numbers[1:, 0, :8] = torch.finfo(torch.float32).min
    numbers[:2, 0, 8:16] = numbers[:1, 0, 8:16]
    torch.save({"rows": rows, "brackets": numbers}, folder / "questions")
    script = SUPPORT / "interpreted_rows.py"
    command = [sys.executable, "-W", "ignore", str(script), str(folder / "questions"), str(folder / "answers")]
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert told.returncode == 0, told.stderr
    return torch.load(folder / "answers")


def errors(answer: tuple[Tensor, Tensor], asked: Question) -> tuple[float, float]:
    """The worst row's relative errors of loss and gradient against float64, as in the numeric table."""
    exact, exact_gradient = reference.pld(asked.student, asked.teacher, asked.labels, asked.temperature)
    losses, gradient = answer
    loss_error = ((losses.double() - exact).abs() / exact.abs()).max()
    gradient_error = ((gradient.double() - exact_gradient).norm(dim=1) / exact_gradient.norm(dim=1)).max()
    return loss_error.item(), gradient_error.item()


@needs_triton
@pytest.mark.parametrize("name", TABLE)
def test_the_numeric_table(answers, name):
    loss_error, gradient_error = errors(answers["rows"][name], TABLE_ROWS[name])
    assert loss_error <= TABLE[name].loss_bound
    assert gradient_error <= TABLE[name].gradient_bound


@needs_triton
@pytest.mark.parametrize("name", ["odd", "full", "sure"])
def test_exact_against_float64(answers, name):
    loss_error, gradient_error = errors(answers["rows"][name], OTHERS[name])
    assert loss_error <= 1e-6
    assert gradient_error <= 1e-6


@needs_triton
@pytest.mark.parametrize("name", PLAIN)
def test_says_what_the_plain_version_says(answers, name):
    loss, gradient = answers["rows"][name]
    expected, expected_gradient = PLAIN[name].plain()
    assert loss.dtype == gradient.dtype == torch.float32
    assert gradient.is_contiguous()
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=3e-7)


@needs_triton
def test_bfloat16_gradient_is_the_float32_one_rounded(answers):
    _, gradient = answers["rows"]["bfloat16 mean"]
    assert gradient.dtype == torch.bfloat16
    _, expected = OTHERS["bfloat16 mean"].plain()
    torch.testing.assert_close(gradient.float(), expected, rtol=2**-7, atol=1e-7)  # the interpreter cuts off


@needs_triton
def test_masked_classes_have_no_gradient(answers):
    _, gradient = answers["rows"]["masked"]
    assert (gradient[:, [1, 4]] == 0).all()
    assert gradient[1, 2] > 0  # masked by the teacher alone: the student still thinks of it


@needs_triton
def test_impossible_class_with_weight_costs_infinity_in_its_row_alone(answers):
    losses, gradient = answers["rows"]["impossible"]
    assert losses.isinf().tolist() == [True, True, False, True, True]
    assert (losses > 0).all()
    torch.testing.assert_close(gradient, OTHERS["impossible"].plain()[1], rtol=1e-5, atol=3e-7)
    torch.testing.assert_close(gradient[4], -OTHERS["impossible"].teacher[4].softmax(0))


@needs_triton
def test_a_bad_row_stays_alone(answers):
    losses, gradient = answers["rows"]["spoilt"]
    assert losses.isfinite().tolist() == [False, False, True, True, True, False, False]
    assert losses[2:4].tolist() == [0, 0]
    assert (gradient[2:4] == 0).all()
    assert gradient[4].isfinite().all()
    assert losses[6].isnan()
    assert gradient[6].isnan().all()


@needs_triton
def test_nobody_counts(answers):
    for name in ("nobody", "no row, mean"):
        loss, gradient = answers["rows"][name]
        assert loss.isnan()
        assert (gradient == 0).all()
    losses, gradient = answers["rows"]["no row"]
    assert losses.shape == (0,)
    assert gradient.shape == (0, 3)


@needs_triton
def test_runs_of_places_may_be_joined_in_any_order(answers):
    """A device joins them as a tree, the interpreter one by one: the sums must not depend on it."""
    left, right = answers["brackets"]
    torch.testing.assert_close(left, right, rtol=1e-6, atol=0)


def test_nothing_looks_at_values(monkeypatch):
    """A host synchronisation would need a value, which meta tensors do not have; nor has the launch."""
    launched = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *given, **options: launched.append((grid, given, options))

    monkeypatch.setitem(sys.modules, "pldistill.kernels._row_kernel", SimpleNamespace(pld_row=Recorder()))
    student, labels = torch.ones(6, 1000, device="meta"), torch.ones(6, dtype=torch.long, device="meta")
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (6,))):
        loss, gradient = cuda.pld(student, student.bfloat16(), labels, 4.0, -100, reduction)
        assert (loss.shape, gradient.shape, gradient.dtype) == (shape, (6, 1000), torch.float32)
    grid, given, options = launched[-1]
    assert grid == (6,)
    assert given[6:] == (1000, 1000, 1000, -100, 4.0)
    assert options["BLOCK"] == 1024


@pytest.mark.parametrize(("classes", "block"), [(1, 16), (16, 16), (17, 32), (1000, 1024), (1024, 1024)])
def test_a_block_holds_a_row(classes, block):
    assert cuda.launch_shape(classes)[0] == block


def test_who_is_for_whom():
    def on_device(classes: int, dtype: torch.dtype) -> object:
        return SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(2, classes))

    def kernel(classes: int, student: torch.dtype, teacher: torch.dtype) -> object:
        return kernels.kernel_for(on_device(classes, student), on_device(classes, teacher))

    expected = cuda.pld if cuda.HAS_TRITON else None
    assert kernel(1024, torch.float32, torch.bfloat16) is expected
    assert kernel(1025, torch.float32, torch.float32) is None
    assert kernel(10, torch.float64, torch.float32) is None
    assert kernel(10, torch.float32, torch.float64) is None
