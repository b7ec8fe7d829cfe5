"""Fixtures that several files share."""

import pytest

import pldistill
from paths import PATHS
from pldistill.recipe import make_recipe
from pldistill.training.loop import Loop
from tiny_runs import CE
from tiny_stores import make


@pytest.fixture(params=["chosen by range", "always logarithmic"])
def scan(request, monkeypatch):
    """Both ways through the sums: what eager CPU tensors choose by range, and that of compiled graphs and devices."""
    if request.param == "always logarithmic":
        monkeypatch.setattr("pldistill.losses._plackett_luce._LINEAR_RANGE", -1.0)


@pytest.fixture(params=PATHS)
def path(request):
    """Every way that PLD is computed in."""
    with PATHS[request.param]():
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A finished run of an epoch, to learn from; nobody writes to it."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return pldistill.train(make_recipe({**CE, "seed": 7, "epochs": 1}), out=folder, device="cpu")


@pytest.fixture
def every_step(monkeypatch):
    """Watches are called, and signals heard, at every step."""
    monkeypatch.setattr(Loop, "LOOK_EVERY", -1.0)


@pytest.fixture(scope="session")
def store(teacher, tmp_path_factory):
    """A teacher cache of two views with every class; nobody writes to it."""
    folder = tmp_path_factory.mktemp("stores") / "all"
    make(teacher, folder)
    return folder


@pytest.fixture(scope="session")
def few(teacher, tmp_path_factory):
    """A teacher cache of two views with ten of the classes, for temperature 4; nobody writes to it."""
    folder = tmp_path_factory.mktemp("stores") / "few"
    make(teacher, folder, places=10)
    return folder
