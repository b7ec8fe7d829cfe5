"""Every file of ours that is no JSON object, or lacks its keys, in every verb that reads it: one line, exit code 2."""

import json
import shutil

import pytest
from PIL import Image

import pldistill
from bad_json import NO_OBJECTS
from command_line import run
from pldistill.recipe import make_recipe
from pldistill.training.loop import Loop
from tiny_runs import CE, KillAt, Killed
from tiny_stores import SMALL

KINDS = ["nothing", "a list", "null", "cut off", "lists of lists", "no UTF-8", "NaN", "5000 digits", "a key twice"]
WRONG_KEYS = {"an empty object": b"{}", "texts": b'{"seconds": "x", "options": "x", "epoch": "x", "world_size": "x"}'}
CONTENTS = {**{kind: NO_OBJECTS[kind][0] for kind in KINDS}, **WRONG_KEYS}
STUDENT = ["--student", "resnet8", "--method", "kd", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def places(teacher, store, tmp_path_factory):
    """A finished run as older versions left it, without sums of its files; one that was stopped; a teacher cache."""
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(teacher.folder, root / "run")
    result = {name: value for name, value in teacher.result.items() if name != "sha256"}
    (root / "run" / "result.json").write_text(json.dumps(result))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "LOOK_EVERY", -1.0)
        with pytest.raises(Killed):
            pldistill.train(make_recipe(CE), out=root / "stopped", device="cpu", callback=KillAt(1, 1))
    shutil.copytree(store, root / "cache")
    Image.new("RGB", (32, 32)).save(root / "image.png")
    (root / "map.json").write_text("{}")
    shutil.copy(root / "run" / "recipe.json", root / "mine.json")
    return root


def lines(root):
    """A line of each verb, by its name."""
    finished, data = root / "run", ["--data", SMALL]
    caching = ["cache", *data, "--teacher", finished, "--views", "1", "--device", "cpu"]
    return {
        "evaluate": ["evaluate", finished, "--device", "cpu"],
        "predict": ["predict", finished, root / "image.png"],
        "report": ["report", finished, "--out", root / "page.html"],
        "report stopped": ["report", root / "stopped", "--out", root / "page.html"],
        "resume": ["train", "--resume", "--out", finished, "--device", "cpu"],
        "resume stopped": ["train", "--resume", "--out", root / "stopped", "--device", "cpu"],
        "teacher": ["train", *data, *STUDENT, "--teacher", finished, "--out", root / "new"],
        "cache": [*caching, "--out", root / "new"],
        "cached": ["train", *data, *STUDENT, "--teacher-cache", root / "cache", "--out", root / "new"],
        "go on caching": [*caching, "--trust-teacher", "--out", root / "cache"],
        "map": [
            "train",
            *data,
            *STUDENT,
            "--teacher",
            finished,
            "--class-map",
            root / "map.json",
            "--out",
            root / "new",
        ],
        "recipe": ["train", "--recipe", root / "mine.json", "--student", "resnet8", "--out", root / "new"],
    }


READ_BY = {
    "run/recipe.json": ["evaluate", "predict", "report", "resume"],
    "run/result.json": ["evaluate", "predict", "report", "resume", "teacher", "cache"],
    "run/env.json": ["evaluate", "report", "resume"],
    "run/metrics.jsonl": ["report"],
    "run/config.json": ["evaluate", "predict", "teacher", "cache"],
    "stopped/recipe.json": ["report stopped", "resume stopped"],
    "stopped/env.json": ["report stopped", "resume stopped"],
    "cache/header.json": ["cached", "go on caching"],
    "map.json": ["map"],
    "mine.json": ["recipe"],
}
SOUND = {  # an object without keys is one that may be there, and fails by what it does not have
    ("mine.json", "an empty object"): "data",
    ("map.json", "an empty object"): "class_map",
    ("map.json", "texts"): "class",
    ("stopped/recipe.json", "an empty object"): "data",
}


CASES = [(file, verb, kind) for file, verbs in READ_BY.items() for verb in verbs for kind in CONTENTS]
# Of a teacher's result its sums alone are read, and a result of an older version has none.
WITHOUT_SUMS = [("run/result.json", verb, kind) for verb in ("teacher", "cache") for kind in WRONG_KEYS]


@pytest.mark.parametrize(("file", "verb", "kind"), [case for case in CASES if case not in WITHOUT_SUMS])
def test_a_file_of_another_form_is_one_line_that_names_it(places, capsys, file, verb, kind):
    path = places / file
    sound = path.read_bytes()
    path.write_bytes(CONTENTS[kind] + b"\n")
    try:
        code, _, said = run(capsys, *lines(places)[verb])
    finally:
        path.write_bytes(sound)
    assert code == 2, said
    assert "Traceback" not in said
    assert said.count("\n") == 1
    assert said.startswith("pldistill: ")
    expected = SOUND.get((file, kind)) or path.name
    assert expected in said or (verb == "resume" and "data" in said)  # a line's fields lie over those of the file
    assert not (places / "new").exists()


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_damaged_index_costs_nothing(places, capsys, tmp_path, kind):
    shutil.copytree(places / "stopped", tmp_path / "stopped")
    (tmp_path / "stopped" / "checkpoint" / "index.json").write_bytes(CONTENTS[kind])
    code, out, said = run(capsys, "train", "--resume", "--out", tmp_path / "stopped", "--device", "cpu")
    assert code == 0, said
    assert "index.json' is damaged" in " ".join((out + said).split())


@pytest.mark.parametrize("name", ["recipe.json", "env.json", "metrics.jsonl", "result.json", "config.json"])
def test_what_is_missing_or_a_folder_is_named(places, capsys, tmp_path, name):
    copy = tmp_path / "run"
    shutil.copytree(places / "run", copy)
    verb = ["report", copy, "--out", tmp_path / "page.html"]
    if name == "config.json":
        verb = ["evaluate", copy]
    (copy / name).unlink()
    if name not in (
        "result.json",
        "env.json",
    ):  # a run that has not ended, and one that was stopped in its first second
        code, _, said = run(capsys, *verb)
        assert (code, said.count("\n")) == (2, 1), said
        assert name in said
    if name != "env.json":
        (copy / name).mkdir()
        code, _, said = run(capsys, *verb)
        assert (code, said.count("\n")) == (2, 1), said
        assert name in said
