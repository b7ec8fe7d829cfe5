"""Runs side by side are those of one process, bit for bit; a signal saves all of them; a mistake is said."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import pldistill
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from pldistill.training.parallel import Job, SideBySide, train_side_by_side, workers_for
from tiny_runs import CE, assert_same_run


def test_runs_side_by_side_are_the_runs_of_one_process(tmp_path, monkeypatch, request):
    monkeypatch.setattr("pldistill.training.parallel.workers_for", lambda device: 2)
    recipes = [make_recipe({**CE, "epochs": 1, "seed": seed}) for seed in range(3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another number of threads round differently
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    alone = [
        pldistill.train(recipe, out=tmp_path / f"alone{number}", device="cpu") for number, recipe in enumerate(recipes)
    ]
    jobs = [Job(recipe, tmp_path / f"beside{number}") for number, recipe in enumerate(recipes)]
    told = []
    train_side_by_side(jobs, device="cpu", done=told.append)
    assert sorted(record.folder.name for record in told) == ["beside0", "beside1", "beside2"]
    for run, job in zip(alone, jobs, strict=True):
        assert_same_run(run.folder, job.folder)
    told.clear()
    train_side_by_side(jobs, device="cpu", done=told.append)  # nothing is left to do
    assert len(told) == 3


def test_runs_in_turn_beside_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr("pldistill.training.parallel.workers_for", lambda device: 2)
    jobs = [Job(make_recipe({**CE, "epochs": 1, "seed": seed}), tmp_path / str(seed)) for seed in range(2)]
    told = []
    with SideBySide("cpu") as runs:
        runs.begin(jobs, in_turn=True)
        runs.wait(told.append)
    assert [record.folder.name for record in told] == ["0", "1"]
    assert all(record.finished for record in told)
    first, second = (record.folder for record in told)
    assert (first / "result.json").stat().st_mtime_ns <= (second / "recipe.json").stat().st_mtime_ns


def test_what_ends_the_caller_saves_the_runs(tmp_path):
    job = Job(make_recipe({**CE, "epochs": 2000}), tmp_path / "run")

    def caller():
        with SideBySide("cpu", 1) as runs:
            runs.begin([job])
            while not (job.folder / "metrics.jsonl").exists():
                time.sleep(0.1)
            raise RuntimeError("the caller ends")

    with pytest.raises(RuntimeError, match="the caller ends"):
        caller()
    assert list((job.folder / "checkpoint").iterdir())
    assert not RunRecord(job.folder).finished


def test_a_mistake_in_one_is_said(tmp_path):
    jobs = [Job(make_recipe({**CE, "data": "folder:/nowhere/at/all"}), tmp_path / "bad")]
    with pytest.raises(ValueError, match="/nowhere/at/all"):
        train_side_by_side(jobs, device="cpu", done=lambda record: None)


DRIVER = """
import sys
from pathlib import Path
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.training.parallel import Job, train_side_by_side

if __name__ == "__main__":
    fields = {"data": "glyphs:train=160,val=100", "student": "resnet8", "method": "ce", "epochs": 2000, "amp": "off"}
    jobs = [Job(make_recipe({**fields, "seed": seed}), Path(sys.argv[1]) / str(seed)) for seed in range(2)]
    try:
        train_side_by_side(jobs, device="cpu", done=lambda record: None)
    except Interrupted as stop:
        print("stopped", stop.signal, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_all_of_them(tmp_path, number):
    (tmp_path / "driver.py").write_text(DRIVER)
    line = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)]
    started = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 240
    while not all((tmp_path / seed / "metrics.jsonl").exists() for seed in "01"):
        assert time.monotonic() < until
        assert started.poll() is None
        time.sleep(0.1)
    started.send_signal(number)
    assert started.communicate(timeout=600)[0].strip() == f"stopped {int(number)}"
    for seed in "01":
        assert list((tmp_path / seed / "checkpoint").iterdir())
        assert not RunRecord(tmp_path / seed).finished


def test_runs_end_when_their_caller_is_killed(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    line = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)]
    started = subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 240
    while not all((tmp_path / seed / "metrics.jsonl").exists() for seed in "01"):
        assert time.monotonic() < until
        time.sleep(0.1)
    started.kill()
    started.wait()
    sizes = None
    while sizes != (now := [(tmp_path / seed / "metrics.jsonl").stat().st_size for seed in "01"]):
        assert time.monotonic() < until
        sizes = now
        time.sleep(3.0)  # an epoch takes a fraction of it
    assert not any(RunRecord(tmp_path / seed).finished for seed in "01")


@pytest.mark.parametrize(("device", "most"), [("cuda", 1), ("mps", 1), ("cpu", 4)])
def test_a_gpu_has_one_run_at_a_time(device, most):
    assert 1 <= workers_for(device) <= most
