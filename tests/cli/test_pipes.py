"""Nobody reads what a run says any more: it goes on to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pldistill.training.run import load_run

TRAIN = "train --data digits --student resnet8 --method ce --epochs 2 --device cpu --out"
TINY = "train --data glyphs:train=100,val=100 --student resnet8 --method ce --epochs 1 --device cpu --out"


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


VERBS = [
    "--help",
    "train --help",
    "list methods",
    "list studies",
    "list recipe",
    "train --data ✗ --student x --method ce",
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_lacks_letters_is_no_failure(verb, encoding):
    """Each in a process of its own, for Python chooses a stream's encoding when it begins."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    line = [sys.executable, "-m", "pldistill", *verb.split()]
    done = subprocess.run(line, capture_output=True, env=env, timeout=600)
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if "✗" in verb else 0)
    assert (done.stdout + done.stderr).decode(encoding)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verb", ["--help", "list methods", "evaluate nowhere"])
def test_a_stream_that_is_closed_is_no_failure(verb, closed):
    done = shell(f"{sys.executable} -m pldistill {verb} {closed}")
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if verb.endswith("nowhere") else 0)


def test_no_file_of_a_run_gets_the_number_of_a_closed_stream(tmp_path):
    done = shell(f"{sys.executable} -m pldistill {TINY} {tmp_path / 'run'} <&- >&- 2>&-")
    assert done.returncode == 0
    assert load_run(tmp_path / "run").result["epochs"] == 1


def test_a_run_without_a_home_and_with_ascii_alone(tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "PLDISTILL_CACHE")}
    env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PLDISTILL_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "Bäume"
    for words in ([*TINY.split(), str(out)], ["report", str(out), "--out", str(tmp_path / "é.html")]):
        done = subprocess.run([sys.executable, "-m", "pldistill", *words], capture_output=True, env=env, timeout=600)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout.decode("ascii")


def test_a_list_into_a_closed_pipe_is_no_failure():
    done = shell(f"{sys.executable} -m pldistill list methods | head -n 1")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
