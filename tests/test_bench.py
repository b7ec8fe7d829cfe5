"""`pldistill.bench`: losses take turns, ratios are of one round, memory is what a call takes."""

import pickle
import re
import subprocess
import sys
from concurrent.futures import Future

import pytest
import torch

from pldistill import bench, kernels
from pldistill.__main__ import main
from pldistill.bench import FLOOR, KD, LISTING, LOSSES, Case, compare, gradient

TINY = Case(6, 10)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_line_for_every_loss(dtype):
    case = Case(6, 10, dtype)
    lines = compare(LOSSES, case, rounds=3)
    assert [line["what"] for line in lines] == [FLOOR, *LOSSES]
    for line in lines:
        assert 0 < line["seconds_q1"] <= line["seconds"] <= line["seconds_q3"]
        assert line["to_kd"] > 0
        assert line["to_floor"] > 0
        assert (line["to_listing"], line["bytes_per_logit"], line["note"]) == (None, None, "")
        assert (line["rows"], line["classes"], line["dtype"], line["device"]) == (6, 10, dtype, "cpu")
        assert (line["mode"], line["rounds"]) == ("eager", 3)
    assert lines[2]["what"] == KD
    assert lines[2]["to_kd"] == lines[2]["to_kd_q3"] == 1


def test_what_is_timed_is_a_loss_and_its_gradient():
    logits = TINY.draw()
    for loss in LOSSES.values():
        found = gradient(loss, logits)
        assert found.shape == (6, 10)
        assert found.abs().sum() > 0
        assert loss(*logits).shape == ()


def test_the_plain_way_of_pld_is_gone_without_a_kernel(monkeypatch):
    def no_kernel(*arguments):
        raise AssertionError("a kernel was asked")

    logits = TINY.draw()
    expected = gradient(LOSSES["pld"], logits)
    monkeypatch.setattr(kernels.cpu, "pld", no_kernel)
    torch.testing.assert_close(gradient(LOSSES["pld, plain"], logits), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="a kernel was asked"):
        LOSSES["pld"](*logits)


def test_eager_kd_is_its_definition():
    student, teacher, labels = TINY.draw()
    p, q = ((logits / 4).double().softmax(1) for logits in (student, teacher))
    chosen = student.double().softmax(1)[torch.arange(6), labels].log()
    expected = 16 * (q * (q / p).log()).sum(1).mean() - chosen.mean()
    torch.testing.assert_close(bench.eager_kd(student, teacher, labels).double(), expected, rtol=1e-5, atol=0)


def test_turns_change_and_ratios_are_of_one_round(monkeypatch):
    """A clock that slows from round to round, of which each loss takes its own multiple."""
    taken = []
    price = {FLOOR: 1.0, KD: 2.0, LISTING: 20.0, "pld": 3.0}

    def clock(work):
        name = work()
        taken.append(name)
        return price[name] * 10.0 ** ((len(taken) - 1) // len(price))

    works = {name: lambda name=name: name for name in price}
    monkeypatch.setattr(bench, "_on_host", clock)
    monkeypatch.setattr(bench, "_prepare", lambda *ignored: (works, {}))
    lines = compare({name: LOSSES["ce"] for name in price if name != FLOOR}, TINY, rounds=5)
    turns = [tuple(taken[at : at + 4]) for at in range(0, 20, 4)]
    assert all(sorted(turn) == sorted(price) for turn in turns)
    assert len(set(turns)) > 2
    for line in lines:
        for ratio, other in (("to_kd", KD), ("to_listing", LISTING), ("to_floor", FLOOR)):
            quartiles = [line[ratio + end] for end in ("_q1", "", "_q3")]
            assert quartiles == pytest.approx([price[line["what"]] / price[other]] * 3)
        assert line["seconds"] == price[line["what"]] * 100


PRODUCT = """
from pldistill import bench

def product(student, teacher, labels):
    return (student * teacher).sum()

print(bench.peak_here(product, bench.Case(36, 2**18), 1))  # 36 MiB a tensor
"""


def test_memory_is_what_a_call_takes():
    """The product takes as much as the logits once, and is gone when its gradient is made.

    In a process of its own, as the benchmark measures: another may have freed as much before.
    """
    done = subprocess.run([sys.executable, "-c", PRODUCT], capture_output=True, text=True, timeout=600, check=True)
    assert float(done.stdout) == pytest.approx(4, abs=0.3)


def test_memory_is_measured_of_large_shapes_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "extra_memory", lambda loss, case: asked.append(loss) or 4.0)
    monkeypatch.setattr(bench, "FEWEST_FOR_MEMORY", 60)
    floor, line = compare({"pld": LOSSES["pld"]}, TINY, rounds=1, memory=True)
    assert (floor["bytes_per_logit"], line["bytes_per_logit"], asked) == (None, 4.0, [LOSSES["pld"]])
    monkeypatch.setattr(bench, "FEWEST_FOR_MEMORY", 61)
    assert compare({"pld": LOSSES["pld"]}, TINY, rounds=1, memory=True)[1]["bytes_per_logit"] is None


class Fresh:
    """Stands for a pool of one process that takes what pickle carries; a real one takes seconds to start."""

    def __init__(self, workers, context):
        assert (workers, context.get_start_method()) == (1, "spawn")

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        pass

    def submit(self, *call):
        function, *arguments = pickle.loads(pickle.dumps(call))
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_measured_in_a_fresh_process(monkeypatch, name):
    monkeypatch.setattr(bench, "ProcessPoolExecutor", Fresh)
    given = []
    monkeypatch.setattr(bench, "gradient", lambda loss, logits: given.append(logits[0].shape))
    assert bench.extra_memory(LOSSES[name], TINY) >= 0
    assert given == [(2, 64), (6, 10)]


def test_a_loss_for_which_there_is_no_memory_is_left_without_a_time():
    def greedy(student, teacher, labels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    _, greedy_line, ce_line = compare({"greedy": greedy, "ce": bench.ce}, TINY, rounds=2)
    assert (greedy_line["seconds"], greedy_line["to_floor"], greedy_line["note"]) == (None, None, "out of memory")
    assert ce_line["seconds"] > 0


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with bench.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_verb_prints_a_table_a_shape(capsys):
    code, out, _ = run(capsys, "bench", "losses", "--shape", "6x10", "4x3", "--rounds", "2", "--dtype", "bfloat16")
    assert code == 0
    assert "6 x 10, bfloat16" in out
    assert "4 x 3, bfloat16" in out
    assert "/ eager kd" in out
    assert "/ listing" not in out
    for name in (FLOOR, *LOSSES):
        assert len(re.findall(rf"^{re.escape(name)} +\d", out, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "6"], "shape: expected ROWSxCLASSES, as 256x1000, got '6'"),
        (["--shape", "6x1"], "shape: expected at least 1 x 2 logits, got 6 x 1"),
        (["--shape", "0x5"], "shape: expected at least 1 x 2 logits, got 0 x 5"),
        (["--dtype", "float23"], "unknown dtype 'float23'; did you mean float32"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--rounds", "0"], "rounds: expected a whole number from 1, got '0'"),
        (["--threads", "x"], "threads: expected a whole number from 1, got 'x'"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(capsys, arguments, message):
    code, out, err = run(capsys, "bench", "losses", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: expected one that torch finds here, got 'cuda'"):
        Case(6, 10, device="cuda")


def test_graphs_off_cuda_are_refused():
    with pytest.raises(ValueError, match="graph: expected the device 'cuda', got 'cpu'"):
        compare(LOSSES, TINY, rounds=1, graph=True)


def test_memory_without_a_high_water_mark_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_STATUS", tmp_path / "none")
    with pytest.raises(ValueError, match="memory: expected a system that has"):
        compare(LOSSES, TINY, rounds=1, memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("graph", [False, True])
def test_on_cuda(graph):
    def waiting(student, teacher, labels):
        return bench.ce(student, teacher, labels) * (1 + 0 * teacher.sum().item())

    lines = compare({**LOSSES, "waiting": waiting}, Case(2048, 1000, device="cuda"), rounds=3, graph=graph, memory=True)
    found = {line["what"]: line for line in lines}
    assert found["waiting"]["note"] == "waits for the device"
    assert (found["waiting"]["seconds"] is None) == graph
    assert all(found[name]["seconds"] > 0 and found[name]["note"] == "" for name in (FLOOR, KD, "pld", "pld, plain"))
    assert 4 <= found["pld"]["bytes_per_logit"] < found[KD]["bytes_per_logit"]
