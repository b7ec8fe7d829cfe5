"""SIGKILL at random moments: the same line, repeated until it ends, leaves the run that nothing disturbed."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import pldistill
from places import SUPPORT
from tiny_runs import CE, assert_same_run

FIELDS = {
    **CE,
    "data": "glyphs:train=100,val=100",
    "epochs": 4,
    "batch_size": 16,
    "image_size": 16,
    "ema": 0.9,
    "optimizer": "adamw",
}
HELPER = str(SUPPORT / "killed_runs.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing disturbed, and its recipe as a file."""
    folder = tmp_path_factory.mktemp("kills")
    recipe = pldistill.make_recipe({**FIELDS, "lr": 1e-3})
    (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    pldistill.train(recipe, out=folder / "whole", device="cpu")
    return folder


@pytest.mark.parametrize(("seed", "how"), [(0, ["--checkpoint-steps", "1"]), (1, ["--checkpoint-minutes", "0.001"])])
def test_killed_again_and_again_it_is_the_undisturbed_run(whole, tmp_path, seed, how):
    line = ["train", "--recipe", str(whole / "recipe.json"), "--resume", "--device", "cpu", *how]
    done = subprocess.run(
        [sys.executable, HELPER, str(seed), "6", "0.6", "--", *line, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 1
    assert_same_run(whole / "whole", tmp_path / "run")
    best = [load_file(folder / "best" / "model.safetensors") for folder in (whole / "whole", tmp_path / "run")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in (whole / "whole").iterdir()}
