"""What each of two processes does for test_processes.py: one launch, many runs."""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

import pldistill
from pldistill import distributed
from pldistill.__main__ import main
from pldistill.recipe import Recipe, make_recipe
from pldistill.training import run as training_run
from pldistill.training import timing
from pldistill.training.distiller import EpochMetrics
from pldistill.training.progress import SilentCallback
from pldistill.training.run import evaluate
from tiny_detectors import distilled

# The last step of an epoch has 101 - 6 * 16 = 5 images: three and two.
UNEVEN, EVEN = "glyphs:train=101,val=101", "glyphs:train=112,val=101"
WITHOUT_BATCHNORM = {
    "student": "test_vit",
    "epochs": 1,
    "schedule": "constant",
    "clip_grad": 1.0,
    "ema": 0.5,
    "amp": "off",
}


def recipes(folder: Path, world: int) -> dict[str, dict]:
    """Runs that must come to the same weights, whether one process or two make them: 16 images a step."""
    teacher = {"teacher": "test_vit", "teacher_checkpoint": str(folder / "teacher.pt"), "trust_teacher": True}
    fields = {**WITHOUT_BATCHNORM, **teacher, "data": UNEVEN}
    fields["batch_size"] = 16 // world
    cases = {
        "kd": {"method": "kd", "weights": {"task": 0.5, "kd": 0.5}},
        "accumulated": {"method": "kd", "weights": {"task": 0.5, "kd": 0.5}, "batch_size": 8 // world, "accumulate": 2},
        "dist joined": {"method": "dist", "relation": "global"},
        # The classifier has no part in this loss.
        "sp joined": {"method": "sp", "relation": "global", "weights": {"task": 0.0, "sp": 30.0}},
        "dhkd aligned": {"method": "dhkd", "options": {"align": True}},
        # One process relates the images of each half of its batch too, if it takes the halves one by one.
        "dist apart": {"method": "dist", "data": EVEN, "batch_size": 8, "accumulate": 2 // world, "relation": "local"},
    }
    return {name: {**fields, **case} for name, case in cases.items()}


def resumed() -> dict:
    """A run with BatchNorm, whose statistics are each process's own, and a learning rate that changes by the step."""
    return {
        "data": UNEVEN,
        "student": "resnet8",
        "method": "ce",
        "epochs": 2,
        "batch_size": 16,
        "warmup_epochs": 0.5,
        "amp": "off",
    }


def detected() -> Recipe:
    """A detector that two processes distill: 7 images, the last step's share uneven."""
    return distilled(data="scenes:train=7,val=5", epochs=1, batch_size=2)


class At(SilentCallback):
    """Sends this process a signal after a step."""

    def __init__(self, epoch: int = -1, step: int = -1, number: int = 0) -> None:
        self.at, self.number = (epoch, step), number

    def step(self, epoch, tally) -> None:
        if (epoch, tally.batches) == self.at:
            os.kill(os.getpid(), self.number)


class Asks(SilentCallback):
    """Wants to know before the first step how long the run will take."""

    wants_time = True


def says(act) -> str:
    try:
        act()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fail_in(rank: int) -> None:
    if distributed.rank() == rank:
        raise ValueError("expected bread, got stone")


def bad_step(rank: int) -> None:
    """Only the second process has seen a loss that was not finite."""
    tally = EpochMetrics(torch.device("cpu"))
    tally.first_bad = {"kd": torch.tensor(7 if rank == 1 else 2**63 - 1), "task": torch.tensor(2**63 - 1)}
    assert tally.agree(signal.SIGINT if rank == 0 else None) == signal.SIGINT
    tally.check(epoch=1)


def together(folder: Path, rank: int) -> None:
    said: dict[str, object] = {}
    # Before the processes have met, and after: one line in either case.
    time.sleep, sleep = lambda seconds: None, time.sleep
    said["usage"] = says(lambda: main(["train", "--nonsense"]))
    for name, fields in recipes(folder, 2).items():
        pldistill.train(make_recipe(fields), out=folder / name, device="cpu")
    said["input"] = says(lambda: main(["train", "--out", str(folder / "kd"), "--method", "ce", "--student", "resnet8",
                                       "--data", "digits", "--device", "cpu"]))  # fmt: skip
    time.sleep = sleep
    said["everywhere"] = [says(partial(distributed.run_on_all, partial(fail_in, bad))) for bad in (0, 1)]
    said["on_first"] = [
        distributed.run_on_main(lambda: rank + 7),
        says(lambda: distributed.run_on_main(lambda: fail_in(0))),
    ]
    said["bad step"] = says(lambda: bad_step(rank))
    said["figures"] = evaluate(pldistill.load_run(folder / "kd"), device="cpu", batch_size=16)

    boxes = pldistill.train(detected(), out=folder / "boxes", device="cpu", workers=0)
    said["boxes"] = evaluate(boxes, device="cpu", workers=0, batch_size=2)

    # One that asks how long it will take, which the first process alone does, is the same run.
    timing.SOON, soon = -1.0, timing.SOON
    timed = {"timed": resumed(), "timed dist joined": recipes(folder, 2)["dist joined"]}
    for name, fields in timed.items():
        pldistill.train(make_recipe(fields), out=folder / name, device="cpu", callback=Asks())
    timing.SOON = soon

    training_run.Loop.LOOK_EVERY = -1.0
    recipe = make_recipe(resumed())
    pldistill.train(recipe, out=folder / "whole", device="cpu")
    if rank == 1:
        training_run.SilentCallback = lambda: At(1, 2, signal.SIGTERM)
    said["stop"] = says(lambda: pldistill.train(recipe, out=folder / "cut", device="cpu"))
    training_run.SilentCallback = SilentCallback
    torch.manual_seed(12345)
    pldistill.train(recipe, out=folder / "cut", device="cpu", resume=True)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))

    if rank == 1:
        training_run.SilentCallback = lambda: At(1, 2, signal.SIGKILL)
    (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    main(["train", "--recipe", str(folder / "recipe.json"), "--out", str(folder / "killed"), "--device", "cpu"])


if __name__ == "__main__":
    together(Path(sys.argv[1]), int(os.environ["RANK"]))
