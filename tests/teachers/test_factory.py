"""A module of one's own as the teacher of a recipe: `module.path:factory`."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from pldistill import make_recipe, train
from pldistill.data import open_data
from pldistill.specs import split_weights
from pldistill.teachers.live import open_teacher

SOURCE = """
import torch
from torch import nn
from pldistill.models import NormalizedModel

def build(classes=10):
    torch.manual_seed(1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes))

def with_statistics():
    return NormalizedModel(build(), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))

def eleven():
    return build(11)

def flat():
    return nn.Flatten(0)

def number():
    return 3

def wants(argument):
    return build()

_hidden = 1
"""
FIELDS = {"data": "digits", "student": "resnet8", "method": "kd", "trust_teacher": True, "epochs": 1}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_models").mkdir()
    (tmp_path / "own_models" / "__init__.py").write_text("")
    (tmp_path / "own_models" / "small.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("own_models", "own_models.small"):
        sys.modules.pop(name, None)


def teacher(name, **fields):
    recipe = make_recipe({**FIELDS, "teacher": name, **fields})
    return open_teacher(recipe, open_data("digits"))


def test_it_answers_as_the_module_does_with_the_datas_statistics():
    data = open_data("digits")
    model = teacher("own_models.small:build").model
    from own_models.small import build

    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    assert torch.allclose(model(images).logits, build()((images / 255 - mean) / std), atol=1e-6)


def test_a_normalized_model_keeps_its_own_statistics():
    own = teacher("own_models.small:with_statistics").model
    assert own.statistics()["mean"] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("at", ["@weights.safetensors", ""])
def test_a_checkpoint_is_loaded_into_it(at):
    model = teacher("own_models.small:build").model
    state = {name: torch.full_like(value, 0.25) for name, value in model.model.state_dict().items()}
    save_file(state, "weights.safetensors")
    more = {} if at else {"teacher_checkpoint": "weights.safetensors"}
    loaded = teacher(f"own_models.small:build{at}", **more)
    assert all((value == 0.25).all() for value in loaded.model.model.state_dict().values())
    assert split_weights("own_models.small:build@w.pt") == ("own_models.small:build", "w.pt")


def test_a_run_learns_from_it_and_is_resumed(tmp_path):
    recipe = make_recipe({**FIELDS, "teacher": "own_models.small:build", "data": "digits"})
    run = train(recipe, out=tmp_path / "run", device="cpu")
    assert run.result["teacher"] == "own_models.small:build"
    assert run.result["teacher_parameters"] == 130
    assert train(recipe, out=tmp_path / "run", device="cpu", resume=True).result == run.result


def test_the_students_first_weights_do_not_hang_on_it():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    teacher("own_models.small:build")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_models.smal:build", "cannot import 'own_models.smal'"),
        ("nowhere_at_all:build", "cannot import 'nowhere_at_all': No module named"),
        ("own_models.small:biuld", "unknown function of own_models.small 'biuld'; did you mean build"),
        ("own_models.small:number", "expected a torch.nn.Module from it, got int"),
        ("own_models.small:wants", "expected a function without arguments"),
        ("own_models.small:eleven", "expected logits of the data's 10 classes, got 11"),
        ("own_models.small:flat", r"expected logits \(1, C\) of one image, got \(3072,\)"),
    ],
)
def test_what_is_no_teacher_is_refused(name, says):
    before = list(sys.path)
    with pytest.raises(ValueError, match=says):
        teacher(name)
    assert sys.path == before
