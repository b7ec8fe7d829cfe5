"""Several methods at once: the terms of each as it gives them alone, weights and options by name."""

import pytest
import torch

import pldistill
from pldistill.launch import Interrupted
from pldistill.methods import METHODS
from pldistill.methods.spec import Ramp
from pldistill.models import NormalizedModel, build
from pldistill.tasks.registry import find_method
from pldistill.types import Outputs
from tiny_runs import StopAt, assert_same_run, distill

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
COMBINATIONS = ["kd+at", "pld+fitnet+sp", "dkd+rkd", "dhkd+kd", "pld+kd", "at+fitnet", "vid+pkt", "nkd+dist"]


def models(spec, options):
    student, teacher = (NormalizedModel(build(name, num_classes=5), **HALF) for name in ("resnet8", "resnet20"))
    if spec.taps is not None:
        ours, theirs = spec.taps(student.stages(), teacher.stages(), options)
        student.listen(ours)
        teacher.listen(theirs)
    return student, teacher


def built(name, options):
    """The method for two models, and what they say of a batch."""
    torch.manual_seed(0)
    spec = find_method(name)
    options = spec.complete_options(options)
    student, teacher = models(spec, options)
    probes = [model.probe(32) for model in (student, teacher)] if spec.taps is not None else []
    torch.manual_seed(1)
    method = spec.build(*probes, **options)
    images = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        return method.eval(), student.eval()(images), teacher.eval()(images)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_each_term_is_what_its_method_gives_alone(name):
    options = {"kd.temperature": 2.0} if name.startswith("kd") else {}
    method, student, teacher = built(name, options)
    labels = torch.arange(6) % 5
    terms = method(student, teacher, labels)
    parts = name.split("+")
    assert set(terms) == set(parts)
    for part in parts:
        alone, ours, theirs = built(part, {"temperature": 2.0} if options and part == "kd" else {})
        alone.load_state_dict(method.parts[part].state_dict())  # the adapters' draws come one after the other
        expected = alone(ours, theirs, labels)[part]
        torch.testing.assert_close(terms[part], expected, rtol=1e-6, atol=0)


def test_weights_and_options_are_those_of_the_parts():
    spec = find_method("kd+at")
    assert dict(spec.weights) == {"task": 1.0, "kd": 0.9, "at": 1000.0}  # kd alone has 0.1 for the task's
    assert spec.complete_options({"kd.temperature": 3})["kd.temperature"] == 3.0
    assert spec.options["at.power"] == METHODS["at"].options["power"]
    assert find_method("pld+dkd").weights["dkd"] == METHODS["dkd"].weights["dkd"]
    assert isinstance(find_method("pld+dkd").weights["dkd"], Ramp)
    assert find_method("kd+pld").tail_temperature(find_method("kd+pld").complete_options({"kd.temperature": 1})) == 1.0
    assert find_method("kd+pld").tail_temperature(find_method("kd+pld").complete_options({})) is None  # 4 and 1
    assert (find_method("kd+rkd").couples_batch, find_method("kd+dkd").couples_batch) == (True, False)
    assert (find_method("kd+js").needs_labels, find_method("kd+pld").needs_labels) == (False, True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kd+att", "unknown method 'att'; did you mean"),
        ("kd+kd", "expected each of 'kd\\+kd' once, got 'kd' twice"),
        ("ce+pld", "'ce' has no term but the task's, which is --weight task=1, got 'ce\\+pld'"),
        ("kd+", "unknown method ''"),
    ],
)
def test_what_is_no_combination_is_refused(name, says):
    with pytest.raises(ValueError, match=says):
        find_method(name)


def test_an_option_without_its_method_is_refused_with_the_near_one():
    with pytest.raises(ValueError, match=r"unknown option 'temperature'; did you mean .*kd.temperature"):
        find_method("kd+at").complete_options({"temperature": 2})
    with pytest.raises(ValueError, match="unknown weight 'a'"):
        find_method("kd+at").complete_weights({"a": 2.0})


def test_a_run_is_resumed_bit_for_bit(tmp_path, teacher, every_step):
    recipe = distill(teacher, method="pld+fitnet", epochs=2)
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    assert set(whole.record.epochs()[-1]["terms"]) == {"task", "pld", "fitnet"}
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "stopped", device="cpu", callback=StopAt(1, 1))
    pldistill.train(recipe, out=tmp_path / "stopped", device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert not any("part" in name for name in whole.load().model.state_dict())  # adapters stay out of the student


def test_features_go_to_the_part_that_asked_for_them():
    from pldistill.methods.combined import only

    outputs = Outputs(torch.zeros(1, 2), {"-1": torch.ones(1), "pooled": torch.zeros(1)})
    assert list(only(outputs, ["pooled"]).features) == ["pooled"]
