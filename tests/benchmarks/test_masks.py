"""`benchmarks/masks.py`: a teacher and students on a folder of images with masks, and their table."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from places import ROOT
from pldistill.studies import segmentation_demo

PATH = ROOT / "benchmarks" / "masks.py"


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_masks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SEEDS", 1)
    rows = {name: segmentation_demo.STUDENTS[name] for name in ("CE", "CE + PLD")}
    monkeypatch.setattr(segmentation_demo, "STUDENTS", rows)
    fields = {"batch_size": 4, "warmup_epochs": 0.0, "task_options": {"crop": 32}, "trust_teacher": True}
    monkeypatch.setattr(module, "SETS", {"halves": module.Size(fields, 1)})
    return module


@pytest.fixture
def halves(tmp_path):
    """Images that are dark on the left, where class 0 is, and bright on the right."""
    for part in ("train", "val"):
        for folder, pair in (("images", (40, 200)), ("masks", (0, 1))):
            (tmp_path / "data" / part / folder).mkdir(parents=True)
            for number in range(4):
                pixels = np.repeat(np.array([pair], np.uint8), [20 + number, 28 - number], axis=1).repeat(48, axis=0)
                Image.fromarray(pixels).save(tmp_path / "data" / part / folder / f"{number}.png")
    return tmp_path / "data"


def test_it_trains_every_row_on_the_images_and_shows_the_table(benchmark, halves, tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs"
    given = ["masks.py", "halves", "--data", str(halves), "--out", str(out), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", given)
    benchmark.main()
    rows = {"teacher": None, "ce-seed0": None, "ce+pld-seed0": str(out / "teacher")}
    for name, teacher in rows.items():
        recipe = json.loads((out / name / "recipe.json").read_text())
        assert (recipe["data"], recipe["teacher"], recipe["epochs"]) == (f"masks:{halves}", teacher, 1)
        assert recipe["task_options"] == {"crop": 32}
    score = json.loads((out / "ce+pld-seed0" / "result.json").read_text())["miou_last"]
    printed = capsys.readouterr().out
    assert f"{score:.2f}" in next(line for line in printed.splitlines() if "student, CE + PLD" in line)
    assert (out / "report.html").is_file()
