"""Runs of a second on the CPU, and how two of them are compared."""

import json
import os
import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from pldistill.recipe import make_recipe
from pldistill.training.progress import SilentCallback

TINY = "glyphs:train=160,val=100"
# After so few steps a teacher is at chance. In float32, so that the figures are the same on every kind of CPU.
CE = {
    "data": TINY,
    "student": "resnet8",
    "method": "ce",
    "epochs": 3,
    "batch_size": 32,
    "trust_teacher": True,
    "amp": "off",
}
CLOCKS = ("seconds", "images_per_second")


def distill(teacher, **change):
    return make_recipe({**CE, "method": "kd", "teacher": str(teacher.folder), **change})


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_run(one: Path, other: Path):
    assert rows(one) == rows(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class StopAt(SilentCallback):
    """Sends a signal after one step of one epoch."""

    def __init__(self, epoch, batches, number=signal.SIGTERM):
        self.at, self.number = (epoch, batches), number

    def step(self, epoch, tally):
        if (epoch, tally.batches) == self.at:
            os.kill(os.getpid(), self.number)


class Killed(BaseException):
    """What ends a process between two steps, with no chance to save."""


class KillAt(SilentCallback):
    """Ends the run after one step of one epoch; on disk is what SIGKILL would leave."""

    def __init__(self, epoch, batches):
        self.at = (epoch, batches)

    def step(self, epoch, tally):
        if (epoch, tally.batches) == self.at:
            raise Killed
