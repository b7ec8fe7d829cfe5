"""What distillation adds to a detector's training step: python benchmarks/detection_steps.py [--out FILE.csv]

The models and the setting are those of `pldistill reproduce table7 --scale short`, on as many scenes as one step takes;
every row's step is timed in turn, by the loop's own clock, and compared with the undistilled step of the same round.
The teacher, a larger model, is asked for its backbone, pyramid and box head on the student's RoIs.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from loader import append
from steps import TEACHER_STEPS, measure, open_loops

from pldistill.bench import quartiles
from pldistill.record import environment
from pldistill.studies import coco
from pldistill.studies.study import Plan, plan

BATCH = int(coco.SHORT.setting["batch_size"])


def lay_out(out: Path) -> Plan:
    """One run a row, whose epoch is one step."""
    few = replace(coco.SHORT, data=f"scenes:train={BATCH},val=2", teacher={"epochs": TEACHER_STEPS})
    return plan(replace(coco.TABLE7, scales={"step": few}), out=out, scale="step", seeds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a detector's training step by method.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("detection-steps-cpu.csv"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    env = environment(device="cpu", world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        took = measure(open_loops(lay_out(Path(folder))), args.rounds)
    lines = []
    for row, seconds in took.items():
        ratios = [own / plain for own, plain in zip(seconds, took["ce"], strict=True)]
        figures = {**quartiles("seconds", seconds), **quartiles("to_ce", ratios)}
        lines.append({"row": row, "batch_size": BATCH, "rounds": args.rounds, **figures, **env})
        print(f"{row:10} {1000 * statistics.median(seconds):7.1f} ms  {statistics.median(ratios):.3f} of ce")
    append(args.out, lines)
    print(args.out)


if __name__ == "__main__":
    main()
