"""What a worker process meets, or its end, is one line of the command line and no traceback."""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from pldistill.__main__ import main
from pldistill.data import loader, make_loader, open_data

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A run on four images, read by a worker process."""
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val"):
        for name in ("ant", "cat"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i}.png")
    data, out = f"folder:{tmp_path / 'set'}", str(tmp_path / "run")
    return ["train", "--data", data, "--student", "resnet8", "--method", "ce", "--epochs", "2", "--batch-size", "2",
            "--device", "cpu", "--workers", "1", "--out", out]  # fmt: skip


def run(line, capfd):
    with pytest.raises(SystemExit) as stop:
        main(line)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return stop.value.code, said.strip().splitlines()[-1]


def test_a_worker_that_is_killed(line, monkeypatch, capfd):
    monkeypatch.setattr(loader, "read_batch", lambda *how: os.kill(os.getpid(), signal.SIGKILL))
    code, said = run(line, capfd)
    assert code == 1
    assert said.startswith("pldistill: a process that reads images was killed, as systems do when memory runs out")
    assert "fewer --workers" in said


def test_an_image_that_is_lost_during_the_run(line, monkeypatch, capfd):
    def read(files, *how):
        raise ValueError(f"{files[0].name}: cannot be read as an image (gone)")

    monkeypatch.setattr(loader, "read_batch", read)
    code, said = run(line, capfd)
    assert code == 2
    assert said.startswith("pldistill: ")
    assert said.endswith(".png: cannot be read as an image (gone)")
    assert "worker" not in said


def test_memory_that_runs_out(line, monkeypatch, capfd):
    def read(*how):
        raise MemoryError

    monkeypatch.setattr(loader, "read_batch", read)
    code, said = run(line, capfd)
    assert (code, said.startswith("pldistill: memory ran out: try a smaller --batch-size")) == (1, True)


def test_workers_end_with_python_and_do_not_wait_out_their_grace(line, capfd):
    data = open_data(line[2])
    show = {"batch_size": 2, "image_size": 8, "augment": None, "seed": 0, "shuffle": False}
    made = make_loader(data.val, device=torch.device("cpu"), workers=1, **show)
    before = {worker for worker in loader._STARTED if worker.is_alive()}
    next(made.epoch(0))
    (worker,) = {worker for worker in loader._STARTED if worker.is_alive()} - before
    loader._end_workers()
    worker.join(loader.GRACE / 2)
    assert worker.exitcode == 0
