"""The state is saved within an epoch too: every so many steps, and after so many minutes; both change no number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pldistill
from pldistill import distributed
from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.training import checkpoint, loop
from pldistill.training.loop import Loop, Saves
from tiny_runs import CE, KillAt, Killed, assert_same_run, distill


@pytest.fixture
def saved(monkeypatch):
    """The steps at which states were saved."""
    steps, save = [], checkpoint.save

    def note(folder, state, *, step):
        steps.append(step)
        save(folder, state, step=step)

    monkeypatch.setattr(checkpoint, "save", note)
    return steps


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [*range(1, 11)]), (2, [2, 4, 5, 7, 9, 10]), (5, [5, 10]), (9, [5, 10])]
)
def test_every_so_many_steps_of_an_epoch(tmp_path, saved, every, expected):
    recipe = make_recipe({**CE, "epochs": 2})  # of 5 steps each
    pldistill.train(recipe, out=tmp_path / "run", device="cpu", checkpoint_steps=every)
    assert saved == expected


def test_steps_are_the_optimizer_s(tmp_path, saved):
    recipe = make_recipe({**CE, "epochs": 1, "batch_size": 16, "accumulate": 2})
    pldistill.train(recipe, out=tmp_path / "run", device="cpu", checkpoint_steps=2)
    assert saved == [2, 4, 5]


def test_after_so_many_minutes(tmp_path, saved, monkeypatch):
    recipe = make_recipe({**CE, "epochs": 2})
    pldistill.train(recipe, out=tmp_path / "default", device="cpu")
    assert saved == [5, 10]
    saved.clear()
    pldistill.train(recipe, out=tmp_path / "often", device="cpu", checkpoint_minutes=1e-9)
    assert saved == [*range(1, 11)]
    saved.clear()
    clock = iter(range(0, 100_000, 20))  # each look at the clock is 20 seconds after the last one
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    pldistill.train(recipe, out=tmp_path / "minutes", device="cpu", checkpoint_minutes=2)
    assert saved[-1] == 10
    assert 2 < len(saved) < 10
    assert_same_run(tmp_path / "default", tmp_path / "often")


@pytest.mark.parametrize("how", [{"checkpoint_steps": 2}, {"checkpoint_minutes": 1e-9}])
def test_killed_within_an_epoch_it_goes_on_from_there_bit_for_bit(teacher, tmp_path, every_step, how):
    recipe = distill(teacher, method="dkd", ema=0.9, optimizer="adamw", lr=1e-3)
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Killed):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=KillAt(1, 4), **how)
    state = checkpoint.load(tmp_path / "cut" / "checkpoint")
    assert (state["epoch"], state["tally"]["batches"]) == (1, 2 if "checkpoint_steps" in how else 3)
    torch.manual_seed(12345)
    pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True, **how)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_loss_that_is_not_finite_is_not_saved(tmp_path):
    recipe = make_recipe(CE).model_copy(update={"lr": 1e30})  # beyond what a recipe may say
    with pytest.raises(ArithmeticError, match="not finite"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu", checkpoint_steps=1)
    state = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert all(bad.item() == 2**63 - 1 for bad in state["tally"]["first_bad"].values())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"checkpoint_minutes": 0}, "checkpoint_minutes: expected a number above 0, got 0"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes: expected a number above 0, got nan"),
        ({"checkpoint_minutes": "ten"}, "checkpoint_minutes: expected a number above 0, got 'ten'"),
        ({"checkpoint_steps": 0}, "checkpoint_steps: expected a whole number from 1, or None, got 0"),
        ({"checkpoint_steps": 2.5}, "checkpoint_steps: expected a whole number from 1, or None, got 2.5"),
        ({"keep": "best"}, "keep: expected best,last or last, got 'best'"),
        ({"keep": ["last"]}, r"keep: expected best,last or last, got \['last'\]"),
    ],
)
def test_other_values_are_refused_before_a_file_is_written(tmp_path, how, says):
    with pytest.raises(ValueError, match=says):
        pldistill.train(make_recipe(CE), out=tmp_path / "run", device="cpu", **how)
    modules = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    batches = [(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(ValueError, match=says):
        pldistill.distill(*modules, batches, batches, out=tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--checkpoint-minutes", "0"], "checkpoint_minutes: expected numbers above 0, got '0'"),
        (["--checkpoint-steps", "0"], "checkpoint_steps: expected a whole number from 1, got '0'"),
        (["--keep", "first"], "keep: expected best,last or last, got 'first'"),
    ],
)
def test_the_command_line_refuses_them_too(tmp_path, capsys, words, says):
    line = ["train", "--data", "glyphs", "--student", "resnet8", "--method", "ce", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main([*line, *words])
    assert end.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_options_stand_in_the_panel_of_the_output(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    panel = capsys.readouterr().out.partition("Output")[2]
    assert all(option in panel for option in ("--checkpoint-minutes", "--checkpoint-steps", "--keep", "--resume"))


class Clock:
    """A loop of two processes whose first one alone is late."""

    step, steps, saves, saved, AGREE_EVERY = 20, 50, Saves(minutes=1e9), 0.0, Loop.AGREE_EVERY

    class accelerator:
        device = torch.device("cpu")


def test_several_processes_agree_on_when(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    asked = []
    monkeypatch.setattr(distributed, "any_process", lambda late, device: asked.append(late) or True)
    assert Loop._is_due(Clock())
    assert asked == [False]  # it was not late itself
    Clock.step = 21
    assert not Loop._is_due(Clock())
    assert len(asked) == 1  # between the steps at which all look nobody asks
    Clock.step = 50
    assert not Loop._is_due(Clock())


def test_two_processes_save_and_go_on_together(tmp_path):
    recipe = make_recipe({**CE, "batch_size": 4, "epochs": 2})  # 20 steps an epoch; they agree at every tenth
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict()))

    def launch(out, *more):
        words = ["train", "--recipe", str(tmp_path / "recipe.json"), "--device", "cpu", "--resume", "--out", str(out)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.Popen(
            [*launcher, "-m", "pldistill", *words, *more],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    for name, more in (("plain", []), ("saved", ["--checkpoint-minutes", "0.000001"])):
        process = launch(tmp_path / name, *more)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert_same_run(tmp_path / "plain", tmp_path / "saved")
    index = json.loads((Path(tmp_path) / "saved" / "checkpoint" / checkpoint.INDEX).read_text())
    assert (index["step"], index["before"]["step"]) == (40, 30)
