"""What is published: the source distribution's files, the oldest dependencies, the CI's commands."""

import re
import subprocess
import sys

import pytest
import yaml

import pldistill
from places import ROOT

# in the repository and not in the source distribution: a trained teacher that no test and no document reads
LEFT_OUT = {"docs/records/cifar100-small/teachers/resnet20-62ee4f886f/model.safetensors"}


def requirements():
    """Name in lower case, and lower bound, of every requirement in pyproject.toml, by the list that it stands in."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^([\w-]+) = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE)
    return {name: dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', body)) for name, body in lists}


def pins(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {package.lower(): version for package, version in (line.split("==") for line in lines)}


def padded(version):
    return tuple(int(part) for part in (version + ".0.0").split(".")[:3])


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The files of the source distribution, by setuptools' own reading of MANIFEST.in."""
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml is for setuptools 77 and newer")
    out = tmp_path_factory.mktemp("egg")
    line = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info", "--egg-base", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set((out / "pldistill.egg-info" / "SOURCES.txt").read_text(encoding="utf-8").splitlines())


def test_the_source_distribution_holds_what_it_takes_to_test_and_to_read(listed):
    wanted = ["Makefile", "constraints.txt", "docs/write_results.py", "examples/own_loop.py", "tests/conftest.py"]
    for name in [*wanted, "docs/images/figure1a.svg", "benchmarks/losses.csv", "src/pldistill/py.typed", "LICENSE"]:
        assert (ROOT / name).exists(), name
        assert name in listed, name
    assert not [name for name in listed if "__pycache__" in name or name.endswith(".pyc")]
    assert not listed & LEFT_OUT


def test_the_source_distribution_holds_the_repository(listed):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of the repository")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name for name in tracked.split("\0") if name and (ROOT / name).exists()} - listed == LEFT_OUT


def test_the_source_distribution_holds_no_large_file(listed):
    assert not {name for name in listed if (ROOT / name).exists() and (ROOT / name).stat().st_size > 500_000}


def test_the_oldest_dependencies_are_the_lower_bounds():
    known = requirements()
    bounds = known["dependencies"] | known["dev"] | known["examples"] | known["language"]
    tools = {"ruff", "pyright"}  # they check the sources, by the versions in constraints.txt
    expected = {name: padded(bound) for name, bound in bounds.items() if name not in tools}
    assert {"torch", "lightning", "pytest"} <= set(expected)
    assert {name: padded(version) for name, version in pins("constraints-oldest.txt").items()} == expected


def test_the_pinned_dependencies_are_within_the_bounds():
    known, pinned = requirements(), pins("constraints.txt")
    for name, bound in (known["dependencies"] | known["dev"] | known["examples"] | known["language"]).items():
        assert padded(pinned[name]) >= padded(bound), name


def test_the_ci_runs_commands_that_there_are():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {word for line in lines for word in re.findall(r"^make (\w+)$", line)}
    called |= {word for line in lines for word in re.findall(r"&& '(\w+)' \|\| '(\w+)'", line) for word in word}
    assert called == {"pytest", "test", "smoke", "release"}
    assert called <= targets
    for name in re.findall(r"constraints[\w-]*\.txt", lines[0]):
        assert name == "constraints-newest.txt" or (ROOT / name).exists()
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    least = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert matrix["python"][0] == least
    assert {"python": least, "dependencies": "oldest"} in matrix["include"]


def test_the_version_is_one_that_the_changelog_has():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(pldistill.__version__)}\b", changelog, re.MULTILINE)


def test_the_hooks_are_the_commands_of_make():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    for hook in hooks:
        assert f"\t{hook['entry'].replace(' --force-exclude', '')}" in makefile, hook["id"]
