"""Time a training step of every method on this machine's CPU: python benchmarks/steps.py [--out FILE.csv]

The runs of `pldistill reproduce table1` are assembled as there, on drawn characters in place of CIFAR: as large, and of
as many classes. What is timed is the loop's own step, by the loop's own clock. All methods live in one process and take
turns, so that a slow moment of the machine meets every one. DKD is timed past its warm-up. The teacher is trained for a
few steps first: an untrained deep model answers with logits that no trained one gives.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from pldistill.files import write_atomically
from pldistill.launch import Interrupts
from pldistill.precision import resolve
from pldistill.record import RunRecord, environment
from pldistill.reports.render import csv_text, markdown
from pldistill.studies import cifar
from pldistill.studies.study import Plan, Scale, plan
from pldistill.studies.timetable import step_frame, steps_document
from pldistill.tasks.base import make_task
from pldistill.training.build import assemble, make_accelerator
from pldistill.training.distiller import EpochMetrics
from pldistill.training.loop import Loop
from pldistill.training.progress import SilentCallback
from pldistill.training.run import train

TEACHER_STEPS = 20
WARM_UP = 2  # rounds that do not count


def lay_out(out: Path, pair: str, rows: Sequence[str], batch_size: int, amp: str) -> Plan:
    """One run a row, on as many images as one step takes; a row's epoch is then a step."""
    few = Scale(
        setting={"batch_size": batch_size, "amp": amp},
        teacher={"epochs": TEACHER_STEPS},
        data=f"glyphs:train={batch_size},val=100",
    )
    study = replace(cifar.TABLE1, scales={"step": few})
    return plan(study, out=out, scale="step", pairs=(pair,), rows=rows, seeds=1)


def open_loops(layout: Plan) -> dict[str, Loop]:
    """A loop for each row, half-way through its run, with one teacher's weights for all."""
    (teacher,) = layout.teachers
    train(teacher.recipe, out=teacher.folder, device="cpu")
    accelerator = make_accelerator(teacher.recipe.amp, "cpu")
    dataset = make_task(teacher.recipe).open(teacher.recipe, download=False)
    loops = {}
    for cell in layout.cells:
        loop = assemble(cell.recipe, dataset, RunRecord(cell.folder), accelerator, workers=0, callback=SilentCallback())
        loop.epoch = cell.recipe.epochs // 2
        loop.prepare()
        loops[cell.row] = loop
    return loops


def seconds_of_step(loop: Loop) -> float:
    """One step, by the clock that the loop's own record is made with."""
    loop.tally = EpochMetrics(loop.accelerator.device)
    loop._train_epoch(Interrupts())
    assert loop.tally.batches == 1
    return loop.tally.seconds


def measure(loops: Mapping[str, Loop], rounds: int) -> dict[str, list[float]]:
    """Each row's seconds by round. The row that a round begins with changes from round to round."""
    seconds: dict[str, list[float]] = {row: [] for row in loops}
    order = list(loops)
    for turn in range(WARM_UP + rounds):
        order.append(order.pop(0))
        for row in order:
            took = seconds_of_step(loops[row])
            if turn >= WARM_UP:
                seconds[row].append(took)
    return seconds


def summarize(seconds: Mapping[str, Sequence[float]], layout: Plan, env: Mapping[str, object]) -> pd.DataFrame:
    """A line a row: median and quartiles of its rounds, and the median ratio to KD's step of the same round."""
    times = []
    for cell in layout.cells:
        took = seconds[cell.row]
        low, middle, high = statistics.quantiles(took, method="inclusive") if len(took) > 1 else [took[0]] * 3
        kd = seconds.get("kd")
        to_kd = statistics.median(a / b for a, b in zip(took, kd, strict=True)) if kd else None
        recipe = cell.recipe
        times.append(
            {"row": cell.row, "pair": cell.column, "batch_size": recipe.batch_size, "amp": recipe.amp}
            | {"rounds": len(took), "seconds": middle, "seconds_q1": low, "seconds_q3": high, "to_kd": to_kd}
        )
    return step_frame(times, env)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a training step of every method on this machine.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("steps-cpu.csv"), help="the CSV to write")
    parser.add_argument("--pair", default="resnet56-resnet20", choices=cifar.PAIRS)
    parser.add_argument("--methods", nargs="+", default=list(cifar.ROWS), choices=cifar.ROWS)
    parser.add_argument("--rounds", type=int, default=40, help="steps of each method")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "off"))
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    args = parser.parse_args()
    args.amp = resolve(args.amp, torch.device("cpu"))
    if args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    env = environment(device="cpu", world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        layout = lay_out(Path(folder), args.pair, args.methods, args.batch_size, args.amp)
        times = summarize(measure(open_loops(layout), args.rounds), layout, env)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, csv_text(times).encode())
    print(markdown(steps_document(times)))
    print(args.out)


if __name__ == "__main__":
    main()
