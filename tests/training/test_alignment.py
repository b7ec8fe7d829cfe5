"""Gradient alignment: by hand, as a run's steps against two backward passes written out, and where it cannot be."""

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import pldistill
from pldistill import models
from pldistill.losses import dhkd
from pldistill.recipe import make_recipe
from pldistill.training import build
from pldistill.training import run as training_run
from pldistill.training.alignment import aligned
from tiny_runs import CE, weights


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Runs of four steps from a teacher with drawn weights, which is often against the labels."""
    checkpoint = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.manual_seed(5)
    torch.save(models.build("resnet8", num_classes=100, image_size=16).state_dict(), checkpoint)
    return partial(_recipe, teacher="resnet8", teacher_checkpoint=str(checkpoint), data="glyphs:train=128,val=100")


def _recipe(**change):
    options = change.pop("options", {"align": True})
    return make_recipe(
        {**CE, "method": "dhkd", "epochs": 1, "seed": 4, "schedule": "constant", "options": options, **change}
    )


def test_a_method_that_works_against_the_task_loses_its_component_along_it():
    task, method = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([-2.0, 5.0, 1.0])  # their product is -2
    sum_ = torch.cat(aligned([task[:1], task[1:]], [method[:1], method[1:]]))
    projected = method - (method @ task) / (task @ task) * task
    assert projected @ task == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(sum_, task + projected)


@pytest.mark.parametrize("method", [[2.0, 5.0, 1.0], [4.0, 7.0, -3.0]], ids=["with it", "at a right angle"])
def test_any_other_stays_as_it_is(method):
    task = torch.tensor([3.0, 0.0, 4.0])
    (both,) = aligned([task], [torch.tensor(method)])
    assert torch.equal(both, task + torch.tensor(method))


def test_a_task_without_a_gradient_takes_nothing_away():
    (both,) = aligned([torch.zeros(3)], [torch.tensor([-1.0, 0.0, 1.0])])
    assert both.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_gradients_of_any_size_are_projected(size):
    task, method = torch.tensor([3.0, 4.0]) * size, torch.tensor([-3.0, -3.0]) * size
    (both,) = aligned([task], [method])
    torch.testing.assert_close(both / size, torch.tensor([3.0 - 3 + 63 / 25, 4.0 - 3 + 84 / 25]))


def steps_by_hand(loop, aligns):
    """Train a copy of the loop's modules with torch alone: SGD, two backward passes a step; count the conflicts."""
    distiller = copy.deepcopy(loop.bare)
    student, head = distiller.student, distiller.method.head
    parameters = list(distiller.parameters())
    rates = loop.optimizer.param_groups[0]
    optimizer = torch.optim.SGD(
        parameters,
        rates["lr"],
        momentum=rates["momentum"],
        weight_decay=rates["weight_decay"],
        nesterov=rates["nesterov"],
    )
    conflicts = 0
    distiller.train()
    for batch in loop.loader.epoch(0):
        said = student(batch.images)
        (feature,) = said.features.values()
        optimizer.zero_grad()
        cross_entropy(said.logits, batch.labels).backward(retain_graph=True)
        own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        optimizer.zero_grad()
        dhkd(head(feature), loop.teacher(batch).logits, temperature=2.0).backward()
        other = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        flat, flat_other = (torch.cat([g.flatten() for g in gradients]) for gradients in (own, other))
        product = flat @ flat_other
        share = product / flat.square().sum() if aligns and product < 0 else 0.0
        conflicts += int(product < 0)
        for parameter, a, b in zip(parameters, own, other, strict=True):
            parameter.grad = a + b - share * a
        optimizer.step()
    return distiller.student.model.state_dict(), conflicts


@pytest.mark.parametrize("aligns", [True, False])
def test_a_run_takes_the_steps_of_two_backward_passes_by_hand(recipe, tmp_path, monkeypatch, aligns):
    found = {}

    def assembled(*args, **kwargs):
        loop = build.assemble(*args, **kwargs)
        found["by hand"], found["conflicts"] = steps_by_hand(loop, aligns)
        return loop

    monkeypatch.setattr(training_run, "assemble", assembled)
    run = pldistill.train(recipe(student="test_vit", options={"align": aligns}), out=tmp_path / "run", device="cpu")
    assert found["conflicts"] > 0  # otherwise nothing is aligned
    ours = weights(run.folder)
    for name, value in found["by hand"].items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=5e-6)


def test_half_batches_accumulated_are_the_whole_batch(recipe, tmp_path):
    fields = {"student": "test_vit", "clip_grad": 1.0}
    whole = pldistill.train(recipe(**fields), out=tmp_path / "whole", device="cpu")
    halves = pldistill.train(recipe(**fields, batch_size=16, accumulate=2), out=tmp_path / "halves", device="cpu")
    one, other = weights(whole.folder), weights(halves.folder)
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 2e-6


def test_a_combination_aligns_where_a_part_does(recipe, tmp_path):
    options = {"dhkd.align": True}
    run = pldistill.train(recipe(method="dhkd+at", options=options), out=tmp_path / "aligned", device="cpu")
    plain = pldistill.train(recipe(method="dhkd+at", options={}), out=tmp_path / "plain", device="cpu")
    one, other = weights(run.folder), weights(plain.folder)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_compiled_student_is_refused_before_the_run_has_a_folder(recipe, tmp_path):
    with pytest.raises(ValueError, match="compile: expected False with gradient alignment"):
        pldistill.train(recipe(compile=True), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "recipe.json").exists()
