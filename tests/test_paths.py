"""What lies at a path is said, and the wrong one refused by the argument's name."""

import os
from pathlib import Path

import pytest

from pldistill.paths import kind_of, require_file, require_folder, require_new_or_folder


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_kinds(places):
    kinds = {"file": "a file", "folder": "a folder", "fifo": "a FIFO", "nothing": None, "dangling": None}
    assert {name: kind_of(places / name) for name in kinds} == kinds
    assert kind_of("/dev/null") == "a device"
    assert kind_of(places / "file" / "below") is None
    for odd in ("loop", "a" * 5000, "null\0byte"):
        with pytest.raises(ValueError, match="cannot be read: "):
            kind_of(places / odd)


@pytest.mark.parametrize(
    ("require", "name", "says"),
    [
        (require_file, "folder", "recipe: expected a file, got '{}', which is a folder"),
        (require_file, "fifo", "recipe: expected a file, got '{}', which is a FIFO"),
        (require_file, "nothing", "recipe: expected a file, got '{}', which does not exist"),
        (require_file, "loop", "recipe: expected a file, got '{}' cannot be read: Too many levels of symbolic links"),
        (require_folder, "file", "recipe: expected a folder, got '{}', which is a file"),
        (require_folder, "nothing", "recipe: expected a folder, got '{}', which does not exist"),
        (require_new_or_folder, "file", "recipe: expected a folder, got '{}', which is a file"),
    ],
)
def test_the_wrong_one_is_refused_by_the_argument_s_name(places, require, name, says):
    with pytest.raises(ValueError, match="recipe: expected") as error:
        require(places / name, "recipe")
    assert str(error.value) == says.format(places / name)


def test_an_address_is_no_file():
    for address in ("https://example.org/a.pth", Path("https://example.org/a.pth"), "hf-hub://a/b"):
        with pytest.raises(
            ValueError, match=r"teacher: expected a file, got the address .*://.*: nothing is downloaded here"
        ):
            require_file(address, "teacher")


def test_a_folder_to_write_in_may_be_there_or_not_but_not_below_a_file(places):
    require_new_or_folder(places / "folder", "out")
    require_new_or_folder(places / "new" / "below", "out")
    with pytest.raises(ValueError, match=r"out: expected a folder, got '.*below': '.*file', which is a file"):
        require_new_or_folder(places / "file" / "below", "out")
