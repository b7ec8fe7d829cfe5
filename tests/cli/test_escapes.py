"""Paths and names from outside are printed as they are: no markup of theirs, no escape sequence."""

import io

import pytest
from rich.console import Console

from command_line import run
from pldistill.cli.options import PlainConsole
from pldistill.specs import visible
from pldistill.training.progress import ProgressBar

NASTY = "a[/]b [red]c[/red] [bold]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é ± 日本", "plain é ± 日本"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("two\nlines\t.", "two\nlines\\t."),
        ("\u202e right to left", r"\u202e right to left"),
    ],
)
def test_what_does_not_print_is_written_out(text, shown):
    assert visible(text) == shown
    file = io.StringIO()
    PlainConsole(file=file, width=200, force_terminal=True).print(text)
    assert file.getvalue().rstrip("\n") == shown
    assert "\x1b" not in file.getvalue()


def test_a_folder_with_brackets_is_a_folder_like_any_other(tmp_path, capsys):
    out = tmp_path / NASTY
    line = ["--data", "digits", "--student", "resnet8", "--method", "ce", "--epochs", "1", "--device", "cpu"]
    code, printed, error = run(capsys, "train", *line, "--out", out)
    assert (code, error) == (0, "")
    assert printed.rstrip().endswith(f": {out}")
    assert f"{out.name}: 1 epochs of" in printed
    code, printed, error = run(capsys, "report", out, "--out", tmp_path / f"{NASTY}.html")
    assert (code, error, printed.strip()) == (0, "", str(tmp_path / f"{NASTY}.html"))
    code, _, error = run(capsys, "evaluate", f"{NASTY}\x1b[2J")
    assert code == 2
    assert f"{NASTY}\\x1b[2J" in error
    assert "\x1b" not in error


def test_the_bar_shows_a_title_as_it_is():
    file = io.StringIO()
    bar = ProgressBar(Console(file=file, width=120))
    bar.begin(NASTY, epochs=2, done=1, batches=3)
    bar.end()
    assert f"{NASTY}: 2 epochs of 3 steps, 1 done" in file.getvalue()
