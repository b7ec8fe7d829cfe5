"""`benchmarks/loader.py`: every thing is timed in every round, and lines are added to what is there."""

import csv
import importlib.util
import sys

import pytest
import torch

from places import ROOT

PATH = ROOT / "benchmarks" / "loader.py"
TINY = [
    "--student",
    "resnet8",
    "--image-size",
    "32",
    "--image",
    "40",
    "30",
    "--batch-size",
    "4",
    "--images",
    "8",
    "--workers",
    "0",
    "--amp",
    "off",
]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_loader", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_adds_a_line_for_each_thing_it_timed(benchmark, tmp_path, monkeypatch, capsys):
    out = tmp_path / "loader.csv"
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["loader.py", "--out", str(out), "--rounds", "2", *TINY])
        benchmark.main()
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["what"], line["workers"]) for line in lines] == [("loader", "0"), ("step", ""), ("both", "0")] * 2
    for line in lines:
        assert 0 < float(line["q1"]) <= float(line["images_per_second"]) <= float(line["q3"])
        assert (line["student"], line["image"], line["rounds"], line["cores"] != "") == (
            "resnet8",
            "40x30",
            "2",
            True,
        )
    assert "| both | 0 |" in capsys.readouterr().out
    out.write_text("what,workers\n")
    with pytest.raises(ValueError, match=r"loader\.csv: expected the columns what, workers, student, .*got what, work"):
        benchmark.main()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--images", "9"], "--images: expected a multiple of 4, at least 2 a batch, got 9"),
        (["--batch-size", "1"], "--images: expected a multiple of 1, at least 2 a batch, got 8"),
    ],
)
def test_what_cannot_be_timed_is_refused(benchmark, monkeypatch, capsys, change, says):
    monkeypatch.setattr(sys, "argv", ["loader.py", *TINY, *change])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert says in capsys.readouterr().err


def test_a_round_begins_with_another_thing_each_time(benchmark):
    order = []
    timed = {name: lambda number, name=name: order.append((name, number)) for name in "ab"}
    rates = benchmark.measure(timed, 8, 2, torch.device("cpu"))
    assert order == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert {name: len(each) for name, each in rates.items()} == {"a": 2, "b": 2}
