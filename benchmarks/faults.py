"""A fault at every file operation: python benchmarks/faults.py [--verbs train,cache,...] [--kinds ...] [--every N]

The k-th operation of a line that would change a file fails (a disk without room for once or from then on, an error of
the device, half a write and then no room), or kills the process; k goes over all of them. Each time the line must end
in one plain line or not at all, and the same line, once more, must leave what an undisturbed one leaves: the same
weights, rows, figures and pages. Needs Linux and a C compiler: faults.c is loaded before all else.

The exit code is 1 where a line failed. `--every 7` tries every seventh operation, beginning at a random one.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = {"none": 0, "enospc": 1, "eio": 2, "short": 3, "full": 4, "kill": 5}
VERBS = ("train", "cache", "report", "reproduce")
ASIDE = ("env.json", ".lock", ".holder.json")
TIMES = {"seconds", "images_per_second", "sha256", "minutes"}


def make_images(root: Path) -> None:
    """Two classes of twelve images to train on and four to validate, 8 pixels a side."""
    import numpy as np
    from PIL import Image

    for part, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("ant", "bee")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(100 * label + number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


def lines(inputs: Path, out: Path) -> dict[str, list[str]]:
    """The line of each verb, which writes below `out` alone."""
    few = ["--data", f"folder:{inputs / 'images'}", "--batch-size", "8", "--device", "cpu", "--workers", "0"]
    student = [*few, "--student", "resnet8", "--epochs", "2", "--method", "pld", "--checkpoint-steps", "1"]
    teacher = ["--teacher", str(inputs / "teacher"), "--trust-teacher"]
    pair = ["--scale", "smoke", "--pairs", "resnet56-resnet20", "--methods", "kd", "--device", "cpu"]
    return {
        "train": ["train", *student, *teacher, "--resume", "--out", f"{out}/run"],
        "cache": ["cache", *few, *teacher, "--views", "2", "--out", f"{out}/cache"],
        "report": ["report", str(inputs / "teacher"), str(inputs / "student"), "--out", f"{out}/pages/page.html"],
        "reproduce": ["reproduce", "cifar100-sgd", *pair, "--out", f"{out}/study"],
    }  # fmt: skip


def run(line: list[str], root: Path, number: int, kind: str, log: Path) -> tuple[int, int]:
    """The line in a child, whose `number`-th operation below `root` goes wrong: its exit code, and the operations."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        shim = ctypes.CDLL(None)
        with log.open("wb") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        try:
            from pldistill.__main__ import main

            os.environ["PLDISTILL_CACHE"] = str(root / "cache-folder")
            shim.faults_arm(str(root).encode(), ctypes.c_long(number), KINDS[kind])
            main(line)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(writer, str(shim.faults_count()).encode())
            os._exit(code)
    os.close(writer)
    deadline = time.monotonic() + 300
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            raise TimeoutError(f"{line} did not end: operation {number}, {kind}")
        time.sleep(0.005)
    counted = os.read(reader, 32)
    os.close(reader)
    return os.waitstatus_to_exitcode(ended[1]), int(counted or 0)


def content(out: Path) -> dict[str, Any]:
    """What lies below `out` as far as a line decides it: digests by path, and of our JSON what is not a time.

    The files of a lock whose process is dead hold nobody up, and what a run was resumed in is told by env.json.
    """
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        parts = path.relative_to(out).parts
        if path.is_dir() or "cache-folder" in parts or "checkpoint" in parts or path.name in ASIDE:
            continue
        if path.suffix in (".json", ".jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
            found[name] = _without_times(json.loads(path.read_text()) if rows is None else rows)
        elif path.suffix in (".md", ".csv", ".html") and parts[0] == "study":
            found[name] = "a page with times in it"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def campaign(verb: str, kinds: list[str], every: int, seed: int, place: Path) -> tuple[int, int]:
    """Faults tried in a verb's line, and how many of them ended wrongly."""
    inputs, log = place / "inputs", place / "log"

    def fresh(name: str) -> Path:
        out = place / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    whole = fresh("trial")  # the same place for all, as pages and records name it
    code, operations = run(lines(inputs, whole)[verb], whole, 0, "none", log)
    if code != 0:
        raise SystemExit(f"{verb}: the undisturbed line ended with {code}: {log.read_text()[-2000:]}")
    expected = content(whole)
    tried = failed = 0
    draws = random.Random(seed)
    for kind in kinds:
        for number in range(1 + draws.randrange(every), operations + 1, every):
            out = fresh("trial")
            line = lines(inputs, out)[verb]
            code, _ = run(line, out, number, kind, log)
            said = log.read_text(errors="replace")
            again, _ = run(line, out, 0, "none", place / "again")
            tried += 1
            wrong = []
            if kind == "kill":
                wrong += [] if code in (-9, 0) else [f"ended with {code} in place of a kill"]
            elif code not in (0, 1, 2) or "Traceback" in said:
                wrong.append(f"ended with {code}: {said.strip()[-600:]}")
            if again != 0:
                wrong.append(f"the same line ended with {again}: {(place / 'again').read_text()[-600:].strip()}")
            elif (found := content(out)) != expected:
                names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
                wrong.append(f"the same line left other files: {', '.join(names)}")
            if wrong:
                failed += 1
                print(f"failed: {verb}, {kind} at operation {number} of {operations}: {'; '.join(wrong)}", flush=True)
    print(f"{verb}: {operations} operations, {tried} faults ({', '.join(kinds)}), {failed} failed", flush=True)
    return tried, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--kinds", default=",".join([*KINDS][1:]))
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as place:
            shim, source = Path(place) / "faults.so", Path(__file__).with_name("faults.c")
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
            env = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=env).returncode)

    import pldistill.reports.html
    import pldistill.studies.runner
    import pldistill.training.cache_teacher
    import pldistill.training.run

    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        inputs = place / "inputs"
        make_images(inputs / "images")
        os.environ["PLDISTILL_CACHE"] = str(place / "first-cache")
        fields = {"data": f"folder:{inputs / 'images'}", "method": "ce", "epochs": 1, "batch_size": 8}
        for folder, student in (("teacher", "resnet8x4"), ("student", "resnet8")):
            recipe = pldistill.make_recipe({**fields, "student": student})
            pldistill.train(recipe, out=inputs / folder, device="cpu", workers=0)
        counts = [campaign(verb, args.kinds.split(","), args.every, args.seed, place) for verb in args.verbs.split(",")]
    sys.exit(1 if any(failed for _, failed in counts) else 0)


if __name__ == "__main__":
    main()
