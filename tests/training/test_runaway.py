"""Numbers that run away are said, by the term's name and with the likely reason, and stand in the result."""

import math

import pytest
import torch
from torch import nn

import pldistill
from pldistill.recipe import make_recipe
from pldistill.training import runaway
from pldistill.training.progress import SilentCallback

CE = {"data": "digits", "student": "resnet8", "method": "ce", "epochs": 1, "batch_size": 256}


class Heard(SilentCallback):
    """Keeps what a user is warned of."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def row(epoch, **terms):
    return {"epoch": epoch, "terms": {name: {"raw": value, "weighted": value} for name, value in terms.items()}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([2.0, 1.0, 0.5], None),
        ([2.0, 199.0], None),  # not yet a hundredfold
        ([2.0, 0.1, 11.0], "grew from 0.1 in epoch 2 to 11 in epoch 3: because"),
        ([1e-6, 0.9], None),  # a term that begins at nothing
        ([0.0, 0.5, 1.5], "grew from 0 in epoch 1 to 1.5 in epoch 3: because"),
        ([-3.0, -2.0, -900.0], "grew from 2 in epoch 2 to 900 in epoch 3: because"),
    ],
)
def test_growth_of_a_term(values, said):
    rows = [row(number, kd=value, task=1.0) for number, value in enumerate(values, 1)]
    warnings = runaway.of_epochs(rows, 10, "because")
    assert (list(warnings) == []) if said is None else (warnings["kd"].endswith(said) and len(warnings) == 1)


@pytest.mark.parametrize("name", ["kl", "val_loss"])
def test_a_validation_figure_far_above_guessing(name):
    guessing = math.log(10)
    fine, bad = {**row(1, ce=1.0), name: 9.9 * guessing}, {**row(2, ce=1.0), name: 10.1 * guessing}
    assert runaway.of_epochs([fine], 10, "because") == {}
    assert runaway.of_epochs([{**fine, name: None}], 10, "because") == {}  # a task without the figure
    (said,) = runaway.of_epochs([fine, bad, {**bad, "epoch": 3}], 10, "because").values()
    assert "in epoch 2 is 23.3 nats; guessing has 2.3: because" in said


def test_a_step_longer_than_all_weights():
    layer = nn.Linear(3, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[3.0, 0.0, 4.0]]))
    layer.weight.grad = torch.tensor([[0.0, 12.0, 5.0]])
    assert runaway.norm(layer.parameters()) == 5.0
    assert runaway.gradient_norm(layer) == 13.0
    assert runaway.of_step(1, 13.0, 5.0, 5 / 13, "because") is None
    assert runaway.of_step(2, 13.0, 5.0, 1.0, "because") == (
        "step 2 of the optimizer is 2.6 times as long as all weights together (gradient norm 13, learning rate 1): "
        "because"
    )


def test_a_run_that_goes_well_is_silent(tmp_path):
    heard = Heard()
    run = pldistill.train(make_recipe({**CE, "epochs": 2}), out=tmp_path / "run", device="cpu", callback=heard)
    assert heard.warnings == []
    assert "warnings" not in run.result


def test_a_learning_rate_that_is_too_high_is_said_and_recorded(tmp_path):
    heard = Heard()
    recipe = make_recipe({**CE, "lr": 300.0, "epochs": 2})
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", callback=heard)
    assert any(said.startswith("step 1 of the optimizer is ") for said in heard.warnings)
    (said,) = [said for said in heard.warnings if "validation cross-entropy" in said]
    assert "likely the learning rate (300) or a term's weight (task 1.0) is too large; try a lower --lr" in said
    assert said in run.result["warnings"]
    again = pldistill.train(recipe, out=tmp_path / "run", device="cpu", resume=True)
    assert again.result["warnings"] == run.result["warnings"]


@pytest.mark.parametrize(
    ("method", "options", "minds"),
    [
        ("dist", {}, True),
        ("kd", {"standardize": "both"}, True),
        ("kd", {"standardize": "teacher"}, False),
        ("kd", {}, False),
        ("pld", {"standardize": "both"}, True),
        ("ce", {}, False),
    ],
)
def test_logits_that_are_alike_before_the_first_step(method, options, minds):
    teacher = None if method == "ce" else "t"
    recipe = make_recipe({**CE, "student": "resmlp_12_224", "method": method, "options": options, "teacher": teacher})
    alike, apart = torch.zeros(1, 10), torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    said = runaway.alike_at_first(recipe, alike)
    assert (said is not None) == minds
    assert runaway.alike_at_first(recipe, apart) is None
    if minds:
        assert said.startswith("student 'resmlp_12_224' begins with the same logit for every class")
        assert "divides by the deviation" in runaway.likely_reason(recipe)


def test_a_head_of_zeros_is_said_before_it_diverges(tmp_path):
    teacher = pldistill.train(make_recipe(CE), out=tmp_path / "teacher", device="cpu")
    fields = {**CE, "student": "resmlp_12_224", "method": "dist", "teacher": str(teacher.folder)}
    heard = Heard()
    with pytest.raises(pldistill.training.distiller.NonFiniteLoss):
        pldistill.train(
            make_recipe({**fields, "image_size": 32, "lr": 1.0, "trust_teacher": True}),
            out=tmp_path / "run",
            device="cpu",
            callback=heard,
        )
    assert any("begins with the same logit for every class" in said for said in heard.warnings)
    assert any(said.startswith("step 1 of the optimizer is ") for said in heard.warnings)
