"""The examples run as they stand: what is trained gets better, and the page of commands prints what it shows."""

import re
import runpy
import socket
from pathlib import Path

import pytest

from pages import EXAMPLES, shape
from pldistill.__main__ import main

TRIED_ELSEWHERE = {"prepare_masks"}  # which trains nothing: test_prepare_masks.py
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - TRIED_ELSEWHERE)
PAGE = (EXAMPLES / "own_images.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """An empty folder to run in, and no network."""

    def refuse(self, address):
        raise AssertionError(f"an example asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_every_example_is_tried():
    assert SCRIPTS == ["lightning_module", "own_loop", "timm_task", "transformers_trainer"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_trains_a_teacher_and_a_student(name, capsys, tmp_path):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown, noise = capsys.readouterr()
    assert noise == ""
    assert list(tmp_path.iterdir()) == []
    teacher, student = re.split(r"^student.*\n", shown, flags=re.MULTILINE)
    assert teacher.startswith("teacher")
    for part in (teacher, student):
        losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", part)]
        assert len(losses) == 3
        assert losses[-1] < 0.7 * losses[0]
        assert float(re.findall(r"accuracy (\d+\.\d) %", part)[-1]) > 60  # of ten classes


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


# The lines of `introduction` and `preflight`; a run's own line begins with its folder's name and its epochs.


def commands():
    """The page's commands as lists of words, each with what the page shows of its output."""
    pairs = []
    for block in blocks("console"):
        command, printed = re.fullmatch(r"\$ pldistill ((?:.*\\\n)*.*)\n((?:.*\n)+)", block).groups()
        pairs.append((command.replace("\\\n", " ").split(), printed))
    return pairs


def keep_some_images(folder, some):
    """Leave `some` images of each class, those that the page names among them."""
    for place in folder.glob("*/*"):
        files = sorted(
            place.iterdir(), key=lambda file: (f"{place.parent.name}/{place.name}/{file.name}" not in PAGE, file)
        )
        for file in files[some:]:
            file.unlink()


def test_the_page_prints_what_it_shows(capsys, tmp_path):
    (code,) = blocks("python")
    exec(compile(code, "own_images.md", "exec"), {})
    assert [len(list(Path("my_images").glob(f"{part}/?/*.png"))) for part in ("train", "val")] == [1437, 360]
    keep_some_images(tmp_path / "my_images", some=4)

    assert [words[0] for words, _ in commands()] == ["train", "train", "evaluate", "predict"]
    for words, printed in commands():
        place = [] if words[0] == "predict" else ["--device", "cpu", "--workers", "0"]
        trust = ["--trust-teacher"] if "--teacher" in words else []  # of so few images it has learned next to nothing
        with pytest.raises(SystemExit) as stop:
            main([*words, *place, *trust])
        out, err = capsys.readouterr()
        assert err == ""
        assert stop.value.code == 0
        assert shape(out) == shape(printed)


def test_the_shape_of_a_text_tells_texts_apart():
    assert shape("epoch 1/3  top-1 9.5 %: runs/a") == shape("epoch  2/3 top-1 95.25 %: runs/b")
    assert shape("epoch 1/3  top-1 9.5 %") != shape("epoch 1/3  top-5 9.5 %  KL 0.1")
    assert len(commands()) == 4
