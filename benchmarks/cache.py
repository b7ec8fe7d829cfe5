"""An epoch from a teacher cache of the teacher's answers beside one of cross-entropy and one that asks the teacher:
python benchmarks/cache.py

Timed in one process, in turn, an epoch of a few steps each, so that a slow moment of the machine meets all of them:

    ce       cross-entropy: no teacher
    stored   a method of the logits, the answers looked up in a teacher cache of every class
    live     the same, the teacher asked at each step

Of each the epoch is timed twice over: its training, and with its validation, which has a fifth as many images, as
CIFAR-100 has. Where there is a teacher, validation also measures how far the student answers as it does. Checkpoints
are in none of them. Models, methods and setting are those of `pldistill reproduce table1`.

The teacher cache's making is timed too, and with that its size and its price for CIFAR-100 are printed. Lines are added
to the CSV, with the machine, versions and commit in each.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loader import append
from step import WARM_UP, parsed, whole

from pldistill.bench import quartiles
from pldistill.data import open_data
from pldistill.recipe import Recipe
from pldistill.record import RunRecord, environment
from pldistill.studies import cifar
from pldistill.teachers.cache import CacheMetadata
from pldistill.training.build import assemble, make_accelerator
from pldistill.training.cache_teacher import cache_teacher
from pldistill.training.loop import Loop
from pldistill.training.progress import SilentCallback
from pldistill.training.run import train

CIFAR = {"images": 50_000, "validation_images": 10_000}
Seconds = dict[str, dict[str, list[float]]]  # of a part of an epoch, by what it is of, by round


class Clock:
    """Looks on while a teacher cache is made, and times it."""

    def warn(self, message: str) -> None:
        """A teacher of a few steps is not worth a word."""

    def begin(self, about: CacheMetadata, done: int) -> None:
        self.began, self.images = time.perf_counter(), 0

    def asked(self, images: int) -> None:
        self.images += images

    def end(self) -> None:
        self.rate = self.images / (time.perf_counter() - self.began)


def make_loops(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Loop], CacheMetadata, float]:
    """A loop for each thing that is timed; what the teacher cache is about, and the images a second of its making."""
    teacher, student = cifar.PAIRS[args.pair]
    count = args.batch_size * args.steps
    setting = {**cifar.TABLE1.setting, "batch_size": args.batch_size, "amp": args.amp, "epochs": 1}
    setting |= {"data": f"glyphs:train={count},val={max(100, count // 5 // 100 * 100)}", "trust_teacher": True}
    # A teacher that was never trained answers with odd logits.
    run = train(Recipe(student=teacher, method="ce", **setting), out=folder / "teacher", device=args.device)
    setting |= {"student": student, "epochs": 2 * (WARM_UP + args.rounds)}
    named, clock = {"teacher": str(run.folder), "views": args.views}, Clock()
    about = cache_teacher(
        Recipe(method="kd", **setting, **named), folder / "store", views=args.views, device=args.device, callback=clock
    )
    recipes = {"ce": Recipe(method="ce", **setting)}
    for method in args.methods:
        recipes[f"stored {method}"] = Recipe(method=method, teacher_cache=str(folder / "store"), **setting, **named)
        recipes[f"live {method}"] = Recipe(method=method, **setting, **named)
    data, accelerator = open_data(setting["data"]), make_accelerator(args.amp, args.device)
    loops = {
        what: assemble(recipe, data, RunRecord(folder / what), accelerator, workers=0, callback=SilentCallback())
        for what, recipe in recipes.items()
    }
    for loop in loops.values():
        loop.prepare()
    return loops, about, clock.rate


def measure(loops: Mapping[str, Loop], rounds: int) -> Seconds:
    """Seconds of training and of the whole epoch. What a round begins with changes from round to round."""
    seconds: Seconds = {"training": {what: [] for what in loops}, "epoch": {what: [] for what in loops}}
    order, works = list(loops), {what: whole(loop) for what, loop in loops.items()}
    for number in range(WARM_UP + rounds):
        order.append(order.pop(0))
        for what in order:
            training = works[what](number)
            began = time.perf_counter()
            loops[what].validate(loops[what].evaluated)  # gives numbers, so it has waited for the device
            if number >= WARM_UP:
                seconds["training"][what].append(training)
                seconds["epoch"][what].append(training + time.perf_counter() - began)
    return seconds


def lines(seconds: Seconds, args: argparse.Namespace, env: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each thing that was timed: its seconds, and those over CE's and the live teacher's of its round."""
    setting = {name: getattr(args, name) for name in ("pair", "amp", "batch_size", "steps", "rounds", "views")}
    found = []
    for part, by_what in seconds.items():
        for what, each in by_what.items():
            kind, _, method = what.partition(" ")
            figures = quartiles("seconds", each)
            for name, other in (("to_ce", "ce"), ("to_live", f"live {method}")):
                paired = [mine / theirs for mine, theirs in zip(each, by_what.get(other, []), strict=False)]
                figures |= quartiles(name, paired)
            found.append({"what": kind, "method": method or "ce", "part": part, **setting, **figures, **env})
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        "| what | method | part | seconds | to ce | quartiles | to live | quartiles |",
        "|---|---|---|" + "---:|" * 5,
    ]
    for line in found:
        cells = [line["what"], line["method"], line["part"], f"{line['seconds']:.2f}"]
        for name in ("to_ce", "to_live"):
            middle, low, high = (line[name + end] for end in ("", "_q1", "_q3"))
            cells += ["", ""] if middle is None else [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def price(about: CacheMetadata, rate: float) -> str:
    """What stores take for CIFAR-100: bytes, and the time to make them at the rate that was measured."""
    rows = [f"CIFAR-100's 50,000 + 10,000 images, {rate:,.0f} images/s asked:", ""]
    rows += ["| views | classes stored | MB | minutes to make |", "|---:|---:|---:|---:|"]
    for views in (1, 10, 30, 240):
        for places in (100, 20):
            whole = about.model_copy(update={"views": views, "places": places, "classes": 100, **CIFAR})
            args = views * CIFAR["images"] + CIFAR["validation_images"]
            size = sum(whole.sizes().values()) / 1e6
            rows.append(f"| {views} | {places} | {size:,.1f} | {args / rate / 60:,.1f} |")
    return "\n".join(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time an epoch from a teacher cache.")
    parser.add_argument("--out", type=Path, help="the CSV to add to; benchmarks/cache-DEVICE.csv where not given")
    parser.add_argument("--pair", default="resnet56-resnet20", choices=cifar.PAIRS)
    parser.add_argument("--methods", nargs="+", default=["kd", "pld"], choices=("kd", "dkd", "dist", "pld"))
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each")
    parser.add_argument("--steps", type=int, default=10, help="steps in an epoch")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "off"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    return parsed(parser, "an epoch", views=1)


def main() -> None:
    args = _arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    env = environment(device=args.device, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        loops, about, rate = make_loops(args, Path(folder))
        found = lines(measure(loops, args.rounds), args, env)
    out = args.out or Path(__file__).with_name(f"cache-{args.device}.csv")
    append(out, [{**line, "asked_per_second": rate} for line in found])
    print(table(found))
    print()
    print(price(about, rate))
    print(out)


if __name__ == "__main__":
    main()
