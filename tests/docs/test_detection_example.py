"""The page on detection prints what it shows: its own commands, on a few images."""

import re

import pytest

from pages import EXAMPLES, shape
from pldistill.__main__ import main

PAGE = (EXAMPLES / "detection.md").read_text(encoding="utf-8")
FEW = {
    "scenes:train=2000,val=300": "scenes:train=2,val=2",
    "fasterrcnn:resnet18": "fasterrcnn:test_resnet",
}


def commands():
    """The page's commands as lists of words, each with what the page shows of its output."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        found = re.fullmatch(r"\$ pldistill ((?:.*\\\n)*.*)\n((?:.*\n)+)", block)
        assert found
        yield found[1].replace("\\\n", " ").split(), found[2]


def test_the_page_prints_what_it_shows(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code.replace("val=300", "val=3"), "detection.md", "exec"), {})
    assert [words[0] for words, _ in commands()] == ["train", "train", "evaluate", "predict"]
    for words, printed in commands():
        place = [] if words[0] == "predict" else ["--device", "cpu", "--workers", "0"]
        trust = ["--trust-teacher"] if "--teacher" in words else []  # of so few images it has learned next to nothing
        with pytest.raises(SystemExit) as stop:
            main([*(FEW.get(word, word) for word in words), *place, *trust])
        out, err = capsys.readouterr()
        assert err == ""
        assert stop.value.code == 0
        lines, expected = (shape(text.replace(" -  ", " # %  ")) for text in (out, printed))
        if words[0] == "predict":  # it has found something, or nothing
            lines, expected = lines[:1], expected[:1]
        assert lines == expected
