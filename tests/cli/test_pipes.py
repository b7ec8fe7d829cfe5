"""Nobody reads what a run says any more: it goes on to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = "train --data digits --student resnet8 --method ce --epochs 2 --device cpu --out"


def shell(line):
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("sink", "says"), [("| head -n 1", "its reader has gone"), ("> /dev/full", "No space left on device")]
)
def test_a_run_goes_on_when_its_output_is_closed_or_full(tmp_path, sink, says):
    done = shell(f"{sys.executable} -m pldistill {TRAIN} {tmp_path / 'run'} {sink}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"pldistill: standard output: {says}; the work goes on without it\n"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 2


def test_a_list_into_a_closed_pipe_is_no_failure():
    done = shell(f"{sys.executable} -m pldistill list methods | head -n 1")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
