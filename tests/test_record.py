"""The run record: what is written comes back, and survives what power cuts do to files."""

import json
import math
import os
import subprocess
import time
from pathlib import Path

import pytest

from bad_json import NO_OBJECTS
from pldistill import record
from pldistill.files import write_atomically
from pldistill.record import RunRecord, environment, find_runs, load_run


def row(epoch: int, loss: float = 1.5) -> dict:
    terms = {"task": {"raw": loss, "weighted": loss}}
    return {"epoch": epoch, "loss": loss, "terms": terms, "top5": None, "seconds": 1.0, "images_per_second": 9.0}


def test_what_is_written_comes_back(tmp_path):
    run = RunRecord(tmp_path / "new" / "run")
    assert not run.folder.exists()
    recipe = {"data": "folder:/tmp/Bäume", "options": {"temperature": 4.0}, "seed": 0, "teacher": None}
    run.write_recipe(recipe)
    environment = {"torch": "2.4", "dirty": False, "world_size": 1, "teacher_sha256": None}
    run.write_environment(environment)
    for epoch in (1, 2, 3):
        run.append_epoch(row(epoch))
    assert not run.finished
    assert run.read_result() is None
    result = {"top1_last": 71.25, "top1_best": 72.0, "best_epoch": 2, "seconds": 3.0}
    run.write_result(result)

    again = load_run(run.folder)
    assert again.read_recipe() == recipe
    assert again.read_environment() == environment
    assert again.epochs() == [row(1), row(2), row(3)]
    assert again.finished
    assert again.read_result() == result
    assert sorted(p.name for p in run.folder.iterdir()) == ["env.json", "metrics.jsonl", "recipe.json", "result.json"]


def test_keys_keep_their_order(tmp_path):
    run = RunRecord(tmp_path)
    run.write_recipe({"student": "resnet20", "data": "digits", "a": 1})
    assert list(run.read_recipe()) == ["student", "data", "a"]


def test_a_file_name_that_is_not_utf8_comes_back(tmp_path):
    name = os.fsdecode(b"folder:/tmp/\xff")
    RunRecord(tmp_path).write_recipe({"data": name})
    assert RunRecord(tmp_path).read_recipe() == {"data": name}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_null(tmp_path, value):
    run = RunRecord(tmp_path)
    run.append_epoch({**row(1), "terms": {"kd": {"raw": value}}, "list": [value, 2.0]})
    assert run.epochs() == [{**row(1), "terms": {"kd": {"raw": None}}, "list": [None, 2.0]}]


def test_what_json_cannot_hold_is_named_and_nothing_is_written(tmp_path):
    run = RunRecord(tmp_path / "run")
    with pytest.raises(ValueError, match=r"terms\.kd\[1\]: expected what JSON can hold, got set"):
        run.append_epoch({"terms": {"kd": [1.0, {2.0}]}})
    with pytest.raises(ValueError, match=r"options: .* got bytes"):
        run.write_recipe({"options": b"x"})
    assert not run.folder.exists()


@pytest.mark.parametrize("length", [10, 65_535, 65_536, 65_537, 200_000])
def test_a_last_line_of_any_length_is_found_and_a_torn_one_cut_off(tmp_path, length):
    run = RunRecord(tmp_path)
    rows = [row(1), {**row(2), "note": "x" * length}]
    for each in rows:
        run.append_epoch(each)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "note": "' + b"y" * length)
    assert run.epochs() == rows
    run.append_epoch(row(3))
    assert run.epochs() == [*rows, row(3)]


@pytest.mark.parametrize("tail", [b'{"epoch": 3, "lo', b'{"epoch": 3}', b"\0" * 40, b'{"ep\0\0\0}\n', b"\xff\n"])
def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path, tail):
    run = RunRecord(tmp_path)
    run.append_epoch(row(1))
    run.append_epoch(row(2))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert run.epochs() == [row(1), row(2)]
    run.append_epoch(row(3))
    assert run.epochs() == [row(1), row(2), row(3)]
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("bad", [b"{nonsense\n", b"[1, 2]\n", b"\n", b"\xff\n"])
def test_a_bad_line_elsewhere_is_an_error_that_names_it(tmp_path, bad):
    run = RunRecord(tmp_path)
    good = json.dumps(row(1)).encode() + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(good + bad + good)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object, got "):
        run.epochs()


def test_truncate_keeps_the_first_rows(tmp_path):
    run = RunRecord(tmp_path)
    for epoch in (1, 2, 3, 4):
        run.append_epoch(row(epoch))
    run.truncate(4)
    assert run.epochs() == [row(1), row(2), row(3), row(4)]
    run.truncate(2)
    run.append_epoch(row(3, loss=9.0))
    assert run.epochs() == [row(1), row(2), row(3, loss=9.0)]
    run.truncate(0)
    assert run.epochs() == []


@pytest.mark.parametrize("epochs", [-1, 2])
def test_truncate_to_rows_that_are_not_there(tmp_path, epochs):
    run = RunRecord(tmp_path)
    run.append_epoch(row(1))
    with pytest.raises(ValueError, match=f"epochs: expected 0 to 1, .*got {epochs}"):
        run.truncate(epochs)
    assert run.epochs() == [row(1)]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def power_cut(part, target):
        raise OSError("power cut")

    monkeypatch.setattr(record.Path, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_readers_name_a_file_that_is_missing_or_broken(tmp_path):
    run = RunRecord(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.json: expected a file, got nothing"):
        run.read_recipe()
    (tmp_path / "env.json").write_text("[]")
    with pytest.raises(ValueError, match=r"env\.json: expected a JSON object, got '\[\]'"):
        run.read_environment()
    assert run.epochs() == []


FIGURES = {"top1_last": 71.25, "top1_best": 72.0, "best_epoch": 2, "seconds": 3.0}
READERS = {
    "recipe.json": RunRecord.read_recipe,
    "env.json": RunRecord.read_environment,
    "result.json": RunRecord.read_result,
    "detections.json": RunRecord.read_detections,
}


@pytest.mark.parametrize("kind", NO_OBJECTS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_holds_no_object_is_named(tmp_path, name, kind):
    (tmp_path / name).write_bytes(NO_OBJECTS[kind][0])
    with pytest.raises(ValueError, match=rf"{name}: expected a JSON object, got ") as error:
        READERS[name](RunRecord(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_a_row_that_holds_no_object_is_named(tmp_path, kind):
    good = json.dumps(row(1)).encode() + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(good + NO_OBJECTS[kind][0] + b"\n" + good)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object, got "):
        RunRecord(tmp_path).epochs()


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("recipe.json", {"options": []}, "options"),
        ("recipe.json", {"weights": 3}, "weights"),
        ("recipe.json", {"task": ["detection"]}, "task"),
        ("recipe.json", {"epochs": "many"}, "epochs"),
        ("env.json", {"teacher_sha256": None}, "world_size"),
        ("env.json", {"world_size": 0, "teacher_sha256": None}, "world_size"),
        ("env.json", {"world_size": 1}, "teacher_sha256"),
        ("env.json", {"world_size": 1, "teacher_sha256": None, "resumed": {}}, "resumed"),
        ("env.json", {"world_size": 1, "teacher_sha256": None, "preflight": 1}, "preflight"),
        ("result.json", {**FIGURES, "seconds": "3"}, "seconds"),
        ("result.json", {**FIGURES, "top1_last": "71"}, "top1_last"),
        ("result.json", {**FIGURES, "teacher_top1": [1]}, "teacher_top1"),
        ("result.json", {name: value for name, value in FIGURES.items() if name != "top1_best"}, "top1_best"),
        (
            "result.json",
            {name: value for name, value in FIGURES.items() if name != "top1_last"},
            "score: expected one of top1_last",
        ),
        ("result.json", {name: value for name, value in FIGURES.items() if name != "best_epoch"}, "best_epoch"),
        ("result.json", {**FIGURES, "sha256": []}, "sha256"),
        ("result.json", {**FIGURES, "sha256": {"recipe.json": "x"}}, r"sha256\.recipe\.json"),
        ("detections.json", {}, "images"),
        ("detections.json", {"images": [{"file": "../secret.jpg"}]}, r"images\.0\.file"),
        ("detections.json", {"images": [{"file": "images/../../a.jpg"}]}, r"images\.0\.file"),
        ("detections.json", {"images": [{"file": "images/a.jpg", "truth": [{"box": [1, 2, 3]}]}]}, r"images\.0\.truth"),
    ],
)
def test_a_key_of_another_kind_or_none_is_named(tmp_path, name, content, key):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}[,:].*{key}.*, got ") as error:
        READERS[name](RunRecord(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"epoch": "1"}, "epoch"),
        ({"epoch": None}, "epoch"),
        ({"seconds": None}, "seconds"),
        ({"images_per_second": "9"}, "images_per_second"),
        ({"terms": []}, "terms"),
        ({"terms": {"kd": 1.0}}, "terms.kd"),
        ({"terms": {"kd": {"raw": "x"}}}, "terms.kd.raw"),
        ({"top1": "50"}, "top1"),
        ({"holdout_top1": {}}, "holdout_top1"),
        ({"per_class": {"cat": "x"}}, "per_class.cat"),
    ],
)
def test_a_key_of_a_row_is_named(tmp_path, change, key):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**row(1), **change}) + "\n")
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 1[,:].*{key}: expected .*, got "):
        RunRecord(tmp_path).epochs()


def test_the_rows_of_a_finished_run_are_as_many_as_its_epochs(tmp_path):
    run = RunRecord(tmp_path)
    for epoch in (1, 2):
        run.append_epoch(row(epoch))
    run.write_result({**FIGURES, "epochs": 2})
    assert len(run.epochs()) == 2
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="expected a row for each of the 2 epochs, got 1 whole rows"):
        run.epochs()
    path.unlink()
    with pytest.raises(ValueError, match="expected a row for each of the 2 epochs, got 0 whole rows"):
        run.epochs()


def test_what_a_run_that_is_not_finished_lacks_is_said(tmp_path):
    run = RunRecord(tmp_path)
    assert run.problems() == []
    run.write_recipe({})
    path = tmp_path / "metrics.jsonl"
    assert run.problems() == [f"{tmp_path / 'env.json'}: is missing", f"{path}: is missing"]
    run.write_environment({"world_size": 1, "teacher_sha256": None})
    for epoch in (1, 2):
        run.append_epoch(row(epoch))
    assert run.problems() == []
    path.write_bytes(path.read_bytes()[:-10])
    assert run.problems() == [f"{path}: the last line is torn and left out (1 line)"]
    assert run.epochs() == [row(1)]


def test_every_committed_record_is_read_and_lacks_nothing():
    for run in find_runs([Path(__file__).parents[1] / "docs" / "records"]):
        assert run.read_recipe()
        assert run.read_environment()
        assert run.read_result()["epochs"] == len(run.epochs())
        run.read_detections()
        assert run.problems() == []


@pytest.mark.parametrize("wide", [True, False])
def test_a_tree_of_too_many_folders_is_refused_at_once(tmp_path, monkeypatch, wide):
    monkeypatch.setattr(record, "MOST_FOLDERS", 20)
    for number in range(30):
        (tmp_path / str(number) if wide else tmp_path.joinpath(*map(str, range(number + 1)))).mkdir()
    with pytest.raises(ValueError, match="which has more than 20 folders in it"):
        find_runs([tmp_path])


def test_the_folders_of_the_system_are_refused_at_once():
    began = time.monotonic()
    for root in ("/proc", "/"):
        with pytest.raises(ValueError, match="paths: expected a run folder or a folder of runs"):
            find_runs([root])
    assert time.monotonic() - began < 20


def test_a_source_of_reports_that_is_no_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, kind in (("fifo", "is a FIFO"), ("nothing", "does not exist")):
        with pytest.raises(ValueError, match=f"paths: expected a run folder .*, which {kind}"):
            find_runs([tmp_path / name])


def test_find_runs_takes_runs_and_folders_of_runs_once_each(tmp_path):
    for name in ("b/kd", "b/ce", "a", "a/inner"):
        RunRecord(tmp_path / name).write_recipe({"name": name})
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    runs = find_runs([tmp_path / "b", tmp_path, tmp_path / "b" / "kd"])
    assert [run.read_recipe()["name"] for run in runs] == ["b/ce", "b/kd", "a"]


def test_find_runs_follows_links(tmp_path):
    RunRecord(tmp_path / "elsewhere" / "kd").write_recipe({})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [run.folder for run in find_runs([tmp_path / "runs"])] == [tmp_path / "runs" / "linked" / "kd"]


def test_a_path_without_a_run_is_named(tmp_path):
    RunRecord(tmp_path / "kd").write_recipe({})
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "absent", tmp_path / "kd" / "recipe.json"):
        with pytest.raises(ValueError, match=f"paths: expected a run folder .*{wrong.name}'"):
            find_runs([tmp_path / "kd", wrong])
        with pytest.raises(ValueError, match=f"path: expected a run folder .*{wrong.name}'"):
            load_run(wrong)


def test_environment_says_what_ran_where(tmp_path):
    env = environment(device="cpu", world_size=2)
    assert env["world_size"] == 2
    assert env["device"] == "cpu"
    assert env["cuda"] is None
    assert env["device_name"] == env["cpu"] != ""
    assert env["cores"] >= 1
    assert all(env[name] for name in ("python", "torch", "timm", "numpy", "platform"))
    assert env["started"].endswith("+00:00")
    env["teacher_sha256"] = None  # a run says that too
    RunRecord(tmp_path).write_environment(env)
    assert RunRecord(tmp_path).read_environment() == env


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    module = tmp_path / "src" / "record.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(record, "__file__", str(module))
    assert environment(device="cpu", world_size=1)["commit"] is None  # no repository at all

    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "somebody's own repository")
    env = environment(device="cpu", world_size=1)  # installed inside a repository that does not track it
    assert (env["commit"], env["dirty"]) == (None, False)

    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ours")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    env = environment(device="cpu", world_size=1)
    assert len(env["commit"]) == 40
    assert env["dirty"] is False
    module.write_text("changed")
    assert environment(device="cpu", world_size=1)["dirty"] is True
