"""What a process that was killed at its beginning leaves counts as new; one line begins a run and goes on with it."""

import json

import pytest
import torch

import pldistill
from pldistill.__main__ import main
from pldistill.files import HOLDER, LOCK, is_new
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from tiny_runs import CE, StopAt, assert_same_run, distill
from tiny_stores import make

LEFT = [LOCK, HOLDER, ".recipe.json.part", ".env.json.part", "env.json"]


def dead(folder, names=LEFT):
    """A folder that was killed between its making and the rename of recipe.json."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text('{"precision": "bf16"}')
    return folder


def test_what_is_new(tmp_path):
    assert is_new(tmp_path / "none")
    assert is_new(tmp_path)
    assert is_new(dead(tmp_path / "dead"))
    assert is_new(dead(tmp_path / "store", [".header.json.part", ".view-0000.bin.part", ".validation.bin.part"]))
    for other in ("recipe.json", "thesis.txt", ".thesis.txt.part", "header.json", "metrics.jsonl"):
        assert not is_new(dead(tmp_path / other, [*LEFT, other])), other
    (tmp_path / "dead" / "checkpoint").mkdir()
    assert not is_new(tmp_path / "dead")
    (tmp_path / "file").write_text("")
    assert not is_new(tmp_path / "file")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("count", range(len(LEFT) + 1))
def test_a_run_begins_in_a_dead_folder(teacher, tmp_path, count, resume):
    recipe = distill(teacher, epochs=1)
    out = dead(tmp_path / "run", LEFT[:count])
    run = pldistill.train(recipe, out=out, resume=resume, device="cpu")
    assert run.record.read_environment()["precision"] == "off"
    assert "resumed" not in run.record.read_environment()
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


def test_one_and_the_same_line_begins_goes_on_and_ends(tmp_path, capsys):
    flags = ["--data", "glyphs:train=160,val=100", "--student", "resnet8", "--method", "ce", "--epochs", "2"]
    line = ["train", *flags, "--device", "cpu", "--resume", "--out", str(tmp_path / "run")]
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert end.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0].startswith("finished") or "\nfinished" in said[0]
    assert "already finished" in said[1]


def test_a_recipe_file_begins_a_run_too(tmp_path):
    recipe = make_recipe({**CE, "epochs": 1})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    with pytest.raises(SystemExit) as end:
        main(
            [
                "train",
                "--recipe",
                str(tmp_path / "recipe.json"),
                "--resume",
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "r"),
            ]
        )
    assert end.value.code == 0
    assert RunRecord(tmp_path / "r").finished


@pytest.mark.parametrize("more", [[], ["--lr", "0.1"], ["--data", "digits", "--student", "resnet8"]])
@pytest.mark.parametrize("there", [False, True])
def test_without_a_recipe_there_is_nothing_to_begin(tmp_path, capsys, more, there):
    out = dead(tmp_path / "run") if there else tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--out", str(out), *more])
    assert end.value.code == 2
    assert f"resume: expected a run in '{out}', got none" in capsys.readouterr().err
    assert out.exists() == there


def test_a_store_begins_in_a_dead_folder(teacher, store, tmp_path):
    out = dead(tmp_path / "store", [LOCK, HOLDER, ".header.json.part", ".view-0000.bin.part"])
    make(teacher, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in store.iterdir()
    }


def test_modules_of_one_s_own_begin_and_go_on_by_one_call(tmp_path, every_step):
    images, labels = torch.randn(24, 6), torch.arange(24) % 3
    batches = [(images[at : at + 8], labels[at : at + 8]) for at in (0, 8, 16)]

    def call(out, **more):
        torch.manual_seed(0)
        teacher, student = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
        how = {"method": "kd", "epochs": 3, "amp": "off", "device": "cpu", "resume": True}
        return pldistill.distill(teacher, student, batches, batches, out=out, **how, **more)

    call(tmp_path / "whole")
    dead(tmp_path / "cut")
    with pytest.raises(Interrupted):
        call(tmp_path / "cut", callback=StopAt(1, 2), checkpoint_steps=1)
    call(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_cell_of_a_study_begins_in_a_dead_folder(tmp_path):
    from rich.console import Console

    from pldistill.studies import find_study
    from pldistill.studies.runner import reproduce
    from pldistill.studies.study import plan
    from pldistill.training.progress import StudyProgress

    study = find_study("table1")
    layout = plan(study, out=tmp_path, scale="smoke", pairs=["resnet56-resnet20"], rows=["ce"])
    for cell in layout.runs:
        dead(cell.folder)
    comparison = reproduce(layout, tmp_path, callback=StudyProgress(Console(quiet=True)), device="cpu")
    assert [entry.failures for entry in comparison.entries] == [()]
    assert not (layout.cells[0].folder / "best").exists()
