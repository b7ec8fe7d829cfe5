"""A run that was stopped or killed goes on bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

import pldistill
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.training import checkpoint
from tiny_runs import CE, KillAt, Killed, StopAt, assert_same_run, distill, rows, weights


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("batches", [1, 5])
def test_stopped_and_resumed_is_the_uninterrupted_run(teacher, tmp_path, every_step, number, batches):
    recipe = distill(teacher, method="dkd", ema=0.9, clip_grad=1.0, optimizer="adamw", lr=1e-3)
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted, match="--resume") as stop:
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt(1, batches, number))
    assert stop.value.signal == number
    assert len(rows(tmp_path / "cut")) == 1
    torch.manual_seed(12345)
    run = pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(run.record.read_environment()["resumed"]) == 1


def train_in_pieces(recipe, out, steps, device="cpu"):
    """Stop in the first epoch after `steps`, with the state saved; go on; kill in the second; go on to the end."""
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=out, device=device, callback=StopAt(0, steps))
    assert checkpoint.load(out / "checkpoint")["tally"]["batches"] == steps
    torch.manual_seed(12345)
    with pytest.raises(Killed):
        pldistill.train(recipe, out=out, device=device, resume=True, callback=KillAt(1, steps))
    assert checkpoint.load(out / "checkpoint")["tally"]["batches"] == 0
    assert len(rows(out)) == 1
    torch.manual_seed(54321)
    pldistill.train(recipe, out=out, device=device, resume=True)


@pytest.fixture(scope="module")
def plain(teacher, tmp_path_factory):
    """The run that the settings below are added to."""
    recipe = distill(teacher, method="pld", epochs=2)
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("plain") / "run", device="cpu")


SETTINGS = {
    "ema": {"ema": 0.9},
    "clip": {"clip_grad": 0.05},
    "bf16": {"amp": "bf16"},
    "contiguous": {"channels_last": False},
    "all": {"ema": 0.9, "clip_grad": 0.05, "amp": "bf16", "channels_last": True, "optimizer": "adamw", "lr": 1e-3},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_resumes_bit_for_bit(teacher, plain, tmp_path, every_step, setting):
    recipe = distill(teacher, method="pld", epochs=2, **SETTINGS[setting])
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    train_in_pieces(recipe, tmp_path / "cut", steps=3)
    assert_same_run(whole.folder, tmp_path / "cut")
    if setting != "contiguous":  # which rounds differently at most
        before, after = weights(plain.folder), weights(whole.folder)
        assert not torch.equal(before["fc.weight"], after["fc.weight"])


def test_a_compiled_student_resumes_bit_for_bit(teacher, tmp_path, every_step):
    """One epoch in batches of one size: compiling, once a run, is what takes the time here."""
    recipe = distill(teacher, epochs=1, compile=True, batch_size=64, data="glyphs:train=128,val=128")
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt(0, 1))
    pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with loss scaling needs a CUDA GPU")
def test_loss_scaling_resumes_bit_for_bit(teacher, tmp_path, every_step, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    recipe = distill(teacher, method="pld", epochs=2, amp="fp16", clip_grad=1.0)
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cuda")
    train_in_pieces(recipe, tmp_path / "cut", steps=3, device="cuda")
    assert_same_run(whole.folder, tmp_path / "cut")
    scalers = [checkpoint.load(folder / "checkpoint")["scaler"] for folder in (whole.folder, tmp_path / "cut")]
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] > 1


def test_dropout_resumes_bit_for_bit(tmp_path, every_step):
    recipe = make_recipe({**CE, "student": "ghostnet_050", "amp": "bf16", "epochs": 2})
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt(0, 3))
    pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_killed_in_mid_epoch_and_resumed_from_the_command_line(teacher, tmp_path):
    recipe = distill(teacher, epochs=4, data="glyphs:train=1600,val=100")
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    command = [sys.executable, "-m", "pldistill", "train", "--device", "cpu", "--out", str(tmp_path / "cut")]
    process = subprocess.Popen([*command, "--recipe", str(tmp_path / "recipe.json")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (tmp_path / "cut" / "checkpoint" / checkpoint.INDEX).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "cut" / "result.json").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_killed_before_the_first_checkpoint_starts_afresh(teacher, tmp_path):
    recipe = distill(teacher, epochs=1)
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("recipe.json", "env.json", "metrics.jsonl"):  # the row is written, its checkpoint is not
        (cut / name).write_bytes((whole.folder / name).read_bytes())
    pldistill.train(recipe, out=cut, resume=True, device="cpu")
    assert_same_run(whole.folder, cut)


def test_a_finished_run_is_given_back_as_it_is(teacher):
    before = {path: path.stat().st_mtime_ns for path in teacher.folder.iterdir()}
    again = pldistill.train(teacher.recipe, out=teacher.folder, resume=True, device="cpu")
    assert again.result == teacher.result
    assert {path: path.stat().st_mtime_ns for path in teacher.folder.iterdir()} == before


@pytest.fixture
def images(tmp_path):
    """A folder of 2 x 60 noise images, 32 x 32."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 60), ("val", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_spares_the_workers(images, tmp_path, number):
    """Ctrl-C in a terminal, or a scheduler's warning, reaches every process of the run."""
    recipe = make_recipe({**CE, "data": f"folder:{images}", "epochs": 40, "batch_size": 8})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "pldistill", "train", "--device", "cpu", "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--recipe", str(tmp_path / "recipe.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not (out / "checkpoint" / checkpoint.INDEX).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 128 + number, said
    assert said.startswith("pldistill: stopped in epoch")
    assert said.count("\n") == 1
    assert "--resume" in said
