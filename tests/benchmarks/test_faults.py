"""The campaign of faults itself: a few operations of the shortest line, each failing and killed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_a_page_is_whole_whatever_operation_fails():
    words = ["--verbs", "report", "--kinds", "full,kill", "--every", "2"]
    done = subprocess.run([sys.executable, str(FAULTS), *words], capture_output=True, text=True, timeout=600)
    assert re.fullmatch(r"report: \d+ operations, [1-9]\d* faults \(full, kill\), 0 failed\n", done.stdout)
    assert done.returncode == 0
