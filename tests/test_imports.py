"""The import rules of docs/architecture.md, read from the sources."""

import ast
import re
from pathlib import Path

import pytest

import pldistill
from pldistill.tasks.registry import TASKS

ROOT = Path(pldistill.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# What each part of the package may import of the others. Whatever is not here, the command line imports alone.
RULES = {
    "types": set(),
    "specs": set(),
    "paths": set(),
    "json_files": {"paths"},
    "files": {"json_files", "paths"},
    "precision": set(),
    "launch": set(),
    "kernels": set(),
    "losses": {"kernels"},
    "methods": {"losses", "specs", "types"},
    "recipe": {"json_files", "methods", "paths", "specs", "tasks"},  # of a task what is data: see below
    "record": {"files", "json_files", "paths", "precision", "recipe", "tasks"},
    "distributed": {"launch", "types"},
    "data": {"files", "json_files", "paths", "specs", "types"},
    "models": {"files", "json_files", "paths", "types"},
    "teachers": {"data", "files", "json_files", "methods", "models", "paths", "recipe", "specs", "types"},
}
RULES["tasks"] = {*RULES["teachers"], "teachers", "distributed", "losses", "record"}
RULES["training"] = {*RULES["tasks"], "tasks", "launch", "losses", "precision"}
RULES["reports"] = {"files", "paths", "losses", "precision", "recipe", "record", "specs", "tasks"}
RULES["studies"] = {*RULES["training"], "training", "reports"}
RULES["bench"] = {"losses", "specs"}
RULES["integrations"] = {"losses", "specs"}

LOSSES_ALSO = {
    "torch",
    "math",
    "typing",
    "collections",
    "functools",
    "dataclasses",
    "numbers",
    "enum",
    "difflib",
    "inspect",
}
KERNELS_ALSO = {
    "torch",
    "numpy",
    "triton",
    "math",
    "collections",
    "concurrent",
    "contextlib",
    "importlib",
    "os",
    "threading",
    "typing",
    "functools",
    "dataclasses",
}


def name_of(path: Path) -> str:
    parts = ["pldistill", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


def parts(path: Path) -> set[str]:
    """The parts of pldistill that `path` imports, by their first name."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("pldistill.")}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {"pldistill", "__future__"}


def of(part: str) -> list[Path]:
    return [path for path in FILES if name_of(path).split(".")[1:2] == [part]]


@pytest.mark.parametrize("part", RULES)
def test_a_part_imports_only_what_it_may(part):
    assert of(part)
    for path in of(part):
        assert parts(path) - {part} <= RULES[part], path


def test_every_part_has_a_rule():
    known = {*RULES, "__main__", "cli"}
    assert {name.split(".")[1] for name in MODULES if "." in name} == known


@pytest.mark.parametrize("path", of("losses"), ids=str)
def test_losses_import_torch_alone(path):
    assert packages(path) <= LOSSES_ALSO


@pytest.mark.parametrize("path", of("kernels"), ids=str)
def test_kernels_import_torch_numpy_and_triton_alone(path):
    assert packages(path) <= KERNELS_ALSO


def test_there_are_no_circles():
    below = {name: {other for other in imports(path) if other in MODULES} - {name} for name, path in MODULES.items()}
    while leaves := [name for name, others in below.items() if not others]:
        below = {name: others - set(leaves) for name, others in below.items() if name not in leaves}
    assert not below


def test_the_ranking_losses_alone_choose_a_kernel():
    outside = [path for path in FILES if path.parent.name != "kernels"]
    assert [path.name for path in outside if "kernels" in parts(path)] == ["ranking.py"]


def test_the_loop_knows_no_loss_and_no_method():
    assert not parts(ROOT / "training" / "loop.py") & {"losses", "methods"}


def test_only_main_imports_the_command_line():
    outside = [path for path in FILES if path.parent.name != "cli"]
    assert [path.name for path in outside if "cli" in parts(path)] == ["__main__.py"]


def test_there_is_no_drawer_for_odds_and_ends():
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "common")]


def test_what_recipe_record_and_reports_know_of_tasks_is_data():
    light = {"pldistill.tasks.registry", "pldistill.tasks.spec"}
    for path in [ROOT / "recipe.py", ROOT / "record.py", *of("reports")]:
        assert {module for module in imports(path) if module.startswith("pldistill.tasks")} <= light, path
    for path in of("tasks"):
        if name_of(path) in light or path.name in ("__init__.py", "methods.py", "options.py"):
            assert parts(path) <= {"methods", "specs", "tasks"}, path
            assert "torch" not in packages(path), path


def test_nothing_outside_the_tasks_asks_which_task_it_is():
    names = "|".join(TASKS)
    asks = re.compile(rf"""\.task *(==|!=|in\b)|== *["']({names})["']|["']AP["'] in\b""")
    for path in FILES:
        if "tasks" not in path.relative_to(ROOT).parts:
            assert not (found := asks.search(path.read_text(encoding="utf-8"))), f"{path}: {found}"
    assert asks.search('if recipe.task == "detection":')
    assert asks.search('if "AP" in result:')


def test_the_rules_see_an_import():
    assert "recipe" in parts(ROOT / "training" / "loop.py")
    assert "torch" in imports(ROOT / "training" / "loop.py")
