"""Weights and options that move over a run: one mechanism, `FROM..TO@PART`."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pldistill import losses, make_recipe, train
from pldistill.methods import METHODS, Ramp
from pldistill.methods.spec import parse_ramp
from pldistill.types import Outputs

PLD = {"data": "digits", "student": "resnet8", "method": "pld", "teacher": "random:resnet8", "trust_teacher": True}


@pytest.mark.parametrize(
    ("text", "ramp"),
    [
        ("1@0.5", Ramp(1.0, 0.5)),
        ("4..1@0.25", Ramp(1.0, 0.25, 4.0)),
        ("0.5..0@1", Ramp(0.0, 1.0, 0.5)),
        ("0..2@1", Ramp(2.0, 1.0)),
        ("3", None),
    ],
)
def test_a_ramp_is_read_and_written(text, ramp):
    assert parse_ramp(text) == ramp
    assert ramp is None or parse_ramp(str(ramp)) == ramp


def test_the_value_of_an_epoch_is_on_the_line():
    ramp = Ramp(1.0, 0.5, 4.0)
    assert [ramp.at(epoch, 8) for epoch in range(8)] == [3.25, 2.5, 1.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert [Ramp(0.8, 1.0).at(epoch, 4) for epoch in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("name", [name for name, spec in METHODS.items() if spec.ramps])
def test_a_method_has_the_value_of_its_epoch(name):
    spec, generator = METHODS[name], torch.Generator().manual_seed(2)
    student, teacher = (Outputs(torch.randn(4, 6, generator=generator)) for _ in range(2))
    labels = torch.tensor([0, 3, 5, 1])
    moving = [option for option, default in spec.options.items() if isinstance(default, float)]
    for option in moving:
        built = spec.build(**spec.complete_options({option: "0.25..0.75@0.5"}))
        for epoch, value in enumerate((0.5, 0.75, 0.75, 0.75)):
            built.begin_epoch(epoch, 4)
            still = spec.build(**spec.complete_options({option: value}))
            assert torch.equal(built(student, teacher, labels)[name], still(student, teacher, labels)[name])
    assert moving or name in ("listmle", "plistmle", "rankdistil")  # whose options are no floats


def test_a_run_moves_its_options_and_is_resumed_bit_for_bit(tmp_path):
    ramped = {**PLD, "epochs": 4, "options": {"temperature": "4..1@0.5", "label_weight": "0.6..0@1"}}
    recipe = make_recipe(ramped)
    assert make_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    whole = train(recipe, out=tmp_path / "whole", device="cpu")

    class Stop:
        def __getattr__(self, name):
            return lambda *given: None

        def epoch(self, row):
            if row["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path / "stopped", device="cpu", callback=Stop())
    again = train(recipe, out=tmp_path / "stopped", device="cpu", resume=True)
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    fixed = train(make_recipe({**PLD, "epochs": 4}), out=tmp_path / "fixed", device="cpu")
    values = [[row["terms"]["pld"]["raw"] for row in run.record.epochs()] for run in (whole, fixed)]
    assert values[0][0] != values[1][0]


def test_the_floor_that_moves_is_the_loss_of_each_epoch():
    method = METHODS["pld"].build(**METHODS["pld"].complete_options({"label_weight": "1..0@1"}))
    student, teacher, labels = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 1, 2])
    method.begin_epoch(9, 10)
    assert torch.equal(method(Outputs(student), Outputs(teacher), labels)["pld"], losses.pld(student, teacher, labels))
    method.begin_epoch(1, 10)
    expected = losses.pld(student, teacher, labels, label_weight=0.8)
    torch.testing.assert_close(method(Outputs(student), Outputs(teacher), labels)["pld"], expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": {"temperature": "4..1@2"}}, r"option temperature: expected TO@PART or FROM..TO@PART with PART in"),
        ({"options": {"temperature": "4..@0.5"}}, "option temperature: expected TO@PART or FROM..TO@PART"),
        ({"options": {"temperature": "..1@0.5"}}, "option temperature: expected TO@PART or FROM..TO@PART"),
        ({"options": {"temperature": "1..-1@0.5"}}, None),
        ({"options": {"temperature": "-1..1@1"}, "epochs": 4}, None),
        ({"options": {"standardize": Ramp(1.0, 0.5)}}, "option standardize: expected a fixed value, got 1.0@0.5; "),
        ({"method": "plkl", "options": {"temperature": "1@1"}}, "options that move: none of this method's"),
        ({"method": "at", "options": {"power": "1@1"}}, "options that move: none of this method's"),
        ({"weights": {"pld": "2..-1@0.5"}}, r"expected a number from 0 to 1e\+09, or TO@PART or FROM..TO@PART"),
        ({"weights": {"pld": "nan@0.5"}}, r"expected a number from 0 to 1e\+09, or TO@PART"),
    ],
)
def test_what_is_no_ramp_is_refused(change, says, tmp_path):
    if says is None:  # a value that the loss itself refuses, before the run has a folder
        with pytest.raises(ValueError, match="temperature must be a positive finite number"):
            train(make_recipe({**PLD, **change}), out=tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()
    else:
        with pytest.raises(ValueError, match=says):
            make_recipe({**PLD, **change})
