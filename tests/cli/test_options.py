"""A field of a recipe is said once: the command line, its help, the lists and docs/recipe.md follow from it."""

import os
import re
import runpy
import subprocess
import sys

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from places import ROOT
from pldistill.__main__ import main
from pldistill.cli import app
from pldistill.cli.options import PAIRS, first_sentence, panel_of, with_fields
from pldistill.recipe import PANELS, Recipe, make_recipe
from pldistill.studies.runner import _flags
from pldistill.tasks.registry import TASKS

DOCS = ROOT / "docs"
# For each field a value that is not its default, beside what it needs.
OTHER = {
    "task_options": {"task": "detection", "student": "fasterrcnn:resnet18", "task_options": {"norm": "frozen"}},
    "task": {"task": "detection", "student": "fasterrcnn:resnet18"},
    "method": {"method": "pld", "teacher": "t"},
    "options": {"method": "pld", "teacher": "t", "options": {"temperature": 3.5, "standardize": "teacher"}},
    "weights": {"method": "kd", "teacher": "t", "weights": {"task": 0.25, "kd": "2@0.5"}},
    "teacher": {"method": "kd", "teacher": "ensemble:a+b"},
    "teacher_checkpoint": {"method": "kd", "teacher": "resnet18", "teacher_checkpoint": "w.pt"},
    "teacher_cache": {"method": "kd", "teacher_cache": "cache"},
    "class_map": {"method": "kd", "teacher": "t", "class_map": "map.json"},
    "relation": {"method": "dist", "teacher": "t", "relation": "global"},
    "mix_probability": {"mixup": 0.2, "mix_probability": 0.5},
    "unlabelled": {"method": "kd", "teacher": "t", "unlabelled": "folder:more"},
    "accumulate": {"accumulate": 4},
    "schedule": {"schedule": "two-step"},
    "amp": {"amp": "off"},
    "optimizer": {"optimizer": "lamb"},
    "data": {"data": "folder:a b,train=5"},
    "student": {"student": "resnet20"},
    "student_checkpoint": {"student_checkpoint": "w.pt"},
    "repeats": {"repeats": 3},
    "warmup_epochs": {"warmup_epochs": 2.5},
    "on_bad_image": {"on_bad_image": "skip"},
}
BASE = {"data": "glyphs", "student": "resnet8", "method": "ce"}


def changed(name):
    """A recipe whose field of this name is not at its default."""
    if name in OTHER:
        return make_recipe({**BASE, **OTHER[name]})
    default = Recipe.model_fields[name].default
    if isinstance(default, bool):
        return make_recipe({**BASE, name: not default})
    if name == "hflip":
        return make_recipe({**BASE, name: False})
    if default is None:
        return make_recipe({**BASE, name: {"image_size": 32, "views": 3, "augment_seed": 4}.get(name, 0.125)})
    return make_recipe({**BASE, name: default + 3 if isinstance(default, int) else default / 2 + 0.25})


def parsed(words):
    """The recipe that a command line of these words gives."""
    taken = typer.Typer()
    got = []

    @taken.command()
    @with_fields(Recipe.model_fields)
    def command(fields: dict) -> None:
        got.append(make_recipe(fields))

    result = CliRunner().invoke(taken, list(words))
    assert result.exit_code == 0, (result.output, result.exception)
    return got[0]


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_field_has_a_flag_that_printed_commands_use(name):
    recipe = changed(name)
    assert name in BASE or getattr(recipe, name) != getattr(make_recipe(BASE), name)
    words = list(_flags(recipe))
    assert f"--{PAIRS.get(name, name).replace('_', '-')}" in [word.replace("--no-", "--", 1) for word in words]
    assert parsed(words) == recipe


@pytest.mark.parametrize("name", [name for name, field in Recipe.model_fields.items() if field.annotation is bool])
def test_a_switch_is_turned_off_as_well_as_on(name):
    flag = name.replace("_", "-")
    base = ["--data", "glyphs", "--student", "resnet8", "--method", "ce"]
    assert getattr(parsed([*base, f"--{flag}"]), name) is True
    assert getattr(parsed([*base, f"--no-{flag}"]), name) is False


def help_of(command):
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    return re.sub(r"[^\S\n]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_the_help_has_every_field_in_its_panel_with_its_default():
    text = help_of("train")
    starts = [text.index(f"─ {panel} ─") for panel in (*PANELS, "Output")]
    assert starts == sorted(starts)
    panels = {panel: text[start:end] for panel, start, end in zip(PANELS, starts[:-1], starts[1:], strict=True)}
    for name, field in Recipe.model_fields.items():
        panel = panels[panel_of(field)]
        assert f"--{PAIRS.get(name, name).replace('_', '-')} " in panel
        assert first_sentence(field.description or "")[:30] in panel
        assert field.is_required() is (f"{name} " in ("data ", "student ", "method "))
    for name, default in (("epochs", "20"), ("weight_decay", "0.0005")):
        others = [f"; in {task} {spec.defaults[name]:g}" for task, spec in TASKS.items() if name in spec.defaults]
        assert len(others) >= 2
        assert panels["Training"].count(f"Default {default}{''.join(others)}.") == 1
    assert text.count("Required, here or in --recipe.") == 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train --method pl", ["pld", "plistmle", "plkl"]),
        ("train --amp ", ["auto", "bf16", "fp16", "off"]),
        ("train --task d", ["detection"]),
        ("train --task-option rp", ["rpn_per_image="]),
        ("train --weight loss_rpn", ["loss_rpn_box_reg="]),
        ("train --option stu", ["student_taps="]),
        ("train --teacher-ca", ["--teacher-cache"]),
        ("repr", ["reproduce"]),
    ],
)
def test_a_shell_completes_names_without_torch(line, expected):
    words = f"pldistill {line}"
    about = {
        "_PLDISTILL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = "import sys\nfrom pldistill.__main__ import main\ntry: main([])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | about, capture_output=True, text=True)
    assert done.stdout.split() == expected
    assert "Assertion" not in done.stderr


def test_every_field_and_option_is_described():
    for name, field in Recipe.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert panel_of(field) in PANELS
    for spec in TASKS.values():
        for name, field in spec.options.model_fields.items():
            assert (field.description or "").endswith("."), name
            assert not field.is_required()


@pytest.mark.parametrize("what", ["recipe", "tasks"])
def test_the_lists_have_every_field(what, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["list", what])
    out = capsys.readouterr().out
    names = Recipe.model_fields if what == "recipe" else TASKS["detection"].option_defaults
    assert all(re.search(rf"\b{name}\b", out) for name in names)


def test_the_page_of_the_docs_is_up_to_date():
    page = runpy.run_path(str(DOCS / "write_recipe.py"))["page"]
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == page()


def test_a_field_that_is_added_is_on_the_command_line(monkeypatch):
    monkeypatch.setitem(
        Recipe.model_fields, "seed", Field(7, description="Another one. Hidden.", json_schema_extra={"panel": "Loss"})
    )

    @with_fields(["seed"])
    def command(fields: dict) -> None: ...

    (parameter,) = command.__signature__.parameters.values()
    (option,) = parameter.annotation.__metadata__
    assert (parameter.name, option.rich_help_panel, option.help) == ("seed", "Loss", "Another one. Default 7.")
