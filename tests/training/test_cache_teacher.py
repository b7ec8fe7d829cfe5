"""A teacher cache is made or resumed to the same bytes, takes what it said, and is left alone once it is complete."""

import json
import os
import shutil
import signal
from collections import namedtuple

import pytest

from pldistill import launch
from pldistill.__main__ import main
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.teachers import cache
from pldistill.training import cache_teacher as caching
from pldistill.training.cache_teacher import cache_teacher
from tiny_runs import CE, Killed
from tiny_stores import SMALL, Watch, files, make, opened


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("by", "how"), [(kill, Killed), (terminate, Interrupted)])
@pytest.mark.parametrize("after", [1, 64, 140, 260])
def test_a_store_that_was_stopped_goes_on_to_the_same_bytes(store, teacher, tmp_path, monkeypatch, by, how, after):
    monkeypatch.setattr(caching, "SYNC_EVERY", 0.0)
    with pytest.raises(how):
        make(teacher, tmp_path / "store", Watch(after, by))
    with pytest.raises(ValueError, match=r"is not finished: the line of `pldistill cache` that began it goes on"):
        opened(tmp_path / "store")
    callback = Watch()
    make(teacher, tmp_path / "store", callback)
    assert callback.done == 300 - callback.seen
    assert callback.seen < 300 or after == 1
    assert callback.ended
    assert files(tmp_path / "store") == files(store)


def test_a_plug_that_is_pulled_costs_what_was_not_yet_synced(store, teacher, tmp_path):
    with pytest.raises(Killed):
        make(teacher, tmp_path / "store", Watch(140, kill))
    part = tmp_path / "store" / ".view-0001.bin.part"
    part.write_bytes(part.read_bytes() + b"torn")
    make(teacher, tmp_path / "store", callback := Watch())
    assert callback.done == 100
    assert files(tmp_path / "store") == files(store)


def test_a_header_that_says_more_than_was_written_is_not_believed(store, teacher, tmp_path):
    with pytest.raises(Killed):
        make(teacher, tmp_path / "store", Watch(140, kill))
    path = tmp_path / "store" / cache.HEADER
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "under_way": {"view-0001.bin": 90, "../other": 3}}))
    make(teacher, tmp_path / "store", callback := Watch())
    assert callback.done == 100
    assert files(tmp_path / "store") == files(store)


def test_a_store_that_is_whole_is_left_alone_and_a_damaged_file_is_made_anew(store, teacher, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    make(teacher, other, callback := Watch())
    assert (callback.done, callback.seen) == (300, 0)
    (other / "view-0001.bin").write_bytes(b"short")
    make(teacher, other, callback := Watch())
    assert callback.seen == 100
    assert files(other) == files(store)


def test_a_store_takes_what_it_said(store):
    about = cache.open_store(store)
    sizes = about.sizes()
    assert sizes == {"view-0000.bin": 20800, "view-0001.bin": 20800, "validation.bin": 20800}
    assert {name: len(content) for name, content in files(store).items() if name != cache.HEADER} == sizes


def test_a_disk_without_room_is_refused_before_anything_is_asked(teacher, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage(62399))
    with pytest.raises(ValueError, match=r"out: expected 62,400 bytes free for .*, got 62,399"):
        make(teacher, tmp_path / "store", Watch(0, kill))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"views": 3}, "expected views 3, got 2"),
        ({"places": 5}, "expected places 5, got 100"),
        ({"seed": 4}, "expected seed 4, got 0"),
        ({"amp": "bf16"}, "expected amp 'bf16', got 'off'"),
        ({"batch_size": 50}, "expected batch_size 50, got 32"),
    ],
)
def test_a_folder_of_another_store_is_refused(store, teacher, change, says):
    with pytest.raises(ValueError, match=r"holds another teacher cache") as caught:
        make(teacher, store, **change)
    assert says in str(caught.value)


def test_what_cannot_be_made_is_refused(teacher, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="expected a teacher cache that `pldistill cache` made, got"):
        make(teacher, tmp_path / "full")
    with pytest.raises(ValueError, match="top_k: expected 1 to the data's 100 classes, or all, got 101"):
        make(teacher, tmp_path / "store", places=101)
    with pytest.raises(ValueError, match="expected better than chance"):
        make(teacher, tmp_path / "store", trust_teacher=False)
    with pytest.raises(ValueError, match="teacher: expected a run folder or a model's name, got none"):
        cache_teacher(make_recipe({**CE}), tmp_path / "store", views=1, device="cpu", callback=Watch())
    monkeypatch.setattr(launch, "launched", lambda: 2)
    with pytest.raises(ValueError, match="processes: expected one to make a teacher cache, got 2"):
        make(teacher, tmp_path / "store")


# The command line


def test_the_command_line_says_the_size_and_goes_on(capsys, teacher, tmp_path):
    line = ["cache", "--data", SMALL, "--teacher", str(teacher.folder), "--trust-teacher", "--out", str(tmp_path / "s")]
    line += ["--views", "1", "--top-k", "10", "--batch-size", "50", "--workers", "0", "--device", "cpu"]
    for said in ["", "; 200 of 200 images were asked before"]:
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert "1 views of 100 images, 10 of 100 classes each (38 bytes), and 100 validation images" in shown
        assert said in shown
    for change, says in [
        (["--top-k", "many"], "top_k: expected a whole number from 1, got 'many'"),
        (["--views", "0"], "views: expected a whole number from 1, got '0'"),
        (["--temperature", "0"], "temperature: expected numbers above 0, got '0'"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main([*line, *change])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
