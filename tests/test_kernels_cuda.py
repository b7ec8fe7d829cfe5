"""The CUDA kernel of PLD, read by Triton's interpreter on a CPU: the numeric table, masks, ties, options, layouts."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import reference
from numeric_cases import CASES
from pldistill import kernels
from pldistill.kernels import cuda
from pldistill.losses import pld

needs_triton = pytest.mark.skipif(not cuda.HAS_TRITON, reason="Triton is not installed here")


@dataclass(frozen=True)
class Question:
    student: Tensor
    teacher: Tensor
    labels: Tensor
    temperature: float = 1.0
    ignore_index: int = -100
    reduction: str = "none"

    def __iter__(self):
        return iter(vars(self).values())

    def plain(self) -> tuple[Tensor, Tensor]:
        """What the plain version says, which is who takes float64; rounded to float32."""
        student = self.student.double().requires_grad_()
        options = {"temperature": self.temperature, "ignore_index": self.ignore_index, "reduction": self.reduction}
        loss = pld(student, self.teacher.double(), self.labels, **options)
        return loss.detach().float(), torch.autograd.grad(loss.sum(), student)[0].float()


def drawn(rows: int, classes: int, scale: float = 3.0, **options) -> Question:
    generator = torch.Generator().manual_seed(classes)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator) for _ in range(2))
    return Question(student, teacher, torch.randint(classes, (rows,), generator=generator), **options)


def hard(case, classes: int, rows: int) -> Question:
    """The first rows of a case of the numeric table, of fewer classes."""
    student, teacher, labels = replace(case, classes=classes).tensors()
    return Question(student[:rows], teacher[:rows], labels[:rows], case.temperature)


def masked() -> Question:
    """Classes 1 and 4 masked in both nets, in all rows; class 2 in the teacher alone; -1e9 for a mask in the last."""
    asked = drawn(4, 9)
    asked.labels.copy_(torch.tensor([0, 3, 5, 8]))
    for z in (asked.student, asked.teacher):
        z[:3, [1, 4]] = -math.inf
        z[3, [1, 4]] = -1e9
    asked.teacher[1, 2] = -math.inf
    return asked


def impossible() -> Question:
    """A class of weight that the student masks: the label, the last of the ranking, one between; then all of them."""
    asked = drawn(5, 6)
    for row, place in ((0, 0), (1, 5), (3, 2)):
        ranking = reference.ranking_of(asked.teacher[row].tolist(), asked.labels[row].item())
        asked.student[row, ranking[place]] = -math.inf
    asked.student[4] = -math.inf
    return asked


def tied(dtype: torch.dtype) -> Question:
    """Four values, both zeros among them, over 15 classes."""
    asked = drawn(2, 15)
    values = torch.tensor([-1.5, -0.0, 0.0, 2.5])
    teacher = values[torch.randint(4, (2, 15), generator=torch.Generator().manual_seed(0))]
    return replace(asked, teacher=teacher.to(dtype))


def everywhere() -> Question:
    """Every class is the label of a row; the teacher's logits ascend."""
    asked = drawn(5, 5)
    return replace(asked, teacher=torch.arange(5.0).expand(5, 5), labels=torch.arange(5))


def sure() -> Question:
    """A student so sure of the whole ranking that loss and gradient are small differences, written naively."""
    asked = drawn(4, 6)
    for row in range(4):
        ranking = reference.ranking_of(asked.teacher[row].tolist(), asked.labels[row].item())
        asked.student[row, ranking] = -torch.arange(6.0) * (4 + 3 * row)
    return asked


def spoilt() -> Question:
    """NaN and infinity in a row each, and twice in rows that are left out; then a label that is no class."""
    asked = drawn(7, 5)
    asked.student[0, 2], asked.teacher[1, 3], asked.student[5, 1] = math.nan, math.inf, math.inf
    asked.student[2], asked.teacher[3] = math.nan, math.nan
    asked.labels[2] = asked.labels[3] = -100
    asked.labels[6] = 5
    return asked


def partly(reduction: str, ignore_index: int = -100) -> Question:
    asked = drawn(4, 13, reduction=reduction, ignore_index=ignore_index)
    asked.labels.copy_(torch.tensor([3, ignore_index, 12, 0]))
    return asked


def scattered() -> Question:
    """Rows apart from each other in the student, classes apart from each other in the teacher."""
    asked = drawn(3, 11)
    wide = torch.full((3, 17), math.nan)
    wide[:, 4:15] = asked.student
    return replace(asked, student=wide[:, 4:15], teacher=asked.teacher.T.contiguous().T, labels=asked.labels.int())


TABLE = {case.name: case for case in CASES if case.classes <= 100}
HALF = {
    f"{student}, {teacher}": Question(asked.student.to(student), asked.teacher.to(teacher), asked.labels, 2.0)
    for student, teacher in (
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
    )
    for asked in (drawn(1, 14),)
}
PLAIN = {
    "masked": masked(),
    "tied float32": tied(torch.float32),
    "tied bfloat16": tied(torch.bfloat16),
    "every label": everywhere(),
    "scattered": scattered(),
    "mean": partly("mean"),
    "sum": partly("sum", ignore_index=2),
    "one class": drawn(2, 1),
    "wide teacher": replace(drawn(2, 12), teacher=1e30 * drawn(2, 12).student),
    **HALF,
}
OTHERS = {
    "odd": drawn(1, 99),
    "full": drawn(1, 32),
    "bfloat16 mean": replace(HALF["torch.bfloat16, torch.bfloat16"], reduction="mean"),
    "impossible": impossible(),
    "sure": sure(),
    "spoilt": spoilt(),
    "nobody": replace(drawn(2, 3, reduction="mean"), labels=torch.tensor([-100, -100])),
    "no row, mean": drawn(0, 3, reduction="mean"),
    "no row": drawn(0, 3),
}
TABLE_ROWS = {name: hard(case, min(case.classes, 15), 2) for name, case in TABLE.items()}


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
    script = Path(__file__).with_name("interpreted_rows.py")
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
