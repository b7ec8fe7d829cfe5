"""`benchmarks/step.py`: each thing is timed in each round, takes the steps it says, and its ratios are of one round."""

import argparse
import csv
import importlib.util
import sys

import pytest
import torch

from places import ROOT
from pldistill.studies import cifar

FOLDER = ROOT / "benchmarks"
WHAT = ["plain", "bare", "student", "loop", "stored"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setitem(cifar.PAIRS, "tiny", ("resnet8", "resnet8"))
    spec = importlib.util.spec_from_file_location("benchmark_step", FOLDER / "step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(benchmark, monkeypatch, out, *arguments):
    small = ["--pair", "tiny", "--batch-size", "50", "--steps", "2", "--rounds", "2", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["step.py", *small, "--out", str(out), *arguments])
    benchmark.main()


def test_it_adds_a_line_for_each_thing_it_timed(benchmark, tmp_path, monkeypatch, capsys):
    out = tmp_path / "step.csv"
    _run(benchmark, monkeypatch, out)
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["what"] for line in lines] == WHAT
    assert [line["floor"] for line in lines] == ["", "", "", "bare", "student"]
    assert [line["workers"] for line in lines] == ["0", "", "", "", ""]
    for line in lines:
        assert 0 < float(line["images_per_second_q1"]) <= float(line["images_per_second"])
        assert float(line["to_plain"]) > 0
        assert (line["to_floor"] != "") == (line["what"] in ("loop", "stored"))
        assert (line["steps"], line["batch_size"], line["device"]) == ("2", "50", "cpu")
    assert float(lines[0]["to_plain"]) == 1
    assert "| loop | " in capsys.readouterr().out


def test_ratios_are_of_the_same_round(benchmark):
    rates = {"plain": [1.0, 10.0, 100.0], "bare": [4.0, 20.0, 100.0], "loop": [2.0, 20.0, 200.0]}
    asked = argparse.Namespace(pair="p", method="pld", amp="off", batch_size=1, steps=1, rounds=3, workers=0)
    plain, bare, loop = benchmark.lines(rates, asked, {})
    assert (loop["to_plain"], loop["to_plain_q1"], loop["to_plain_q3"]) == (2, 2, 2)
    assert (loop["to_floor"], loop["to_floor_q1"], loop["to_floor_q3"]) == (1, 0.75, 1.5)
    assert (plain["to_floor"], bare["to_floor"], bare["to_plain"]) == (None, None, 2)


def _small(**changed):
    given = {"pair": "tiny", "method": "pld", "amp": "bf16", "batch_size": 34, "steps": 3, "rounds": 1, "workers": 0}
    return argparse.Namespace(**{**given, "device": "cpu", **changed})


def _weights(work):
    return [weight.detach().clone() for weight in work.student.parameters()]


def test_each_thing_does_what_its_name_says(benchmark, tmp_path):
    works = benchmark.works(*benchmark.make_loops(_small(), tmp_path), 0)
    plain, bare = works["plain"], works["bare"]
    assert (plain.teacher.training, plain.student.training, bare.student.training) == (False, True, True)
    assert all(weight.is_contiguous() and weight.dtype == torch.float32 for weight in plain.student.parameters())
    ours, theirs = _weights(bare), _weights(plain)
    assert min(work(0) for work in works.values()) > 0
    assert {int(state["step"]) for state in plain.optimizer.state.values()} == {3}  # a step a batch
    assert not any(map(torch.equal, theirs, _weights(plain)))
    assert all(map(torch.equal, ours, _weights(bare)))
    assert len(bare.batches) == 3
    assert (bare.teacher is None, works["student"].teacher is None) == (False, True)


def test_the_plain_loop_has_the_loss_of_ours(benchmark, tmp_path):
    """The same models and images, in float32."""
    asked = _small(method="kd", amp="off", batch_size=100, steps=1)
    loops, data = benchmark.make_loops(asked, tmp_path)
    loop, works = loops["loop"], benchmark.works(loops, data, 0)
    works["loop"](0)  # one step, so its loss is of the first weights
    (batch,) = loop.loader.epoch(loop.epoch)
    model = works["bare"].student
    images = (batch.images.float() / 255 - model.mean) / model.std
    expected = sum(term["weighted"] for term in loop.tally.terms().values())
    assert works["plain"].step(images, batch.labels) == pytest.approx(expected, rel=1e-4)


def test_a_group_has_a_image_of_each_class(benchmark, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit):
        _run(benchmark, monkeypatch, tmp_path / "step.csv", "--steps", "1")
    assert "--steps: expected at least 100 images in a group, got 50" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rounds", "steps", "batch-size", "workers"])
def test_what_cannot_be_timed_is_refused(benchmark, monkeypatch, capsys, tmp_path, name):
    with pytest.raises(SystemExit):
        _run(benchmark, monkeypatch, tmp_path / "step.csv", f"--{name}", "-1")
    assert f"--{name}: expected at least" in capsys.readouterr().err
