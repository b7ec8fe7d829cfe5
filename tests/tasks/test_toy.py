"""A task that the package does not know: one line in the registry, and it trains, resumes, is measured and reported."""

import json

import pytest
import torch
from safetensors.torch import load_file

import toy_task
from places import ROOT, SUPPORT
from pldistill import evaluate, load_run, make_recipe, train
from pldistill.__main__ import main
from pldistill.record import RunRecord, last_of, score_in
from pldistill.reports.html import write_report
from pldistill.tasks.registry import TASKS

FIELDS = {
    "data": "bands",
    "task": "pixels",
    "epochs": 3,
    "batch_size": 8,
    "optimizer": "adamw",
    "lr": 0.1,
    "amp": "off",
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(TASKS, "pixels", toy_task.SPEC)


@pytest.fixture
def teacher(tmp_path):
    return train(make_recipe({**FIELDS, "student": "16", "method": "ce"}), out=tmp_path / "teacher", device="cpu")


def test_it_trains_end_to_end(tmp_path, teacher, capsys):
    assert teacher.result["pixels_last"] > 60
    recipe = make_recipe({**FIELDS, "student": "4", "method": "pld", "teacher": str(teacher.folder)})
    student = train(recipe, out=tmp_path / "student", device="cpu")
    result = student.result
    assert score_in(result) == ("pixels", result["pixels_last"])
    assert last_of(result, "pixels") == student.record.epochs()[-1]["pixels"]
    assert result["pixels_best"] == max(row["pixels"] for row in student.record.epochs())
    assert result["teacher_pixels"] == teacher.result["pixels_last"]
    preflight = student.record.read_environment()["preflight"]
    assert (preflight["images"], preflight["hits"]) == (32 * 64, round(32 * 64 * result["teacher_pixels"] / 100))
    measured = evaluate(load_run(student.folder), device="cpu")
    assert measured["pixels"] == pytest.approx(result["pixels_last"])
    assert measured["images"] == 32
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(student.folder)])
    assert f"pixels {result['pixels_last']:.2f} %  32 images" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_the_whole_one(tmp_path, teacher):
    recipe = make_recipe({**FIELDS, "student": "4", "method": "kd", "teacher": str(teacher.folder)})
    train(recipe, out=tmp_path / "whole", device="cpu")

    class Stop:
        def __getattr__(self, name):
            return lambda *given: None

        def epoch(self, row):
            if row["epoch"] == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path / "stopped", device="cpu", callback=Stop())
    train(recipe, out=tmp_path / "stopped", device="cpu", resume=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_methods_and_names_are_checked_like_any_other(tmp_path, teacher):
    with pytest.raises(ValueError, match="unknown method of pixels 'dist'"):
        make_recipe({**FIELDS, "student": "4", "method": "dist", "teacher": str(teacher.folder)})
    with pytest.raises(ValueError, match="unknown task option 'norm'"):
        make_recipe({**FIELDS, "student": "4", "method": "ce", "task_options": {"norm": "batch"}})
    with pytest.raises(ValueError, match="predict: expected a task whose runs predict, got PixelTask"):
        main_predict(teacher)


def main_predict(run):
    toy_task.make(run.recipe).predict(run.folder, ["x.png"])


def test_a_report_shows_its_metric(tmp_path, teacher):
    page = write_report([RunRecord(teacher.folder)], tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{teacher.result['pixels_last']:.2f}" in page
    assert json.loads((teacher.folder / "result.json").read_text())["pixels_last"] == teacher.result["pixels_last"]


def test_the_page_that_shows_it_is_this_very_task(request):
    page = (ROOT / "docs" / "add_a_task.md").read_text(encoding="utf-8")
    source = (SUPPORT / "toy_task.py").read_text(encoding="utf-8")
    shown = [block.partition("```")[0].strip() for block in page.split("```python\n")[1:]]
    parts = [part for part in shown if "TASKS[" not in part]
    assert parts
    assert all(part in source for part in parts)
