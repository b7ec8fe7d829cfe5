"""The GPU's benchmark in miniature on the CPU; what is cut off is saved and gone on with."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import pytest

from places import ROOT


def run(out, *words):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    line = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(out), *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def test_in_smoke_every_part_leaves_its_file(tmp_path):
    done = run(tmp_path, "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "environment.json").read_text())["device"] == "cpu"
    assert re.search(r"passed|skipped", (tmp_path / "tests.txt").read_text())
    assert "pld" in (tmp_path / "losses.csv").read_text()
    table = (tmp_path / "table" / "cifar100-sgd.md").read_text()
    assert "| pld | 70.28" in table
    assert "not run" not in done.stdout.splitlines()[-1]
    results = list((tmp_path / "table").glob("cells/*/*/result.json"))
    assert len(results) == 2


@pytest.mark.parametrize(("words", "says"), [(["--fast"], "unknown argument --fast"), (["--data"], "cifar100:PATH")])
def test_what_it_does_not_know_is_refused(tmp_path, words, says):
    done = run(tmp_path, *words)
    assert done.returncode != 0
    assert says in done.stderr


def test_what_is_stopped_is_asked_to_save_and_waited_for(tmp_path):
    """A child that takes a second to save after SIGTERM has saved when the table's driver ends."""
    child = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        f"    open({str(tmp_path / 'saved')!r}, 'w').close()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "child.py").write_text(child)
    driver = (
        "import runpy, signal\n"
        f"own = runpy.run_path({str(ROOT / 'benchmarks' / 'gpu_table.py')!r})\n"
        "signal.signal(signal.SIGTERM, own['_stop'])\n"
        "try:\n"
        f"    own['side_by_side']([{f'{sys.executable} {tmp_path}/child.py'!r}], 2, 'cpu')\n"
        "except own['Stopped']:\n"
        "    print('stopped')\n"
    )
    started = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    until = time.monotonic() + 600
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=600)[0].strip() == "stopped"
    assert (tmp_path / "saved").exists()


def test_a_line_that_fails_is_named():
    own = runpy.run_path(str(ROOT / "benchmarks" / "gpu_table.py"))
    assert own["side_by_side"](["true", "false"], 2, "cpu") == ["false"]
