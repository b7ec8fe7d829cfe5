"""Images a second of the training loop, beside a plain loop and beside the models alone: python benchmarks/step.py

Timed in one process, in turn, a group of steps each, so that a slow moment of the machine meets all of them:

    plain    how public code for CIFAR distillation trains: torchvision's transforms on each image, a DataLoader's
             workers, float32, contiguous, the teacher asked under no_grad in eval mode, the loss read back each step
    bare     the teacher's forward, the student's forward and backward of its cross-entropy: models, precision and
    memory
             layout as in the loop, on batches that are there already; no method, no optimizer, no augmentation
    student  bare, without the teacher
    loop     pldistill's whole step: order, augmentation, teacher, method, optimizer, sums
    stored   the same, with the teacher's answers from a teacher cache

The clock of `plain` starts when the workers have given their first batch. Method and optimizer are those of
`pldistill reproduce table1` on both sides. Validation and checkpoints are in none of them.

Lines are added to the CSV, with the machine, versions and commit in each.
"""

import argparse
import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import append
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pldistill.bench import quartiles
from pldistill.data import Dataset as Data
from pldistill.data import TensorSplit, open_data
from pldistill.launch import Interrupts
from pldistill.methods import Ramp
from pldistill.precision import resolve
from pldistill.recipe import Recipe
from pldistill.record import RunRecord, environment
from pldistill.studies import cifar
from pldistill.teachers.cache import CacheMetadata
from pldistill.training.build import assemble, make_accelerator
from pldistill.training.cache_teacher import cache_teacher
from pldistill.training.distiller import EpochMetrics
from pldistill.training.loop import Loop
from pldistill.training.optim import make_optimizer
from pldistill.training.progress import SilentCallback
from pldistill.training.run import train
from pldistill.types import Outputs

WARM_UP = 1  # rounds that do not count
VIEWS = 2  # of the teacher cache
# What each thing is compared with: its work is that, and the loop's own cost.
FLOOR = {"loop": "bare", "stored": "student"}
Work = Callable[[int], float]  # one round's work, given its number; gives its seconds


class Images(Dataset):
    """One image at a time, as torchvision's CIFAR sets give them."""

    def __init__(self, split: TensorSplit, data: Data) -> None:
        self.images = np.ascontiguousarray(split.images.permute(0, 2, 3, 1).numpy())
        self.labels = split.labels.tolist()
        flip = [transforms.RandomHorizontalFlip()] if data.hflip else []
        crop = transforms.RandomCrop(data.image_size, padding=4)
        numbers = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        self.transform = transforms.Compose([crop, *flip, *numbers])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[at])), self.labels[at]


class Plain:
    """The plain loop: models, method and optimizer of `loop`, copied."""

    def __init__(self, loop: Loop, data: Data, workers: int) -> None:
        assert isinstance(data.train, TensorSplit)
        assert loop.teacher is not None
        self.device, self.weights = loop.accelerator.device, full_weights(loop)
        self.student = _contiguous(loop.student).train()
        self.teacher = _contiguous(loop.teacher.members[0].model.model).eval()
        self.method = copy.deepcopy(loop.bare.get_submodule("method"))
        self.optimizer = make_optimizer(loop.recipe, self.student)
        self.loader = DataLoader(
            Images(data.train, data),
            batch_size=loop.recipe.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def __call__(self, number: int) -> float:
        batches = iter(self.loader)
        first = next(batches)
        began = time.perf_counter()
        for images, labels in itertools.chain([first], batches):
            self.step(images.to(self.device), labels.to(self.device))
        return time.perf_counter() - began

    def step(self, images: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            answers = self.teacher(images)
        logits = self.student(images)
        terms = self.method(Outputs(logits), Outputs(answers), labels)
        if self.weights["task"] != 0:
            terms["task"] = functional.cross_entropy(logits, labels)
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Bare:
    """The models of `loop` alone, the student copied, on the batches of its first view."""

    def __init__(self, loop: Loop, teacher: bool) -> None:
        self.accelerator = loop.accelerator
        self.teacher = loop.teacher if teacher else None
        self.student = copy.deepcopy(loop.bare.get_submodule("student")).train()
        self.batches = list(loop.loader.epoch(0))

    def __call__(self, number: int) -> float:
        _wait(self.accelerator.device)
        began = time.perf_counter()
        for batch in self.batches:
            with self.accelerator.autocast():
                if self.teacher is not None:
                    self.teacher(batch)
                logits = self.student(batch.images).logits
            functional.cross_entropy(logits.float(), batch.labels).backward()
            for weight in self.student.parameters():
                weight.grad = None
        _wait(self.accelerator.device)
        return time.perf_counter() - began


def whole(loop: Loop) -> Work:
    """An epoch of the loop, but for its validation and its checkpoint."""
    middle = loop.recipe.epochs // 2  # where no weight is on its way up

    def work(number: int) -> float:
        loop.epoch, loop.tally = middle + number, EpochMetrics(loop.accelerator.device)
        _wait(loop.accelerator.device)
        began = time.perf_counter()
        loop._train_epoch(Interrupts())
        _wait(loop.accelerator.device)
        return time.perf_counter() - began

    return work


def full_weights(loop: Loop) -> dict[str, float]:
    """The terms' weights past any ramp."""
    return {name: weight.to if isinstance(weight, Ramp) else weight for name, weight in loop.recipe.weights.items()}


def _contiguous(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":  # which works on after a call returns
        torch.cuda.synchronize()


class Quiet:
    """Looks on while the teacher cache is made, and does nothing."""

    def warn(self, message: str) -> None: ...
    def begin(self, about: CacheMetadata, done: int) -> None: ...
    def asked(self, images: int) -> None: ...
    def end(self) -> None: ...


def make_loops(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Loop], Data]:
    """Our loops by name, and their data. The teacher is trained for a few steps: an untrained one gives odd logits."""
    teacher, student = cifar.PAIRS[args.pair]
    setting = {**cifar.TABLE1.setting, "batch_size": args.batch_size, "amp": args.amp, "epochs": 1}
    setting["data"] = f"glyphs:train={args.batch_size * args.steps},val=100"
    train(Recipe(student=teacher, method="ce", **setting), out=folder / "teacher", device=args.device)
    setting |= {"epochs": 2 * (WARM_UP + args.rounds), "teacher": str(folder / "teacher"), "trust_teacher": True}
    live = Recipe(student=student, method=args.method, **setting)
    setting |= {"teacher_cache": str(folder / "store"), "views": VIEWS}
    stored = Recipe(student=student, method=args.method, **setting)
    cache_teacher(live, folder / "store", views=VIEWS, device=args.device, callback=Quiet())
    data, accelerator = open_data(live.data), make_accelerator(live.amp, args.device)
    loops = {
        what: assemble(recipe, data, RunRecord(folder / what), accelerator, workers=0, callback=SilentCallback())
        for what, recipe in (("loop", live), ("stored", stored))
    }
    return loops, data


def works(loops: Mapping[str, Loop], data: Data, workers: int) -> dict[str, Work]:
    """What is timed, by its name."""
    live = loops["loop"]
    found: dict[str, Work] = {"plain": Plain(live, data, workers)}
    found |= {"bare": Bare(live, teacher=True), "student": Bare(live, teacher=False)}
    for what, loop in loops.items():
        found[what] = whole(loop)
        loop.prepare()
    return found


def measure(timed: Mapping[str, Work], images: int, rounds: int) -> dict[str, list[float]]:
    """Images a second by round. What a round begins with changes from round to round."""
    rates: dict[str, list[float]] = {name: [] for name in timed}
    order = list(timed)
    for number in range(WARM_UP + rounds):
        order.append(order.pop(0))
        for name in order:
            seconds = timed[name](number)
            if number >= WARM_UP:
                rates[name].append(images / seconds)
    return rates


def lines(rates: Mapping[str, Sequence[float]], args: argparse.Namespace, env: Mapping[str, Any]) -> list[dict]:
    """A line for each thing that was timed: its rate, and its rate to another's of the same round."""
    found = []
    for what, each in rates.items():
        setting = {"pair": args.pair, "method": args.method, "amp": args.amp, "batch_size": args.batch_size}
        setting |= {"steps": args.steps, "rounds": args.rounds, "workers": args.workers if what == "plain" else None}
        ratios = {"to_plain": rates["plain"], "to_floor": rates.get(FLOOR.get(what, ""))}
        figures = quartiles("images_per_second", each)
        for name, other in ratios.items():
            paired = other and [mine / theirs for mine, theirs in zip(each, other, strict=True)]
            figures |= quartiles(name, paired or [])
        found.append({"what": what, "floor": FLOOR.get(what), **setting, **figures, **env})
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| what | images/s | quartiles | to plain | quartiles | to floor | quartiles |", "|---|" + "---:|" * 6]
    for line in found:
        cells = [line["what"]]
        for name, digits in (("images_per_second", 1), ("to_plain", 3), ("to_floor", 3)):
            middle, low, high = (line[name + end] for end in ("", "_q1", "_q3"))
            cells += ["", ""] if middle is None else [f"{middle:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the training loop beside a plain one and the bare models.")
    parser.add_argument("--out", type=Path, help="the CSV to add to; benchmarks/step-DEVICE.csv where not given")
    parser.add_argument("--pair", default="resnet56-resnet20", choices=cifar.PAIRS)
    parser.add_argument("--method", default="pld", choices=("kd", "dkd", "dist", "pld"))
    parser.add_argument("--rounds", type=int, default=9, help="groups of steps of each")
    parser.add_argument("--steps", type=int, default=10, help="steps in a group")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "off"), help="of all but the plain loop")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    return parsed(parser, "a group", workers=0)


def parsed(parser: argparse.ArgumentParser, steps: str, **least: int) -> argparse.Namespace:
    """Read the command line; `least` bounds further numbers than those all have, `steps` says what steps are called."""
    args = parser.parse_args()
    args.amp = resolve(args.amp, torch.device(args.device))
    for name, bound in {"rounds": 1, "steps": 1, "batch_size": 2, **least}.items():
        if getattr(args, name) < bound:
            parser.error(f"--{name.replace('_', '-')}: expected at least {bound}, got {getattr(args, name)}")
    if args.batch_size * args.steps < 100:  # the drawn characters are of as many classes
        parser.error(f"--steps: expected at least 100 images in {steps}, got {args.batch_size * args.steps}")
    return args


def main() -> None:
    args = _arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    env = environment(device=args.device, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        timed = works(*make_loops(args, Path(folder)), args.workers)
        rates = measure(timed, args.batch_size * args.steps, args.rounds)
    found = lines(rates, args, env)
    out = args.out or Path(__file__).with_name(f"step-{args.device}.csv")
    append(out, found)
    print(table(found))
    print(out)


if __name__ == "__main__":
    main()
