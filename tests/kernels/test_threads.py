"""PLD's rows shared by threads: the same bits by any number of them, in any mode, and in a process that was forked."""

import math
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pldistill.kernels import cpu, cpu_threads, cpu_workspace
from pldistill.losses import pld

SHAPES = ((100, 1000), (5, 21841), (1, 70_000), (3, 40_000))

needs_openmp = pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch counts no thread apart")


@contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(rows, classes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + classes)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def found(student, teacher, labels, reduction="mean"):
    """The bits of loss and gradient; a NaN is like another one."""
    loss = pld(student, teacher, labels, reduction=reduction)
    gradient = torch.autograd.grad(loss.sum(), student)[0]
    return [z.detach().nan_to_num(nan=-1e30) for z in (loss, gradient)]


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_bits_are_the_same_by_any_number_of_threads(shape, dtype, reduction):
    logits = draw(*shape, dtype)
    with torch_threads(1), patch.object(cpu_threads._Threads, "pool_of", side_effect=AssertionError):
        expected = found(*logits, reduction)
    for count in (2, 3):
        with torch_threads(count):
            assert_equal(found(*logits, reduction), expected)


def test_rows_that_the_kernel_cannot_do_are_found_by_every_thread():
    student, teacher, labels = draw(100, 1000)
    with torch.no_grad():
        student[::7, 3] = -math.inf
        student[5] *= 100
        student[60, 4] = math.nan
    teacher[::11] = -math.inf
    teacher[90, 2] = math.nan
    labels[::13] = -100
    with torch_threads(1):
        expected = found(student, teacher, labels, "none")
    with torch_threads(2):
        assert_equal(found(student, teacher, labels, "none"), expected)


@needs_openmp
def test_a_call_of_few_logits_has_no_threads():
    with torch_threads(2), patch.object(cpu_threads._Threads, "pool_of", side_effect=AssertionError) as pool_of:
        found(*draw(128, 100))
        with pytest.raises(AssertionError):
            found(*draw(33, 1000))
    assert pool_of.call_count == 1


@needs_openmp
def test_torch_has_one_thread_there_and_as_many_as_before_elsewhere():
    numbers = []
    with torch_threads(3), patch.object(cpu_threads, "_threads", cpu_threads._Threads()):
        cpu_threads.share(lambda _: numbers.append(torch.get_num_threads()), range(20), 2)
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    assert numbers == [1] * 20


@pytest.mark.parametrize("count", [1, 2])
def test_each_chunk_is_taken_once(count):
    taken = []
    cpu_threads.share(taken.append, range(100), count)
    assert sorted(taken) == list(range(100))


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_ends_the_work_and_is_raised(count):
    taken = []

    def work(chunk):
        taken.append(chunk)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cpu_threads.share(work, range(100), count)
    assert len(taken) <= count
    cpu_threads.share(taken.append, [-1], count)
    assert taken[-1] == -1


@pytest.mark.parametrize("count", [1, 2])
def test_modes_of_the_caller_change_no_bit(count, monkeypatch):
    student, teacher, labels = draw(100, 1000)
    with torch_threads(count):
        expected = found(student, teacher, labels)
        # Memory that is made in one mode is written in another.
        monkeypatch.setattr(cpu_workspace, "_kept", cpu_workspace._Workspaces())
        with torch.inference_mode():
            assert torch.equal(pld(student, teacher, labels), expected[0])
        assert_equal(found(student, teacher, labels), expected)
        with torch.no_grad():
            assert torch.equal(pld(student, teacher, labels), expected[0])
        with torch.inference_mode():
            held = teacher.clone()
        assert_equal(found(student, held, labels), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert_equal(found(student, teacher, labels), expected)


def test_the_default_dtype_changes_no_bit(monkeypatch):
    logits = draw(100, 1000)
    expected = found(*logits)
    monkeypatch.setattr(cpu_workspace, "_kept", cpu_workspace._Workspaces())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        loss = pld(*logits)
        assert loss.dtype == torch.float32
        assert_equal(found(*logits), expected)
    finally:
        torch.set_default_dtype(before)


def test_callers_may_be_many():
    shapes = ((100, 1000), (200, 500), (40, 3000), (150, 700))
    cases = [draw(*shape) for shape in shapes] * 5
    with torch_threads(2):
        expected = [found(*case) for case in cases]
        with ThreadPoolExecutor(4) as callers:
            for one, other in zip(callers.map(lambda case: found(*case), cases), expected, strict=True):
                assert_equal(one, other)


def by_kernel(student, teacher, labels):
    def plain(*_):
        raise AssertionError("no row is hard")

    return cpu.pld(student.detach(), teacher, labels, 1.0, -100, "mean", plain)


def compute_in_child(logits, expected):
    with torch_threads(2):
        loss, gradient = by_kernel(*logits)
    # By NumPy: torch's own threads do not outlive a fork.
    same = [np.array_equal(one.numpy(), other.numpy()) for one, other in zip((loss, gradient), expected, strict=True)]
    os._exit(0 if same == [True, True] else 1)


@needs_openmp
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    logits = draw(100, 1000)
    with torch_threads(2):
        expected = by_kernel(*logits)
        assert cpu_threads._threads.pool is not None
    child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(logits, expected))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0


@needs_openmp
def test_the_threads_let_the_process_end():
    code = """
import torch
from pldistill.kernels import cpu, cpu_threads
torch.set_num_threads(2)
cpu.pld(torch.zeros(100, 1000), torch.zeros(100, 1000), torch.zeros(100, dtype=torch.long), 1.0, -100, "mean", None)
assert cpu_threads._threads.pool is not None
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_no_thread_is_left_behind_by_a_call():
    logits = draw(100, 1000)
    with torch_threads(2):
        found(*logits)
        before = threading.active_count()
        for _ in range(5):
            found(*logits)
    assert threading.active_count() == before
