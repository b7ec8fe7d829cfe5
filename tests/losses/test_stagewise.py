"""The KL along the ranking: values written out by hand, what it is equal to, and what it refuses."""

import math
from functools import partial

import pytest
import torch

import reference
from pldistill.losses import PlackettLuceKLLoss, dkd, kd, plackett_luce_kl, teacher_optimal_ranking
from pldistill.methods import METHODS
from pldistill.types import Outputs
from stagewise_draws import draw, every_weighting, gradient_of


def by_definition(student, teacher, label, weights, temperature):
    """One row, O(C²), as one would write it: at each stage two softmaxes of what is left, and their KL."""
    ranking = reference.ranking_of(teacher, label)
    loss, gradient = [], [0.0] * len(student)
    for k, weight in enumerate(weights):
        left = ranking[k:]
        p, q = (reference.softmax([z[c] / temperature for c in left]) for z in (student, teacher))
        loss.append(weight * math.fsum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
        for c, a, b in zip(left, p, q, strict=True):
            gradient[c] += temperature * weight * (a - b)
    return temperature**2 * math.fsum(loss), gradient


def all_by_definition(student, teacher, labels, temperature, stages):
    found = []
    for s, t, y in zip(student.double().tolist(), teacher.double().tolist(), labels.tolist(), strict=True):
        weights = reference.stage_weights(t, reference.ranking_of(t, y), stages, temperature)
        found.append(by_definition(s, t, y, weights, temperature))
    losses, gradients = zip(*found, strict=True)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def test_three_classes_by_hand():
    student, teacher = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    s, t = (math.exp(0.5), math.exp(1.0), math.exp(1.5)), (math.exp(0.0), math.exp(1.0), math.exp(0.5))
    # temperature 2, label 0: the order is class 0, then 2, then 1
    first = sum(b / sum(t) * math.log((b / sum(t)) / (a / sum(s))) for a, b in zip((s[0], s[1], s[2]), t, strict=True))
    p, q = s[1] / (s[1] + s[2]), t[1] / (t[1] + t[2])
    second = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    by_stages = partial(plackett_luce_kl, student, teacher, torch.tensor([0]), temperature=2.0)
    assert by_stages(stage_weights=1).item() == pytest.approx(4 * first, rel=1e-6)
    assert by_stages(stage_weights=2).item() == pytest.approx(4 * (first + second) / 2, rel=1e-6)
    assert by_stages(stage_weights=3).item() == pytest.approx(4 * (first + second) / 3, rel=1e-6)
    by_teacher = 4 * (t[0] * first + t[1] * second) / sum(t)
    assert by_stages(stage_weights="teacher").item() == pytest.approx(by_teacher, rel=1e-6)
    given = by_stages(stage_weights=torch.tensor([0.5, 3.0, 7.0]))
    assert given.item() == pytest.approx(4 * (0.5 * first + 3.0 * second), rel=1e-6)


@every_weighting
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.usefixtures("scan")
def test_is_its_definition(stages, temperature):
    student, teacher, labels = draw(classes=30)
    losses = plackett_luce_kl(student, teacher, labels, temperature=temperature, stage_weights=stages, reduction="none")
    exact, exact_gradient = all_by_definition(student, teacher, labels, temperature, stages)
    torch.testing.assert_close(losses, exact, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient_of(losses, student), exact_gradient, rtol=1e-11, atol=1e-14)


@every_weighting
def test_reference_agrees_with_the_definition(stages):
    student, teacher, labels = draw(classes=40, scale=5.0)
    exact, exact_gradient = all_by_definition(student, teacher, labels, 2.0, stages)
    losses, gradient = reference.plackett_luce_kl(student, teacher, labels, 2.0, stages)
    torch.testing.assert_close(losses, exact, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-9, atol=1e-14)


def test_first_stage_alone_is_kd():
    student, teacher, labels = draw()
    first = torch.tensor([1.0, *[0.0] * 11], dtype=torch.float64)
    expected = kd(student, teacher, temperature=3.0, reduction="none")
    gradient = gradient_of(expected, student)
    for weights in (first, first.expand(6, 12), 1):
        losses = plackett_luce_kl(student, teacher, labels, temperature=3.0, stage_weights=weights, reduction="none")
        torch.testing.assert_close(losses, expected, rtol=1e-11, atol=0)
        torch.testing.assert_close(gradient_of(losses, student), gradient)


def test_second_stage_alone_is_dkds_non_target_term():
    student, teacher, labels = draw()
    second = torch.tensor([0.0, 1.0, *[0.0] * 10], dtype=torch.float64)
    losses = plackett_luce_kl(student, teacher, labels, temperature=3.0, stage_weights=second, reduction="none")
    expected = dkd(student, teacher, labels, alpha=0.0, beta=1.0, temperature=3.0, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient_of(losses, student), gradient_of(expected, student))
    written_out = reference.dkd(student, teacher, labels, alpha=0.0, beta=1.0, temperature=3.0)
    torch.testing.assert_close(losses, written_out, rtol=1e-11, atol=0)


def test_weights_may_differ_by_row_and_position():
    student, teacher, labels = draw(rows=6, classes=5)
    weights = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = plackett_luce_kl(student, teacher, labels, stage_weights=weights, reduction="none")
    exact = [
        by_definition(s, t, y, w, 4.0)[0]
        for s, t, y, w in zip(student.tolist(), teacher.tolist(), labels.tolist(), weights.tolist(), strict=True)
    ]
    assert expected.tolist() == pytest.approx(exact, rel=1e-11)
    s, t, w = (z.detach().view(2, 3, 5).movedim(-1, 1) for z in (student, teacher, weights))
    losses = plackett_luce_kl(s, t, labels.view(2, 3), stage_weights=w, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected)


@pytest.mark.usefixtures("scan")
@every_weighting
def test_gradcheck(stages):
    student, teacher, labels = draw(rows=3)
    assert torch.autograd.gradcheck(partial(_loss, teacher=teacher, labels=labels, stages=stages), student)


def _loss(student, teacher, labels, stages):
    return plackett_luce_kl(student, teacher, labels, temperature=2.0, stage_weights=stages, reduction="none")


BAD_WEIGHTS = [
    (0, r"stage_weights must be 'teacher', an integer of at least 1 or a tensor, got 0"),
    (-2, r"stage_weights must be 'teacher', .* got -2"),
    (True, r"stage_weights must be 'teacher', .* got True"),
    (1.5, r"stage_weights must be 'teacher', .* got 1\.5"),
    ("student", r"stage_weights must be 'teacher', .* got 'student'"),
    (None, r"stage_weights must be 'teacher', .* got None"),
    ([1.0, 0.0, 0.0], r"stage_weights must be 'teacher', .* got \[1\.0, 0\.0, 0\.0\]"),
    (4, r"stage_weights must be at most C = 3 stages, got 4"),
    (torch.ones(3).long(), r"stage_weights must be floating point, got torch.int64"),
    (torch.ones(4), r"stage_weights must have shape \(2, 3\) or \(3,\), got \(4,\)"),
    (torch.ones(2, 1), r"stage_weights must have shape \(2, 3\) or \(3,\), got \(2, 1\)"),
    (torch.tensor([1.0, -1.0, 0.0]), r"stage_weights must be finite and at least 0, got -1\.0"),
    (torch.tensor([1.0, math.nan, 0.0]), r"stage_weights must be finite and at least 0, got nan"),
    (torch.ones(3, requires_grad=True), r"stage_weights must not require grad.*stage_weights\.detach\(\)"),
    (torch.ones(3, device="meta"), r"stage_weights are on meta but student_logits on cpu"),
]


@pytest.mark.parametrize(("weights", "words"), BAD_WEIGHTS)
def test_bad_stage_weights(weights, words):
    with pytest.raises(ValueError, match=words):
        plackett_luce_kl(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]), stage_weights=weights)


@pytest.mark.parametrize(("weights", "words"), BAD_WEIGHTS[:7])
def test_module_refuses_them_at_construction(weights, words):
    with pytest.raises(ValueError, match=words):
        PlackettLuceKLLoss(stage_weights=weights)


def test_module_takes_its_weights_along():
    module = PlackettLuceKLLoss(stage_weights=torch.tensor([0.5, 0.5, 0.0]))
    assert not module.state_dict()
    assert module.to("meta").stage_weights.device.type == "meta"
    known = "temperature=4.0, stage_weights=2, reduction='mean', ignore_index=-100, class_dim=1"
    assert repr(PlackettLuceKLLoss()) == f"PlackettLuceKLLoss({known})"


def test_stages_of_the_method():
    student, teacher, labels = draw()
    for stages, weights in (("2", 2), ("10", 10), ("teacher", "teacher")):
        options = METHODS["plkl"].complete_options({"stages": stages})
        terms = METHODS["plkl"].build(**options)(Outputs(student), Outputs(teacher), labels)
        assert terms.keys() == {"plkl"}
        assert torch.equal(
            terms["plkl"], plackett_luce_kl(student, teacher, labels, temperature=4.0, stage_weights=weights)
        )
    for stages in ("0", "-1", "2.5", "all", ""):
        with pytest.raises(ValueError, match=f"option stages: expected a whole number .* got '{stages}'"):
            METHODS["plkl"].build(temperature=4.0, stages=stages)


def test_stages_are_by_mass_in_the_rankings_order():
    """Weights of a tensor belong to places, so the teacher's mass in that order is "teacher"."""
    student, teacher, labels = draw()
    mass = (teacher / 4).softmax(1).gather(1, teacher_optimal_ranking(teacher, labels))
    torch.testing.assert_close(
        plackett_luce_kl(student, teacher, labels, stage_weights=mass),
        plackett_luce_kl(student, teacher, labels, stage_weights="teacher"),
    )
