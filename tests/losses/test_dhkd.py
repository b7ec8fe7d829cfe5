"""Dual-head KD's logit term: the binary KL written out, its closed form near 0, and where the public code overflows."""

import math

import pytest
import torch

from pldistill.losses import dhkd


def draw(rows=5, classes=6):
    generator = torch.Generator().manual_seed(8)
    student, teacher = (4 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher


def by_hand(s, t, temperature):
    """τ² Σ_c KL(Bernoulli(1/2) || Bernoulli(p_c))."""
    total = 0.0
    for a, b in zip(s, t, strict=True):
        p, rest = 1 / (1 + math.exp((b - a) / temperature)), 1 / (1 + math.exp((a - b) / temperature))
        total += 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / rest)
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_value_is_the_binary_kl_written_out_by_hand(temperature):
    student, teacher = draw()
    expected = [by_hand(*row, temperature) for row in zip(student.tolist(), teacher.tolist(), strict=True)]
    measured = dhkd(student, teacher, temperature=temperature, reduction="none")
    assert measured.tolist() == pytest.approx(expected, rel=1e-9)
    assert dhkd(student, teacher, temperature=temperature).item() == pytest.approx(sum(expected) / 5, rel=1e-9)


def test_gradient_is_that_of_the_value_and_of_tanh():
    student, teacher = draw()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: dhkd(s, teacher), student)
    (gradient,) = torch.autograd.grad(dhkd(student, teacher, reduction="sum"), student)
    torch.testing.assert_close(gradient, torch.tanh((student - teacher).detach() / 4))  # τ / 2 tanh(d / 2τ), τ = 2


@pytest.mark.parametrize("gap", [34.0, -34.0, 1e4, -1e30])
def test_a_gap_that_the_public_code_makes_infinite_is_finite_and_learnt_from(gap):
    student = torch.tensor([[gap, 0.0]], requires_grad=True)
    value = dhkd(student, torch.zeros(1, 2), temperature=2.0)
    assert value.item() == pytest.approx(4 * (abs(gap) / 4 - math.log(2)), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[0].tolist() == pytest.approx([math.copysign(1, gap), 0], abs=1e-6)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-15])
def test_float32_is_exact_near_the_teacher(gap):
    student = torch.tensor([[gap, 0.0]], dtype=torch.float32)
    assert dhkd(student, torch.zeros(1, 2), temperature=1.0).item() == pytest.approx(gap**2 / 8, rel=1e-5)


def test_where_the_two_forms_meet_value_and_derivatives_agree():
    below, above = (torch.tensor([[2 * x, 0.0]], dtype=torch.float64) for x in (1 - 1e-12, 1.0))
    for derivative in range(3):
        found = []
        for student in (below.clone().requires_grad_(), above.clone().requires_grad_()):
            value = dhkd(student, torch.zeros_like(student), temperature=1.0)
            for _ in range(derivative):
                value = torch.autograd.grad(value, student, create_graph=True)[0][0, 0]
            found.append(value.item())
        assert found[0] == pytest.approx(found[1], rel=1e-10)
        assert found[0] > 0.1


def test_classes_that_one_model_masks_alone_cost_infinity():
    student = torch.tensor([[0.0, -math.inf, -math.inf]])
    assert dhkd(student, torch.tensor([[1.0, -math.inf, -math.inf]])).isfinite()
    assert dhkd(student, torch.tensor([[1.0, 0.0, -math.inf]])) == math.inf
