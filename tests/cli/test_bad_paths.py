"""What lies at a path and should not, for every option that takes one: one line that names it, exit code 2."""

import os

import pytest
import typer

from command_line import run
from pldistill.cli import app
from tiny_stores import SMALL

STUDENT = ["train", "--data", SMALL, "--student", "resnet8", "--device", "cpu", "--workers", "0"]
KD = [*STUDENT, "--method", "kd"]
CE = [*STUDENT, "--method", "ce"]


@pytest.fixture
def places(tmp_path, monkeypatch, teacher):
    """A file, an empty folder, a FIFO and a finished run in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").symlink_to(teacher.folder)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


LINES = {
    "train --out": [*CE, "--out"],
    "train --out --resume": ["train", "--resume", "--out"],
    "train --recipe": ["train", "--out", "new", "--recipe"],
    "train --teacher": [*KD, "--out", "new", "--teacher"],
    "train --teacher NAME@": [*KD, "--out", "new", "--teacher", "resnet8@"],
    "train --teacher-checkpoint": [*KD, "--out", "new", "--teacher", "resnet8", "--teacher-checkpoint"],
    "train --teacher-cache": [*KD, "--out", "new", "--teacher-cache"],
    "train --student-checkpoint": [*CE, "--out", "new", "--student-checkpoint"],
    "train --class-map": [*KD, "--out", "new", "--teacher", "run", "--class-map"],
    "evaluate": ["evaluate"],
    "predict": ["predict", "run"],
    "predict RUN": ["predict"],
    "report": ["report", "--out", "page.html"],
    "report --out": ["report", "run", "--out"],
    "cache --out": ["cache", "--data", SMALL, "--teacher", "run", "--views", "1", "--device", "cpu", "--out"],
    "landscape --run": ["landscape", "--points", "3", "--out", "new", "--run"],
    "landscape --out": ["landscape", "--points", "3", "--out"],
    "reproduce --out": ["reproduce", "table1", "--scale", "smoke", "--device", "cpu", "--out"],
    "demo --out": ["demo", "--smoke", "--device", "cpu", "--out"],
}
FILES = {  # that take a file; the others take a folder
    "train --recipe", "train --teacher NAME@", "train --teacher-checkpoint", "train --class-map", "report --out"
}  # fmt: skip
NEW = {name for name in LINES if name.endswith("--out")} | {"train --out --resume"}  # or a new one
CASES = [
    *((name, "file") for name in LINES if name not in FILES and name not in ("predict", "train --student-checkpoint")),
    *((name, "empty") for name in LINES if name not in NEW),
    ("report --out", "empty"),
    *((name, "fifo") for name in LINES if name not in ("predict", "report --out")),
    *((name, "nowhere") for name in LINES if name not in NEW),
    *((name, "https://example.org/resnet8.pth") for name in LINES if name not in {*NEW, "predict"}),
]


@pytest.mark.parametrize(("name", "given"), CASES)
def test_the_wrong_kind_of_place_is_one_line_that_names_it(places, capsys, name, given):
    *words, last = LINES[name]
    line = [*words, last + given] if last.endswith("@") else [*words, last, given]
    if name == "predict RUN":
        line.append("image.png")
    if name == "report":
        line = ["report", given, "--out", "page.html"]
    code, _, said = run(capsys, *line)
    assert code == 2, said
    assert "Traceback" not in said
    assert said.count("\n") == 1
    assert given in said
    assert "Errno" not in said or name == "predict"
    assert not (places / "new").exists()


def verbs():
    """Every command with its parameters."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        for inner, below in getattr(command, "commands", {"": command}).items():
            yield [name, *([inner] if inner else [])], below


FLAGS = [
    (words, parameter.opts[0])
    for words, command in verbs()
    for parameter in command.params
    if parameter.opts[0].startswith("--") and not getattr(parameter, "is_flag", False)
]


@pytest.mark.parametrize(("words", "flag"), FLAGS, ids=lambda part: " ".join(part) if isinstance(part, list) else part)
def test_an_empty_value_is_refused_by_the_option_s_name(places, capsys, words, flag):
    for line in ([*words, flag, ""], [*words, f"{flag}="]):
        code, _, said = run(capsys, *line)
        assert code == 2
        assert said == f"pldistill: {flag.lstrip('-').replace('-', '_')}: expected a value, got ''\n"
    assert not (places / "recipe.json").exists()


def test_every_option_with_a_path_is_among_them():
    assert {"--out", "--recipe", "--teacher", "--class-map", "--draw", "--run"} <= {flag for _, flag in FLAGS}


def test_an_empty_argument_is_refused(places, capsys):
    for line in (["evaluate", ""], ["predict", "run", ""], ["report", "", "--out", "page.html"]):
        code, _, said = run(capsys, *line)
        assert code == 2
        assert said == "pldistill: arguments: expected a value, got ''\n"
