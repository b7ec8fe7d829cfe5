"""The cache: whole files or none, also when two write at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pldistill.files import cache_folder, write_whole


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
