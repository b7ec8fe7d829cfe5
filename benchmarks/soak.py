"""Campaigns against runs, with counts: python benchmarks/soak.py [--kills N] [--flips N] [--lines N] [--minutes N]

Kills: a tiny run is killed with SIGKILL at random moments, and the same line repeated until it ends; weights and rows
are compared with those of a run that nothing disturbed. Flips: one random bit of a random file of a finished run;
`evaluate` must refuse it by the file's name, or print what it printed before. Lines: random words after `pldistill`;
each must end with 0 or 2 and without a traceback. Minutes: a student is distilled from a teacher on a folder of JPEG
files, with workers, checkpoints and many short epochs; memory, open handles and threads of all its processes are read
from /proc every few seconds, and what the last third of the time holds may not be above the middle third by more than
`GROWTH`. The exit code is 1 where one campaign counts a failure.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import pldistill
from pldistill.recipe import Recipe

HELPER = Path(__file__).resolve().parents[1] / "tests" / "support" / "killed_runs.py"
FIELDS = {
    "data": "glyphs:train=100,val=100",
    "student": "resnet8",
    "method": "ce",
    "epochs": 4,
    "batch_size": 16,
    "image_size": 16,
    "lr": 1e-3,
    "optimizer": "adamw",
}
WORDS = [
    "nan",
    "1e308",
    "-1",
    "0",
    "",
    "[red]",
    "glyphs",
    "ce",
    "pld",
    "resnet8",
    "x" * 5000,
    "\x1b[2J",
    "a=b",
    "@",
    "é",
]


GROWTH = {"MB": 0.03, "handles": 0.0, "threads": 0.0}  # a share of the middle third's value


def command(*words: str, place: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with `place` for its working directory."""
    line = [sys.executable, "-m", "pldistill", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=900, cwd=place)


def kills(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Kills made, and runs that ended otherwise than the undisturbed one."""
    made = failed = 0
    line = ["train", "--recipe", str(folder / "recipe.json"), "--resume", "--device", "cpu", "--checkpoint-steps", "1"]
    while made < count:
        seed += 1
        out = folder / f"killed-{seed}"
        words = [str(HELPER), str(seed), "8", "0.6", "--", *line, "--out", str(out)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=3600)
        made += int(done.stdout.split()[-2]) if done.returncode == 0 else 1
        failed += done.returncode != 0 or not same(folder / "whole", out)
        shutil.rmtree(out, ignore_errors=True)
    return made, failed


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same weights, and the same rows but for the time they took."""
    for name in ("model.safetensors", "best/model.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return False
    rows = []
    for folder in (one, other):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows.append([{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in lines])
    return rows[0] == rows[1]


def flips(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Bits flipped, and of these what was neither refused by name nor harmless."""
    draws, failed = random.Random(seed), 0
    expected = command("evaluate", str(folder / "whole"), "--device", "cpu").stdout
    for number in range(count):
        copy = folder / f"flipped-{number}"
        shutil.copytree(folder / "whole", copy)
        file = draws.choice(sorted(path for path in copy.iterdir() if path.is_file() and path.stat().st_size))
        content = bytearray(file.read_bytes())
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        file.write_bytes(content)
        done = command("evaluate", str(copy), "--device", "cpu")
        refused = done.returncode == 2 and file.name in done.stderr and "Traceback" not in done.stderr
        failed += not (refused or (done.returncode == 0 and done.stdout == expected))
        shutil.rmtree(copy)
    return count, failed


def lines(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Command lines tried, and of these what ended in a traceback or with another code than 0 and 2."""
    draws, failed = random.Random(seed), 0
    flags = [f"--{name.replace('_', '-')}" for name in Recipe.model_fields]
    for _ in range(count):
        verb = draws.choice(["train", "evaluate", "predict", "report", "cache", "list", "landscape", "bench"])
        words = [draws.choice(flags + WORDS) if draws.random() < 0.8 else draws.choice(WORDS) for _ in range(4)]
        done = command(verb, *words, place=folder)
        bad = done.returncode not in (0, 2) or "Traceback" in done.stderr or len(done.stderr.splitlines()) > 1
        if bad:
            print(f"failed: {[verb, *words]!r}: {done.returncode} {done.stderr[-300:]!r}")
        failed += bad
    return count, failed


def held(root: int) -> dict[str, float] | None:
    """Memory that a process and all below it hold for themselves, in MB, their open handles and threads (Linux)."""
    family, total = [root], dict.fromkeys(GROWTH, 0.0)
    try:
        for process in family:
            for task in Path(f"/proc/{process}/task").iterdir():
                family += map(int, (task / "children").read_text().split())
            total["threads"] += sum(1 for _ in Path(f"/proc/{process}/task").iterdir())
            total["handles"] += sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total["MB"] += sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024
    except (FileNotFoundError, ProcessLookupError):
        return None  # a process ended while it was read
    return total


def flat(folder: Path, minutes: float, seed: int) -> tuple[int, int]:
    """Samples taken of a long run, and how many of the three grew, or 1 where the run did not end as it should."""
    draws = np.random.default_rng(seed)
    for part, count in (("train", 100), ("val", 20)):
        for shade, name in enumerate(("a", "b", "c", "d")):
            place = folder / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(60 * shade, 60 * shade + 60, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.jpg")
    common = {**FIELDS, "data": f"folder:{folder / 'images'}", "image_size": 32}
    pldistill.train(pldistill.make_recipe({**common, "epochs": 5}), out=folder / "teacher", device="cpu")
    student = {**common, "epochs": 1_000_000, "method": "pld", "teacher": str(folder / "teacher")}
    (folder / "long.json").write_text(json.dumps(pldistill.make_recipe(student).to_dict()), encoding="utf-8")
    words = ["--recipe", str(folder / "long.json"), "--out", str(folder / "long"), "--device", "cpu"]
    words += ["--workers", "2", "--checkpoint-minutes", "1"]
    samples: list[dict[str, float]] = []
    with (folder / "long.txt").open("wb") as told:
        run = subprocess.Popen([sys.executable, "-m", "pldistill", "train", *words], stdout=told, stderr=told)
        end = time.monotonic() + 60 * minutes
        while run.poll() is None and time.monotonic() < end:
            time.sleep(5)
            samples += [sample for sample in [held(run.pid)] if sample is not None]
        run.send_signal(signal.SIGINT)
        code = run.wait(300)
    if code != 130 or len(samples) < 9:
        print(f"failed: {len(samples)} samples, exit code {code}: {(folder / 'long.txt').read_text()[-500:]!r}")
        return len(samples), 1
    third = len(samples) // 3
    failed = 0
    for name, share in GROWTH.items():
        values = [sample[name] for sample in samples]
        first, middle, last = (float(np.median(values[k * third : (k + 1) * third])) for k in range(3))
        rows = (folder / "long" / "metrics.jsonl").read_text().count("\n")
        print(f"{name}: {first:.1f}, {middle:.1f}, {last:.1f} by thirds of {minutes:g} minutes, {rows} epochs")
        failed += last > max(first, middle) * (1 + share)
    return len(samples), failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 200), ("flips", 100), ("lines", 200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--minutes", type=float, default=60, metavar="N")
    args = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe = pldistill.make_recipe(FIELDS)
        (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
        pldistill.train(recipe, out=folder / "whole", device="cpu")
        for name, campaign in (
            ("kills", lambda: kills(folder, args.kills, args.seed)),
            ("flips", lambda: flips(folder, args.flips, args.seed)),
            ("lines", lambda: lines(folder, args.lines, args.seed)),
            ("minutes", lambda: flat(folder, args.minutes, args.seed) if args.minutes else (0, 0)),
        ):
            tried, failed = campaign()
            print(f"{name}: {tried} tried, {failed} failed", flush=True)
            failures += failed
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
