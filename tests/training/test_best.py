"""The best epoch's model is kept beside the last one's, and can be measured."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pldistill
from pldistill.__main__ import main
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.tasks.base import make_task
from pldistill.training import checkpoint
from pldistill.training.best import read_epoch
from pldistill.training.run import evaluate, open_images
from tiny_runs import CE, KillAt, Killed, SilentCallback, StopAt, distill, rows

# Its top-1 goes up and down: the best epoch is neither the first nor the last.
SHAKY = {**CE, "epochs": 5, "schedule": "constant", "optimizer": "adamw", "lr": 0.05, "warmup_epochs": 0.0, "seed": 1}


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def shaky(tmp_path_factory):
    """A run whose best epoch is not its last; nobody writes to it."""
    return pldistill.train(make_recipe(SHAKY), out=tmp_path_factory.mktemp("shaky") / "run", device="cpu")


def test_it_is_the_model_of_a_run_that_is_stopped_at_that_epoch(shaky, tmp_path):
    best = shaky.result["best_epoch"]
    assert 1 < best < SHAKY["epochs"]  # else this shows nothing
    stopped = pldistill.train(make_recipe({**SHAKY, "epochs": best}), out=tmp_path / "stopped", device="cpu")
    assert same(weights(shaky.folder / "best"), weights(stopped.folder))
    assert not same(weights(shaky.folder), weights(stopped.folder))
    assert read_epoch(shaky.folder) == {"epoch": best, "top1": shaky.result["top1_best"]}
    assert shaky.result["best_by"] == "top1"


def test_it_is_measured_on_request(shaky):
    result = shaky.result
    assert evaluate(shaky, device="cpu")["top1"] == pytest.approx(result["top1_last"])
    assert evaluate(shaky, device="cpu", weights="best")["top1"] == pytest.approx(result["top1_best"])
    with pytest.raises(ValueError, match="weights: expected best or last, got 'first'"):
        evaluate(shaky, device="cpu", weights="first")


def test_predict_uses_it_on_request(shaky, tmp_path):
    image = tmp_path / "image.png"
    Image.effect_noise((16, 16), 80).convert("RGB").save(image)
    last, best = (pldistill.predict(shaky, [image], weights=which) for which in ("last", "best"))
    assert last == pldistill.predict(shaky, [image])
    assert last != best
    answers = make_task(shaky.recipe).predict(shaky.folder / "best", [image])
    assert best == [[(answer["class"], answer["probability"]) for answer in answers[0][:5]]]


def test_a_row_without_the_figure_that_chooses_is_named(shaky):
    task, data = make_task(shaky.recipe), open_images(shaky.recipe, download=False)
    bare = [{name: value for name, value in row.items() if name != "top1"} for row in shaky.record.epochs()]
    with pytest.raises(ValueError, match=r"metrics\.jsonl: expected 'top1' in the row of epoch 1, got none"):
        task.best_row(bare, data)


def test_the_command_line_measures_it(shaky, capsys):
    for which, key in (("best", "top1_best"), ("last", "top1_last")):
        with pytest.raises(SystemExit) as end:
            main(["evaluate", str(shaky.folder), "--weights", which, "--device", "cpu"])
        assert end.value.code == 0
        assert f"{shaky.result[key]:.2f} %" in capsys.readouterr().out


def test_last_keeps_none_and_changes_no_number(shaky, tmp_path):
    run = pldistill.train(make_recipe(SHAKY), out=tmp_path / "run", device="cpu", keep="last")
    assert not (run.folder / "best").exists()
    assert rows(run.folder) == rows(shaky.folder)
    assert same(weights(run.folder), weights(shaky.folder))
    assert run.result["best_epoch"] == shaky.result["best_epoch"]
    with pytest.raises(ValueError, match=r"weights: expected last, for run '.*' kept no best"):
        evaluate(run, device="cpu", weights="best")


def test_held_out_images_choose(tmp_path):
    recipe = make_recipe({**SHAKY, "data": "glyphs:train=260,val=100,validation=100"})
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert run.result["best_by"] == "holdout_top1"
    best = max(rows(run.folder), key=lambda row: row["holdout_top1"])
    assert read_epoch(run.folder) == {"epoch": best["epoch"], "holdout_top1": best["holdout_top1"]}
    assert evaluate(run, device="cpu", weights="best")["top1"] == pytest.approx(best["top1"])


def test_the_average_is_what_is_kept(teacher, tmp_path):
    run = pldistill.train(distill(teacher, epochs=1, ema=0.5), out=tmp_path / "run", device="cpu")
    assert same(weights(run.folder / "best"), weights(run.folder))


@pytest.mark.parametrize("end", [StopAt, KillAt])
@pytest.mark.parametrize("epoch", range(1, 5))
def test_an_interrupted_run_keeps_the_same(shaky, tmp_path, every_step, end, epoch):
    with pytest.raises((Interrupted, Killed)):
        pldistill.train(make_recipe(SHAKY), out=tmp_path / "run", device="cpu", callback=end(epoch, 2))
    run = pldistill.train(make_recipe(SHAKY), out=tmp_path / "run", device="cpu", resume=True)
    assert same(weights(run.folder / "best"), weights(shaky.folder / "best"))
    mine, theirs = (each.result["sha256"] for each in (run, shaky))
    assert {name: mine[name] for name in mine if name.startswith("best/")} == {
        name: theirs[name] for name in theirs if name.startswith("best/")
    }


def test_one_that_ends_between_the_model_and_its_checkpoint_writes_it_again(shaky, tmp_path, monkeypatch):
    """The row and the model of the best epoch are there, its checkpoint is not."""
    best, save = shaky.result["best_epoch"], checkpoint.save

    def cut(folder, state, *, step):
        if state["epoch"] == best:
            raise Killed
        save(folder, state, step=step)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", cut)
        with pytest.raises(Killed):
            pldistill.train(make_recipe(SHAKY), out=tmp_path / "run", device="cpu")
    assert read_epoch(tmp_path / "run")["epoch"] == best
    (tmp_path / "run" / "best" / "model.safetensors").write_bytes(b"torn")
    pldistill.train(make_recipe(SHAKY), out=tmp_path / "run", device="cpu", resume=True)
    assert same(weights(tmp_path / "run" / "best"), weights(shaky.folder / "best"))


class EndsAfter(SilentCallback):
    """Ends the process after an epoch."""

    def __init__(self, epoch):
        self.last = epoch

    def epoch(self, row):
        if row["epoch"] == self.last:
            raise Killed


def test_a_part_without_it_leaves_none_where_that_part_had_the_best(shaky, tmp_path):
    best, out = shaky.result["best_epoch"], tmp_path / "run"
    with pytest.raises(Killed):
        pldistill.train(make_recipe(SHAKY), out=out, device="cpu", callback=EndsAfter(best - 1))
    with pytest.raises(Killed):
        pldistill.train(make_recipe(SHAKY), out=out, device="cpu", callback=EndsAfter(best), keep="last", resume=True)
    (out / "best" / "notes.txt").write_text("mine")
    run = pldistill.train(make_recipe(SHAKY), out=out, device="cpu", resume=True)
    assert [path.name for path in (out / "best").iterdir()] == ["notes.txt"]
    assert not [name for name in run.result["sha256"] if name.startswith("best/")]
    with pytest.raises(ValueError, match="kept no best"):
        evaluate(run, device="cpu", weights="best")


def test_it_is_no_field_of_a_recipe(shaky):
    recipe = json.loads((shaky.folder / "recipe.json").read_text())
    assert not {"keep", "checkpoint_minutes", "checkpoint_steps"} & set(recipe)
