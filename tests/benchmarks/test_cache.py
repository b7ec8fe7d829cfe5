"""`benchmarks/cache.py`: each thing is timed in each round, its ratios are of one round, and a price is told."""

import argparse
import csv
import importlib.util
import sys

import pytest

from places import ROOT
from pldistill.studies import cifar

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setitem(cifar.PAIRS, "tiny", ("resnet8", "resnet8"))
    spec = importlib.util.spec_from_file_location("benchmark_cache", FOLDER / "cache.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_adds_a_line_for_each_thing_it_timed(benchmark, tmp_path, monkeypatch, capsys):
    small = ["--pair", "tiny", "--batch-size", "50", "--steps", "2", "--rounds", "1", "--methods", "kd", "--amp", "off"]
    monkeypatch.setattr(sys, "argv", ["cache.py", *small, "--out", str(tmp_path / "cache.csv")])
    benchmark.main()
    with (tmp_path / "cache.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    each = ["ce", "stored", "live"]
    assert [(line["part"], line["what"]) for line in lines] == [(p, w) for p in ("training", "epoch") for w in each]
    for line in lines:
        assert float(line["to_ce"]) > 0
        assert (line["to_live"] != "") == (line["what"] != "ce")
        assert (line["device"], line["steps"], line["views"]) == ("cpu", "2", "2")
    for training, epoch in zip(lines[:3], lines[3:], strict=True):
        assert float(epoch["seconds"]) > float(training["seconds"])
    shown = capsys.readouterr().out
    assert "| stored | kd | training | " in shown
    assert "| 30 | 100 | 314.1 | " in shown  # 30 x 50,000 and 10,000 records of 208 bytes
    assert "| 30 | 20 | 104.1 | " in shown


def test_ratios_are_of_the_same_round(benchmark):
    each = {"ce": [1.0, 10.0, 100.0], "stored kd": [2.0, 11.0, 110.0], "live kd": [4.0, 22.0, 220.0]}
    asked = argparse.Namespace(pair="p", amp="off", batch_size=1, steps=1, rounds=3, views=2)
    ce, stored, live = benchmark.lines({"training": each}, asked, {})
    assert (ce["to_ce"], ce["to_live"], ce["method"]) == (1, None, "ce")
    assert (stored["to_ce"], stored["to_live"]) == (1.1, 0.5)
    assert (live["to_ce"], live["to_live"], live["what"]) == (2.2, 1, "live")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--steps", "1", "--batch-size", "64"], "expected at least 100 images in an epoch, got 64"),
    ],
)
def test_what_cannot_be_timed_is_refused(benchmark, monkeypatch, capsys, change, says):
    monkeypatch.setattr(sys, "argv", ["cache.py", *change])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert says in capsys.readouterr().err
