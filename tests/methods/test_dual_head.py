"""Dual-head KD: the second head is built and trained; the student's own head gets nothing from the teacher."""

import pytest
import torch

from pldistill.losses import dhkd
from pldistill.methods import METHODS
from pldistill.types import Outputs


def outputs(rows=6, width=8, classes=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, requires_grad=True)
    feature = torch.randn(rows, width, generator=generator, requires_grad=True)
    teacher = Outputs(3 * torch.randn(rows, classes, generator=generator))
    return Outputs(logits, {"pooled": feature}), teacher, torch.randint(classes, (rows,), generator=generator)


def built(**options):
    student, teacher, _ = outputs()
    torch.manual_seed(1)
    spec = METHODS["dhkd"]
    return spec.build(student, teacher, **spec.complete_options(options))


def test_the_term_is_the_loss_of_the_second_heads_logits():
    student, teacher, labels = outputs()
    method = built(temperature=3.0)
    (feature,) = student.features.values()
    expected = dhkd(feature @ method.head.weight.T + method.head.bias, teacher.logits, temperature=3.0)
    terms = method(student, teacher, labels)
    assert set(terms) == {"dhkd"}
    torch.testing.assert_close(terms["dhkd"], expected)


@pytest.mark.parametrize("head", ["linear", "nonlinear"])
def test_the_head_and_the_feature_get_a_gradient_and_the_students_own_head_none(head):
    student, teacher, labels = outputs()
    method = built(head=head)
    method(student, teacher, labels)["dhkd"].backward()
    assert student.logits.grad is None
    (feature,) = student.features.values()
    assert feature.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in method.parameters())
    sizes = [tuple(parameter.shape) for parameter in method.parameters()]
    expected = {"linear": [(5, 8), (5,)], "nonlinear": [(200, 8), (200,), (200,), (200,), (5, 200), (5,)]}
    assert sizes == expected[head]


def test_the_teacher_is_asked_for_its_logits_alone():
    spec = METHODS["dhkd"]
    assert spec.taps(["stem", "a"], ["stem", "b"], spec.options) == (["pooled"], [])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "linaer"}, "unknown option head 'linaer'; did you mean linear"),
        ({"temperature": 0}, "temperature must be a positive finite number, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        built(**options)


def test_a_map_in_place_of_a_pooled_feature_is_refused():
    student = Outputs(torch.zeros(1, 5), {"pooled": torch.zeros(1, 8, 2, 2)})
    with pytest.raises(ValueError, match=r"expected a pooled feature \(N, D\) of the student, got \(1, 8, 2, 2\)"):
        METHODS["dhkd"].build(student, Outputs(torch.zeros(1, 5)), **METHODS["dhkd"].options)
