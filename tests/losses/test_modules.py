"""The modules are their functions, with the manners of torch.nn."""

import copy
import inspect

import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill import losses
from pldistill.losses import DISTLoss, DKDLoss, KDLoss, ListMLELoss, PLDLoss, PListMLELoss

every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)


def draw():
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(6, 5, generator=generator) for _ in range(2))
    return student, teacher, torch.tensor([0, 1, 2, 3, 4, 7])


@every_loss
def test_module_is_its_function(loss):
    student, teacher, labels = draw()
    for reduction in ("mean", "sum", "none") if loss.summed else ("mean",):
        module = loss.module(**loss.options, reduction=reduction, ignore_index=7)
        expected = loss(student, teacher, labels, reduction=reduction, ignore_index=7)
        assert torch.equal(module(student, teacher, labels), expected)
        assert torch.equal(copy.deepcopy(module)(student, teacher, labels), expected)
        assert not list(module.parameters())
        assert not module.state_dict()


@every_loss
def test_module_and_function_have_the_same_options_and_defaults(loss):
    def options(function):
        tensors = ("student_logits", "teacher_logits", "labels", "sample_weight")
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in tensors}

    assert options(loss.module) == options(loss.function)
    keyword_only = [p.name for p in inspect.signature(loss.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    given_with_labels = ["sample_weight"] if loss.summed else []
    assert keyword_only == [*options(loss.function), *given_with_labels]


def test_defaults():
    assert (
        repr(PLDLoss())
        == "PLDLoss(temperature=1.0, reduction='mean', ignore_index=-100, label_weight=0.0, class_dim=1)"
    )
    assert repr(ListMLELoss()) == "ListMLELoss(weights='uniform', reduction='mean', ignore_index=-100, class_dim=1)"
    assert repr(PListMLELoss()) == "PListMLELoss(normalize=False, reduction='mean', ignore_index=-100, class_dim=1)"
    assert (
        repr(KDLoss()) == "KDLoss(temperature=4.0, tau_squared=True, reduction='mean', ignore_index=-100, class_dim=1)"
    )
    assert (
        repr(DKDLoss())
        == "DKDLoss(alpha=1.0, beta=8.0, temperature=4.0, reduction='mean', ignore_index=-100, class_dim=1)"
    )
    assert (
        repr(DISTLoss())
        == "DISTLoss(beta=2.0, gamma=2.0, temperature=4.0, reduction='mean', ignore_index=-100, class_dim=1)"
    )


def test_options_are_attributes():
    student, teacher, labels = draw()
    module = PLDLoss(ignore_index=7)
    module.temperature = 4.0
    expected = losses.pld(student, teacher, labels, temperature=4.0, ignore_index=7)
    assert torch.equal(module(student, teacher, labels), expected)


@every_loss
def test_bad_options_are_refused_at_construction(loss):
    with pytest.raises(ValueError, match="reduction must be"):
        loss.module(reduction="average")
    with pytest.raises(ValueError, match="ignore_index must be an integer, got None"):
        loss.module(ignore_index=None)
    for name in {"temperature", "alpha", "beta", "gamma"} & loss.options.keys():
        with pytest.raises(ValueError, match=f"{name} must be .*, got -1"):
            loss.module(**{name: -1})


def test_public_names_are_all_there():
    assert sorted(losses.__all__) == sorted(set(losses.__all__))
    assert all(callable(getattr(losses, name)) for name in losses.__all__)
