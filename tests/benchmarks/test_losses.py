"""`benchmarks/losses.py`: lines beside the listing's, added to what is there; figures from the lines alone."""

import csv
import importlib.util
import sys

import pytest
import torch

import reference
from places import ROOT
from pldistill import losses

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("benchmark_losses", FOLDER / "losses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(benchmark, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["losses.py", *map(str, arguments)])
    benchmark.main()


def _tiny(benchmark, monkeypatch, out, *arguments):
    few = ["--dtypes", "float32", "--threads", "1", "--rounds", "2"]
    _run(benchmark, monkeypatch, "--out", out, *few, *arguments)


def _lines(out):
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_adds_a_line_for_each_loss(benchmark, tmp_path, monkeypatch, capsys):
    out = tmp_path / "losses.csv"
    _tiny(benchmark, monkeypatch, out, "--shapes", "6x10")
    _tiny(benchmark, monkeypatch, out, "--shapes", "6x10", "4x3", "--losses", "listing", "pld")
    lines = _lines(out)
    assert [line["what"] for line in lines] == ["floor", *benchmark.TIMED, *["floor", "listing", "pld"] * 2]
    assert {"ce", "eager kd", "pld", "pld, plain", "listing"} <= set(benchmark.TIMED)
    for line in lines:
        assert float(line["seconds"]) > 0
        assert float(line["to_listing"]) > 0
        assert (line["threads"], line["device"], line["bytes_per_logit"]) == ("1", "cpu", "")
    assert float(lines[1]["to_listing"]) == 1
    assert float(lines[0]["to_kd"]) > 0
    assert lines[-1]["to_kd"] == ""
    assert "/ listing" in capsys.readouterr().out


def test_the_listing_is_the_loss_it_is_timed_beside(benchmark):
    student, teacher, labels = benchmark.bench.Case(5, 12).draw()
    assert benchmark.TIMED["listing"] is reference.listing
    expected = losses.pld(student, teacher, labels)
    torch.testing.assert_close(benchmark.TIMED["listing"](student, teacher, labels), expected, rtol=1e-5, atol=0)


def test_scaling_is_timed_once_at_each_place(benchmark, tmp_path, monkeypatch):
    assert len(set(benchmark.SCALING)) == len(benchmark.SCALING) == 15
    monkeypatch.setattr(benchmark, "SCALING", ((2, 3), (2, 5), (4, 3)))
    out = tmp_path / "losses.csv"
    _tiny(benchmark, monkeypatch, out, "--shapes", "2x3", "--scaling", "--losses", "ce")
    shapes = [(line["rows"], line["classes"]) for line in _lines(out) if line["what"] == "ce"]
    assert shapes == [("2", "3"), ("2", "5"), ("4", "3")]


def test_figures_show_the_last_line_of_each_place(benchmark):
    place = {"what": "pld", "rows": "64", "classes": "1000"}
    lines = [
        {**place, "seconds": "1"},
        {**place, "seconds": "0.002"},
        {**place, "classes": "10", "seconds": "0.001"},
        {**place, "rows": "4", "seconds": "0.0005"},
        {**place, "rows": "16", "seconds": ""},
        {**place, "what": "floor", "seconds": "1"},
    ]
    figure = benchmark.draw(lines, "here")
    classes, rows = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in classes.lines}
    assert drawn["pld"] == [[10, 1], [1000, 2]]
    assert "floor" not in drawn
    assert [line.get_xydata().tolist() for line in rows.lines if line.get_label() == "pld"] == [[[4, 0.5], [64, 2]]]


def test_figures_are_drawn_from_the_lines_alone(benchmark, tmp_path, monkeypatch, capsys):
    out = tmp_path / "losses.csv"
    _tiny(benchmark, monkeypatch, out, "--shapes", "2x1000", "64x10", "--losses", "pld", "listing")
    before = out.read_bytes()
    monkeypatch.setattr(benchmark.bench, "compare", None)
    capsys.readouterr()
    _tiny(benchmark, monkeypatch, out, "--figure")
    svg, png = (tmp_path / f"losses-cpu-float32-1.{kind}" for kind in ("svg", "png"))
    assert capsys.readouterr().out.split() == [str(svg), str(png)]
    assert ">pld<" in svg.read_text()
    assert png.stat().st_size > 0
    assert out.read_bytes() == before
    with pytest.raises(ValueError, match="expected lines of cpu, bfloat16, 1 threads, got none"):
        _tiny(benchmark, monkeypatch, out, "--figure", "--dtypes", "bfloat16")


@pytest.mark.parametrize("name", ["rounds", "threads"])
def test_what_cannot_be_timed_is_refused(benchmark, monkeypatch, capsys, tmp_path, name):
    with pytest.raises(SystemExit):
        _tiny(benchmark, monkeypatch, tmp_path / "losses.csv", f"--{name}", "0")
    assert f"--{name}: expected at least 1, got 0" in capsys.readouterr().err
