"""What does not fit a run is refused in plain words, before a file is written."""

import re

import pytest

import pldistill
from pldistill.recipe import make_recipe
from pldistill.training.run import evaluate
from tiny_runs import CE, distill


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "glyfs"}, "glyfs"),
        ({"student": "resnet21"}, "resnet2"),
        ({"optimizer": "adamww"}, "unknown optimizer 'adamww'; did you mean"),
        ({"amp": "fp16"}, "amp: expected auto, bf16 or off on a CPU, got 'fp16'"),
        ({"method": "kd", "teacher": "resnet20"}, "resnet20"),
        ({"method": "kd", "teacher": "resnet50"}, "a1_in1k"),
        ({"method": "kd", "teacher": "resnet20", "teacher_checkpoint": "nowhere.pt"}, "nowhere.pt"),
        ({"student_checkpoint": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_file_is_written(tmp_path, change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        pldistill.train(make_recipe({**CE, **change}), out=tmp_path / "run", device="cpu")
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("kd", {"temperature": -1}, "temperature must be a positive finite number, got -1.0"),
        ("listmle", {"weights": "some"}, "weights must be one of 'uniform', 'sum', got 'some'"),
        ("dkd", {"beta": -2}, "beta must be a finite number of at least 0"),
    ],
)
def test_a_value_that_no_loss_takes_is_refused_before_a_file_is_written(teacher, tmp_path, method, options, says):
    recipe = make_recipe({**CE, "method": method, "teacher": str(teacher.folder), "options": options})
    with pytest.raises(ValueError, match=re.escape(says)):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_class_counts_that_differ_are_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="expected the data's 10 classes, got 100"):
        pldistill.train(distill(teacher, data="digits"), out=tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match="expected the run's 100 classes"):
        evaluate(teacher, data="digits", device="cpu")


def test_a_used_folder_is_refused_and_resume_wants_the_same_recipe(teacher, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        pldistill.train(make_recipe(CE), out=tmp_path / "full", device="cpu")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="expected a run in"):
        pldistill.train(make_recipe(CE), out=tmp_path / "full", resume=True, device="cpu")
    with pytest.raises(ValueError, match="expected the run's own seed, 7, got 0"):
        pldistill.train(make_recipe({**CE, "epochs": 1}), out=teacher.folder, resume=True, device="cpu")
    with pytest.raises(ValueError, match="device: expected auto, cpu"):
        pldistill.train(make_recipe(CE), out=tmp_path / "new", device="tpu")
