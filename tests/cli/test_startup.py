"""What is not used is not imported: modules counted in a process of their own."""

import subprocess
import sys

import pytest
import torch

from pldistill.cli.lists import MODELS
from pldistill.models import build, count_parameters, list_models, stages

HEAVY = {"torch", "torchvision", "timm", "numpy", "matplotlib", "sklearn", "accelerate", "PIL", "jinja2", "pandas"}
LINE = """
import sys
from pldistill.__main__ import main
try:
    main({arguments!r})
except SystemExit as end:
    code = end.code
print(code, *sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


def loaded(code):
    """The last line on stderr of a Python process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], "0"),
        (["--version"], "0"),
        (["train", "--help"], "0"),
        (["train"], "2"),
        (["train", "--data", "glyphs", "--student", "resnet8", "--method", "pldd", "--teacher", "t"], "2"),
        (["train", "--data", "glyphs", "--student", "resnet8", "--method", "ce", "--lr", "fast"], "2"),
        (["train", "--data", "glyphs", "--student", "resnet8", "--method", "ce", "--workers", "-1"], "2"),
        (["reproduce", "tabel1"], "2"),
        (["reproduce", "table1", "--pairs", "resnet"], "2"),
        (["reproduce", "table1", "--data", "cifar100:PATH", "--workers", "-1"], "2"),
        (["list", "method"], "2"),
        *((["list", what], "0") for what in ("methods", "models", "data", "tasks", "studies")),
    ],
    ids=" ".join,
)
def test_a_line_that_trains_nothing_brings_no_torch(arguments, code):
    got, *modules = loaded(LINE.format(arguments=arguments))
    assert got == code
    assert not HEAVY & set(modules)


def test_the_losses_bring_torch_alone():
    torch_alone = "import sys, torch; print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    more = set(loaded(torch_alone.replace("torch;", "pldistill.losses;", 1))) - set(loaded(torch_alone))
    assert more == {"pldistill"}


def test_the_package_shows_its_public_names_and_brings_nothing():
    code = "import sys, pldistill; print(*dir(pldistill), *(HEAVY & set(sys.modules)), file=sys.stderr)"
    import pldistill

    assert loaded(code.replace("HEAVY", repr(HEAVY))) == sorted(pldistill.__all__)
    assert all(getattr(pldistill, name) is not None for name in pldistill.__all__)


def test_the_listed_models_are_these():
    built = {}
    for name in list_models():
        with torch.device("meta"):
            model = build(name, num_classes=100)
        built[name] = (count_parameters(model), " ".join(stages(model)))
    assert built == MODELS
