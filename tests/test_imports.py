"""The import rules of docs/architecture.md, read from the sources."""

import ast
from pathlib import Path

import pytest

import pldistill

ROOT = Path(pldistill.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, at any depth, relative ones resolved."""
    package = ["pldistill", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The parts of pldistill that `path` imports, by their first name."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("pldistill.")}


def of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", of("losses"), ids=str)
def test_losses_import_torch_and_kernels_alone(path):
    assert rooms(path) <= {"losses", "kernels"}
    others = {name.split(".")[0] for name in imports(path)} - {"pldistill", "__future__"}
    assert others <= {
        "torch",
        "math",
        "typing",
        "collections",
        "functools",
        "dataclasses",
        "numbers",
        "enum",
        "difflib",
    }


@pytest.mark.parametrize("path", of("kernels"), ids=str)
def test_kernels_import_nothing_of_the_package(path):
    assert rooms(path) <= {"kernels"}
    others = {name.split(".")[0] for name in imports(path)} - {"pldistill", "__future__"}
    assert others <= {
        "torch",
        "numpy",
        "triton",
        "math",
        "collections",
        "contextlib",
        "importlib",
        "threading",
        "typing",
        "functools",
        "dataclasses",
    }


def test_the_ranking_losses_alone_choose_a_kernel():
    outside = [path for path in FILES if path.parent.name != "kernels"]
    assert [path.name for path in outside if "kernels" in rooms(path)] == ["ranking.py"]


@pytest.mark.parametrize("path", of("reports"), ids=str)
def test_reports_read_records_and_never_trains(path):
    assert rooms(path) <= {"reports", "record", "recipe", "losses", "precision", "specs", "files"}


def test_the_loop_knows_no_loss_and_no_method():
    assert not rooms(ROOT / "training" / "loop.py") & {"losses", "methods"}


def test_only_main_imports_the_command_line():
    assert [path.name for path in FILES if "cli" in rooms(path)] == ["__main__.py"]


def test_there_is_no_drawer_for_odds_and_ends():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]


def test_the_rules_see_an_import():
    assert "recipe" in rooms(ROOT / "training" / "loop.py")
    assert "torch" in imports(ROOT / "training" / "loop.py")
