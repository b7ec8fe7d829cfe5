"""Images a second of the loader beside those of a training step: python benchmarks/loader.py [--out FILE.csv]

JPEG files of ImageNet's usual size are drawn, then read, cut, resized and mirrored as in training, by each number of
workers. Three things are timed in turn, so that a slow moment of the machine meets all of them: the loader alone, the
step alone (student forward, backward, SGD, on a batch that is there already), and both, a step on each batch that the
loader gives. Where both is near the smaller of the two, nothing between them is in the way; where it is near the step,
the loader is no bottleneck. On a CPU workers and step share the cores, so both is less than either. The method is `ce`,
whose step is the shortest: with a teacher beside it the loader has more time.

Lines are added to the CSV, with the machine, versions and commit in each.
"""

import argparse
import csv
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pldistill import models
from pldistill.data import Augment, FolderSplit, Loader, make_loader
from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.files import write_atomically
from pldistill.methods import METHODS
from pldistill.models import NormalizedModel
from pldistill.precision import resolve
from pldistill.record import environment
from pldistill.tasks.classification.task import Classification
from pldistill.training.distiller import Distiller
from pldistill.types import Batch

CLASSES = 1000
WARM_UP = 1  # rounds that do not count
Work = Callable[[int], None]  # one round's work, given its number


def draw_images(folder: Path, count: int, width: int, height: int) -> FolderSplit:
    """JPEGs of colored patches under fine noise: at 500 x 375 about 104 KB, near the mean of ImageNet."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        patches = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels = smooth + generator.normal(0, 21, smooth.shape)
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return FolderSplit([str(path) for path in paths], torch.arange(count) % CLASSES)


def make_step(args: argparse.Namespace, device: torch.device) -> Callable[[Batch], None]:
    """One step of the student on a batch, as the loop takes it."""
    bare = models.build(args.student, num_classes=CLASSES, image_size=args.image_size)
    model = NormalizedModel(bare, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    distiller = Distiller(model, METHODS["ce"].build(), Classification()).train()
    distiller.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3, momentum=0.9)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp == "bf16"):
            loss = distiller(batch, None, {"task": 1.0}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def works(args: argparse.Namespace, split: FolderSplit, device: torch.device) -> dict[tuple[str, int | None], Work]:
    """What is timed, by its name and its number of workers."""
    step = make_step(args, device)
    loader = partial(
        make_loader,
        split,
        batch_size=args.batch_size,
        image_size=args.image_size,
        augment=Augment("resized"),
        seed=0,
        shuffle=True,
        device=device,
    )
    loaders = {workers: loader(workers=workers) for workers in args.workers}
    ready = next(loader().epoch(0))
    again = [ready] * (len(split) // args.batch_size)
    return {
        **{("loader", workers): partial(_show, lambda batch: None, made) for workers, made in loaders.items()},
        ("step", None): lambda number: _each(step, again),
        **{("both", workers): partial(_show, step, made) for workers, made in loaders.items()},
    }


def _show(use: Callable[[Batch], None], loader: Loader, number: int) -> None:
    _each(use, loader.epoch(number))


def _each(use: Callable[[Batch], None], batches: Iterable[Batch]) -> None:
    for batch in batches:
        use(batch)


def measure(timed: Mapping[Any, Work], images: int, rounds: int, device: torch.device) -> dict[Any, list[float]]:
    """Images a second by round. What a round begins with changes from round to round."""
    rates: dict[Any, list[float]] = {name: [] for name in timed}
    order = list(timed)
    for number in range(WARM_UP + rounds):
        order.append(order.pop(0))
        for name in order:
            began = time.perf_counter()
            timed[name](number)
            if device.type == "cuda":  # which works on after a call returns
                torch.cuda.synchronize()
            if number >= WARM_UP:
                rates[name].append(images / (time.perf_counter() - began))
    return rates


def lines(rates: Mapping[Any, Sequence[float]], args: argparse.Namespace, env: Mapping[str, Any]) -> list[dict]:
    """A line for each thing that was timed: median and quartiles over the rounds."""
    found = []
    for (what, workers), each in rates.items():
        low, middle, high = statistics.quantiles(each, method="inclusive") if len(each) > 1 else [each[0]] * 3
        setting = {"student": args.student, "image": "x".join(map(str, args.image)), "amp": args.amp}
        setting |= {name: getattr(args, name) for name in ("image_size", "batch_size", "images", "rounds")}
        figures = {"images_per_second": middle, "q1": low, "q3": high}
        found.append({"what": what, "workers": workers, **setting, **figures, **env})
    return found


def append(path: Path, added: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a CSV, or begin one.

    Raises:
        ValueError: the file that is there has other columns.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    columns = list(added[0])
    found = next(csv.reader(io.StringIO(before)), columns)
    if found != columns:
        raise ValueError(f"{path}: expected the columns {', '.join(columns)}, got {', '.join(found)}")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    if not before:
        writer.writeheader()
    writer.writerows(added)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (before + out.getvalue()).encode())


def table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = ["| what | workers | images/s | quartiles |", "|---|---:|---:|---:|"]
    for line in found:
        workers = "" if line["workers"] is None else line["workers"]
        quartiles = f"{line['q1']:.1f} to {line['q3']:.1f}"
        rows.append(f"| {line['what']} | {workers} | {line['images_per_second']:.1f} | {quartiles} |")
    return "\n".join(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the loader beside a training step on this machine.")
    parser.add_argument("--out", type=Path, help="the CSV to add to; benchmarks/loader-DEVICE.csv where not given")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--image", type=int, nargs=2, default=[500, 375], help="width and height of the files")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=256, help="in a round; a multiple of the batch size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "off"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    args = parser.parse_args()
    args.amp = resolve(args.amp, torch.device(args.device))
    if args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    if args.batch_size < 2 or args.images < 1 or args.images % args.batch_size:
        parser.error(f"--images: expected a multiple of {args.batch_size}, at least 2 a batch, got {args.images}")
    return args


def main() -> None:
    args = _arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    env = environment(device=device, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        split = draw_images(Path(folder), args.images, *args.image)
        rates = measure(works(args, split, device), args.images, args.rounds, device)
    found = lines(rates, args, env)
    out = args.out or Path(__file__).with_name(f"loader-{args.device}.csv")
    append(out, found)
    print(table(found))
    print(out)


if __name__ == "__main__":
    main()
