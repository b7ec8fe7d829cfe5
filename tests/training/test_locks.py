"""A folder is one process's: two at once are refused, a dead one is forgotten, and rows of two runs are not mixed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import pldistill
from pldistill.files import HOLDER, LOCK, held, is_new, refuse_held
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from pldistill.studies import find_study
from pldistill.studies.runner import reproduce
from pldistill.studies.study import plan
from pldistill.training.progress import StudyProgress
from tiny_runs import CE, assert_same_run, distill, rows
from tiny_stores import make

HOLDS = "import sys, time; from pathlib import Path; from pldistill.files import held\n"
HOLDS += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
USED = r"out: '.*' is in use by process \d+ on \S+"


class Holder:
    """A process that holds a folder."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + HOLDS, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    one = Holder(tmp_path / "run")
    yield one
    one.kill()


def line(recipe, folder: Path, out: Path) -> list[str]:
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()))
    words = ["train", "--recipe", str(path), "--device", "cpu", "--resume", "--out", str(out)]
    return [sys.executable, "-m", "pldistill", *words]


def test_a_second_process_is_refused_and_goes_on_when_the_first_is_killed(tmp_path):
    recipe, out = make_recipe({**CE, "epochs": 60}), tmp_path / "run"
    command = line(recipe, tmp_path, out)
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(RunRecord(out).epochs()) < 2:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"pldistill: out: '{out}' is in use by process {first.pid} on " in second.stderr
    first.kill()
    first.wait()
    assert (out / HOLDER).is_file()  # it had no time to tidy up
    done = len(RunRecord(out).epochs())
    third = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(RunRecord(out).epochs()) <= done:
        assert third.poll() is None
        time.sleep(0.02)
    third.send_signal(signal.SIGTERM)
    assert third.wait() == 128 + signal.SIGTERM
    assert [row["epoch"] for row in rows(out)] == [*range(1, len(rows(out)) + 1)]
    assert not {LOCK, HOLDER} & {path.name for path in out.iterdir()}


def test_of_several_that_start_at_once_one_makes_the_run(tmp_path):
    recipe, out = make_recipe({**CE, "epochs": 2}), tmp_path / "run"
    command = line(recipe, tmp_path, out)
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=600) for process in started]
    codes = [process.returncode for process in started]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    for (spoken, wrong), code in zip(said, codes, strict=True):
        assert ("finished" in spoken) if code == 0 else ("is in use by" in wrong and wrong.count("\n") == 1)
    pldistill.train(recipe, out=tmp_path / "alone", device="cpu")
    assert_same_run(tmp_path / "alone", out)


def test_every_verb_that_writes_a_folder_is_refused_while_another_has_it(teacher, tmp_path, holder):
    out = tmp_path / "run"
    recipe = distill(teacher, epochs=1)
    for resume in (False, True):
        with pytest.raises(ValueError, match=USED):
            pldistill.train(recipe, out=out, resume=resume, device="cpu")
    with pytest.raises(ValueError, match=USED):
        make(teacher, out)
    layout = plan(find_study("cifar100-sgd"), out=out, scale="smoke")
    with pytest.raises(ValueError, match=USED):
        reproduce(layout, out, callback=StudyProgress(Console(quiet=True)))
    assert {path.name for path in out.iterdir()} == {LOCK, HOLDER}
    with pytest.raises(ValueError, match=USED):
        refuse_held(out)


def test_a_lock_ends_with_its_process(tmp_path, holder):
    out = tmp_path / "run"
    holder.kill()
    assert json.loads((out / HOLDER).read_text())["pid"] == holder.process.pid
    assert is_new(out)
    refuse_held(out)
    with held(out):
        assert json.loads((out / HOLDER).read_text())["pid"] == os.getpid()
    assert not list(out.iterdir())


FORKS = "import os, sys, time; from pathlib import Path; from pldistill.files import held\n"
FORKS += "with held(Path(sys.argv[1])):\n    if os.fork() == 0: time.sleep(3); os._exit(0)\n"
FORKS += "    print('held', flush=True); time.sleep(600)"


def test_a_child_of_a_dead_process_is_waited_for(tmp_path, monkeypatch):
    """A worker that reads images notices after seconds that its parent was killed; until then it may have the lock."""
    monkeypatch.setattr(sys.modules[__name__], "HOLDS", FORKS)
    one = Holder(tmp_path / "run")
    one.kill()
    with held(tmp_path / "run"):
        pass


def test_a_folder_that_was_made_for_nothing_goes(tmp_path):
    with held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with held(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_several_processes_hold_a_folder_together_and_the_first_speaks(tmp_path, holder):
    command = line(make_recipe({**CE, "epochs": 1}), tmp_path, tmp_path / "run")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pldistill"]
    done = subprocess.run(
        [sys.executable, *launcher, *command[3:]],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("is in use by process") == 1


def test_rows_that_do_not_count_from_one_are_refused_by_name(tmp_path):
    run = RunRecord(tmp_path)
    for epoch in (1, 2, 2):
        run.append_epoch({"epoch": epoch, "seconds": 1.0, "images_per_second": 1.0})
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3: expected the row of epoch 3, got that of 2"):
        run.epochs()


def test_a_run_whose_rows_are_mixed_does_not_go_on(teacher, tmp_path):
    run = pldistill.train(distill(teacher, epochs=2), out=tmp_path / "run", device="cpu")
    (run.folder / "result.json").unlink()
    path = run.folder / "metrics.jsonl"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=r"line 1: expected the row of epoch 1, got that of 2"):
        pldistill.train(run.recipe, out=run.folder, resume=True, device="cpu")


def _without(number: str) -> str:
    """Lines after which `flock` fails as on a file system that has none."""
    return (
        "import errno, fcntl, os\n"
        "def flock(fd, how):\n"
        f"    raise OSError(errno.{number}, os.strerror(errno.{number}))\n"
        "fcntl.flock = flock\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
def test_a_file_system_that_does_not_know_flock_is_locked_all_the_same(tmp_path):
    folder, line = tmp_path / "run", [sys.executable, "-c", _without("ENOSYS") + HOLDS, str(tmp_path / "run")]
    first = Holder(folder, _without("ENOSYS"))
    second = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert re.search(f"ValueError: {USED}", second.stderr)
    first.kill()
    Holder(folder, _without("ENOSYS")).kill()  # what a dead process left is no lock


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_named(tmp_path, number):
    line = [sys.executable, "-c", _without(number) + HOLDS, str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert re.search(r"ValueError: out: '.*run' lies on a file system without locks \(.+\)", done.stderr)
    assert not done.stdout
