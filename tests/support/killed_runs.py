"""Repeats one line of the command line, each time in a child that is killed at a random moment, until it ends.

    python killed_runs.py SEED KILLS MOST_SECONDS -- train ... --resume --out FOLDER

Prints the number of kills, and how many of them found a folder without a checkpoint. All is imported once, so that the
moments fall into the run.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pldistill.training.run  # noqa: F401
from pldistill.__main__ import main


def child(line: list[str]) -> int:
    """Start the line in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            main(line)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def run(seed: int, kills: int, most: float, line: list[str]) -> None:
    """Kill `kills` times at most, then let the line end."""
    moments, out = random.Random(seed), Path(line[line.index("--out") + 1])
    early = made = 0
    while True:
        pid = child(line)
        deadline = time.monotonic() + (moments.uniform(0, most) if made < kills else 600)
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.002)
        if ended == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            made, early = made + 1, early + (not (out / "checkpoint" / "index.json").exists())
            if made <= kills:
                continue
        code = os.waitstatus_to_exitcode(ended[1])
        print(made, early)
        sys.exit(code)


if __name__ == "__main__":
    cut = sys.argv.index("--")
    run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[cut + 1 :])
