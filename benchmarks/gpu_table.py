"""One pair of the CIFAR-100 table by SGD, its runs side by side on one device: python benchmarks/gpu_table.py --out DIR

The teacher first, then the students, `--jobs` of them at a time, seed by seed. On SIGTERM every run saves its state and
the table is written as it stands; the same line goes on. `gpu.sh` calls it.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pldistill.studies import find_study
from pldistill.studies.runner import commands, write_page, write_tables
from pldistill.studies.study import Plan, plan

_LOOK = 0.5  # seconds


class Stopped(Exception):
    """SIGTERM or SIGINT came."""


def _stop(*_: object) -> None:
    raise Stopped


def side_by_side(lines: Sequence[str], jobs: int, device: str) -> list[str]:
    """Run shell lines, `jobs` at a time, in order; give those that failed. Stopped, it stops them and waits."""
    waiting, running, failed = list(lines), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                line = waiting.pop(0)
                words = line.replace("pldistill", f"{sys.executable} -m pldistill", 1) + f" --device {device}"
                running[subprocess.Popen(words, shell=True, start_new_session=True)] = line
            for process in [process for process in running if process.poll() is not None]:
                line = running.pop(process)
                if process.returncode != 0:
                    failed.append(line)
            time.sleep(_LOOK)
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut off what saves the first
        for process in running:
            subprocess.run(["pkill", "-TERM", "-g", str(process.pid)], check=False)
        for process in running:
            process.wait()
        raise
    return failed


def lay_out(args: argparse.Namespace) -> Plan:
    study = find_study("cifar100-sgd")
    given = {"pairs": [args.pair], "rows": args.methods, "seeds": args.seeds, "data": args.data}
    return plan(study, out=args.out, scale=args.scale, **given)


def main() -> None:
    parser = argparse.ArgumentParser(description="One pair of the CIFAR-100 table, runs side by side on a device.")
    parser.add_argument("--out", type=Path, required=True, help="the study's folder")
    parser.add_argument("--pair", default="resnet32x4-resnet8x4")
    parser.add_argument("--methods", nargs="+", default=["pld", "kd", "ce"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", default="full", choices=("full", "short", "smoke"))
    parser.add_argument("--data", help="cifar100:PATH")
    parser.add_argument("--jobs", type=int, default=4, help="students at a time")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    layout = lay_out(args)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    failed: list[str] = []
    try:
        teachers, students = (block.splitlines() for block in "\n".join(commands(layout)).split("\n\n", 1))
        done = {str(cell.folder) for cell in layout.runs if cell.record.finished}
        for lines, jobs in ((teachers, 1), (students, args.jobs)):
            todo = [line for line in lines if line and not any(folder in line.split() for folder in done)]
            failed += side_by_side(todo, jobs, args.device)
    except Stopped:
        print("stopped: the same line goes on", flush=True)
    comparison = write_tables(layout, args.out)
    write_page(layout, args.out, comparison)
    print((args.out / "cifar100-sgd.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
