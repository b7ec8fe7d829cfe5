"""What losses take, beside plain eager KD and the arithmetic of the paper's listing: python benchmarks/losses.py

Every loss of the library that is of logits, forward and backward, as `pldistill.bench` times them, and `listing`, our
own naive version of the listing from tests/support/reference.py. For every number of threads, dtype and shape a line a
loss is added to the CSV, with the machine, versions and commit in each; on CUDA once for the host's launches and the
kernels, once for CUDA graphs. --memory measures the memory too, --scaling adds curves: 64 rows of 10 to 100,000
classes, and 1 to 4096 rows of 1000 classes.

--figure draws the curves from the CSV alone, and times nothing:
python benchmarks/losses.py --figure [--device ..] [--dtypes ..] [--threads ..]
"""

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from loader import append
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console

from pldistill import bench, losses
from pldistill.cli.lists import losses_document
from pldistill.record import environment
from pldistill.reports.plots import PALETTE, house_style, write_figure
from pldistill.reports.render import terminal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import reference

TIMED: dict[str, bench.Loss] = {bench.LISTING: reference.listing, **bench.LOSSES}
# Timed where it is named: Inductor takes its time for each shape, and then calls the kernel as it is.
KNOWN = {**TIMED, "pld, compiled": torch.compile(losses.pld, dynamic=False)}
FEW, MANY = 64, 1000  # the rows of the curve over classes, the classes of the curve over rows
CLASSES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
ROWS = (1, 4, 16, 64, 256, 1024, 4096)
SCALING = (*((FEW, classes) for classes in CLASSES), *((rows, MANY) for rows in ROWS if rows != FEW))
DRAWN = (bench.LISTING, "pld, plain", "dkd", "dist", bench.KD, "pld")  # as many as there are colors


def measure(args: argparse.Namespace, console: Console) -> None:
    """Time every case, and add its lines at once: what is done stays where the rest is stopped."""
    cases = [
        (count, bench.Case(*shape, dtype, args.device))
        for count in args.threads
        for dtype in args.dtypes
        for shape in dict.fromkeys((*args.shapes, *(SCALING if args.scaling else ())))
    ]
    timed = {name: KNOWN[name] for name in args.losses}
    for count, case in cases:
        with bench.threads(count):
            env = environment(device=args.device, world_size=1)
            for graph in (False, True) if args.device == "cuda" else (False,):
                memory = args.memory and not graph
                found = bench.compare(timed, case, rounds=args.rounds, graph=graph, memory=memory)
                append(args.out, [{**line, **env} for line in found])
                console.print(f"{env['threads']} threads", terminal(losses_document(found)), sep="\n")


def draw(lines: Sequence[Mapping[str, str]], label: str) -> Figure:
    """Milliseconds over classes and over rows, both on logarithmic scales; the last line of each place counts."""
    panels = (
        (f"{FEW} rows", "classes", curves(lines, "classes", rows=FEW)),
        (f"{MANY} classes", "rows", curves(lines, "rows", classes=MANY)),
    )
    with house_style():
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        for ax, (title, along, found) in zip(figure.subplots(1, 2), panels, strict=True):
            for name, points in found.items():
                places = sorted(points)
                color = PALETTE[DRAWN.index(name)][0]
                ax.plot(places, [points[place] for place in places], color=color, marker=".", label=name)
            ax.set(xscale="log", yscale="log", xlabel=along, ylabel="ms", title=title)
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.yaxis.set_minor_formatter(NullFormatter())
        handles, names = ax.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(DRAWN), frameon=False)
        figure.suptitle(f"Forward and backward of a loss, {label}", fontsize="medium")
    return figure


def curves(lines: Sequence[Mapping[str, str]], along: str, **fixed: int) -> dict[str, dict[int, float]]:
    """Milliseconds by loss and place, of the lines that have the fixed rows or classes."""
    found: dict[str, dict[int, float]] = {name: {} for name in DRAWN}
    for line in lines:
        there = all(int(line[name]) == value for name, value in fixed.items())
        if there and line["what"] in found and line["seconds"]:
            found[line["what"]][int(line[along])] = 1000 * float(line["seconds"])
    return {name: points for name, points in found.items() if points}


def draw_from(path: Path, device: str, dtype: str, threads: int) -> list[Path]:
    """Draw what the CSV has of one device, dtype and number of threads; on CUDA, of graphs where a loss has one.

    Raises:
        ValueError: where it has nothing of them.
    """
    wanted = {"device": device, "dtype": dtype, "threads": str(threads)}
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if all(line[name] == value for name, value in wanted.items())]
    lines.sort(key=lambda line: line["mode"] == "graph")  # stable: a graph's time comes after, and counts
    if not lines:
        raise ValueError(f"{path}: expected lines of {device}, {dtype}, {threads} threads, got none")
    label = f"{lines[-1]['device_name']}, {dtype}, {threads} thread{'s' if threads > 1 else ''}"
    return write_figure(draw(lines, label), path.with_name(f"{path.stem}-{device}-{dtype}-{threads}"), label)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time losses beside plain KD and the paper's listing.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("losses.csv"), help="the CSV to add to")
    parser.add_argument("--shapes", type=bench.read_shape, nargs="*", default=list(bench.SHAPES), metavar="NxC")
    parser.add_argument("--scaling", action="store_true", help="also the curves over classes and rows")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=bench.DTYPES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch")
    parser.add_argument("--losses", nargs="+", default=list(TIMED), choices=KNOWN, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--memory", action="store_true", help="also the memory, of shapes of 10^6 logits")
    parser.add_argument("--figure", action="store_true", help="draw the CSV's curves, and time nothing")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    if min(args.threads) < 1:
        parser.error(f"--threads: expected at least 1, got {min(args.threads)}")
    return args


def main() -> None:
    args = _arguments()
    if args.figure:
        for dtype in args.dtypes:
            for count in args.threads:
                print(*draw_from(args.out, args.device, dtype, count))
        return
    measure(args, Console())
    print(args.out)


if __name__ == "__main__":
    main()
