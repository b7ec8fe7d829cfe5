"""The cache: whole files or none, also when two write at once."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pldistill.files import cache_folder, cached_tensors, write_whole


def test_the_folder_is_the_variable_s_or_the_home_s(monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("PLDISTILL_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "pldistill"


def test_a_failed_write_leaves_neither_file_nor_rest(tmp_path):
    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_two_writers_never_show_a_mixture(tmp_path):
    path = tmp_path / "below" / "x"

    def fill(letter: str) -> None:
        for _ in range(200):
            write_whole(path, lambda temporary: temporary.write_text(letter * 100_000))
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(fill, letter) for letter in "ab"]:
            done.result()
    assert [file.name for file in path.parent.iterdir()] == ["x"]


_FULL = """
import resource, sys, pathlib, torch
from pldistill.files import cached_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    cached_tensors(pathlib.Path(sys.argv[1]), lambda: {"x": torch.zeros(100_000)})
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_device_s_error_is_told_as_one_and_leaves_nothing(tmp_path):
    """safetensors raises an error of its own, which is no OSError and would end a study as if it were a bug of ours."""
    import errno

    file = tmp_path / "cache" / "tensors.safetensors"
    done = subprocess.run([sys.executable, "-c", _FULL, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{errno.EFBIG} {file}\n"
    assert list(file.parent.iterdir()) == []


def test_tensors_are_made_once_and_a_damaged_file_is_named(tmp_path):
    file, made = tmp_path / "tensors.safetensors", []

    def make():
        made.append(1)
        return {"x": torch.arange(5)}

    for _ in range(2):
        assert cached_tensors(file, make)["x"].tolist() == [0, 1, 2, 3, 4]
    assert len(made) == 1
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"tensors\.safetensors: damaged"):
        cached_tensors(file, make)
