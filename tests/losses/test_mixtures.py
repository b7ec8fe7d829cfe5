"""Divergences to a mixture of both models: by hand, their ends, and gaps at which probabilities underflow."""

import math

import pytest
import torch

from pldistill.losses import GeneralizedJSDLoss, SkewKLLoss, generalized_jsd, jensen_shannon, kd, reverse_kl, skew_kl

EXACT = {"rtol": 1e-12, "atol": 1e-15}


def draw(rows=6, classes=7):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def kl(a, b):
    return (a * (a / b).log()).sum(1)


def both(student, teacher, temperature):
    return (student / temperature).softmax(1), (teacher / temperature).softmax(1)


@pytest.mark.parametrize("beta", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.9, 4.0])
def test_generalized_jsd_is_its_formula(beta, temperature):
    student, teacher = draw()
    p, q = both(student, teacher, temperature)
    m = beta * q + (1 - beta) * p
    expected = beta * kl(q, m) + (1 - beta) * kl(p, m)
    options = {"beta": beta, "temperature": temperature, "reduction": "none"}
    plain = generalized_jsd(student, teacher, tau_squared=False, **options)
    torch.testing.assert_close(plain, expected, **EXACT)
    torch.testing.assert_close(generalized_jsd(student, teacher, **options), temperature**2 * expected, **EXACT)
    gradients = [torch.autograd.grad(each.sum(), student)[0] for each in (plain, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("beta", "loss"), [(0.0, kd), (1.0, reverse_kl), (0.5, jensen_shannon)])
def test_the_ends_and_the_middle_of_generalized_jsd(beta, loss):
    student, teacher = draw()
    found = generalized_jsd(student, teacher, beta=beta, temperature=2.0)
    torch.testing.assert_close(found, loss(student, teacher, temperature=2.0), **EXACT)


@pytest.mark.parametrize("skew", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_skew_kl_is_its_formula(skew, direction):
    student, teacher = draw()
    p, q = both(student, teacher, 2.0)
    a, b = (q, p) if direction == "forward" else (p, q)
    expected = 4 * kl(a, skew * a + (1 - skew) * b)
    found = skew_kl(student, teacher, skew=skew, direction=direction, temperature=2.0, reduction="none")
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = [torch.autograd.grad(each.sum(), student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("direction", "loss"), [("forward", kd), ("reverse", reverse_kl)])
def test_the_ends_of_skew_kl(direction, loss):
    student, teacher = draw()
    none = skew_kl(student, teacher, skew=0.0, direction=direction, temperature=2.0)
    torch.testing.assert_close(none, loss(student, teacher, temperature=2.0), **EXACT)
    assert skew_kl(student, teacher, skew=1.0, direction=direction).item() == 0


@pytest.mark.parametrize("skew", [0.0, 0.1])
def test_the_entropy_is_a_constant_of_the_forward_loss(skew):
    student, teacher = draw()
    whole, cross = (
        skew_kl(student, teacher, skew=skew, entropy=entropy, reduction="none") for entropy in (True, False)
    )
    q = teacher.softmax(1)
    torch.testing.assert_close(cross - whole, -(q * q.log()).sum(1), rtol=1e-11, atol=1e-14)
    gradients = [torch.autograd.grad(each.sum(), student)[0] for each in (whole, cross)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-15)


CONFIDENT, WRONG = torch.tensor([[0.0, 120.0, -120.0]]), torch.tensor([[120.0, 0.0, -120.0]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda s, t: generalized_jsd(s, t), math.log(2)),
        (lambda s, t: generalized_jsd(s, t, beta=0.1), -0.1 * math.log(0.1) - 0.9 * math.log(0.9)),
        (lambda s, t: skew_kl(s, t), math.log(10)),
        (lambda s, t: skew_kl(s, t, direction="reverse"), math.log(10)),
        (lambda s, t: skew_kl(s, t, entropy=False), math.log(10)),
        (lambda s, t: skew_kl(s, t, skew=0.0, entropy=False), 120.0),
    ],
)
def test_a_gap_of_120_in_float32(loss, expected):
    student = CONFIDENT.clone().requires_grad_()
    value = loss(student, WRONG)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_class_that_one_model_rules_out_has_a_finite_skew_kl(direction):
    student = torch.tensor([[0.0, -math.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.5, 1.0, -math.inf]], dtype=torch.float64)
    value = skew_kl(student, teacher, skew=0.1, direction=direction)
    assert 0 < value.item() <= math.log(10)
    gradient = torch.autograd.grad(value, student)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SkewKLLoss(skew=1.5), r"skew must be a number in \[0, 1\], got 1.5"),
        (lambda: SkewKLLoss(direction="forwards"), "did you mean 'forward'"),
        (lambda: SkewKLLoss(direction="reverse", entropy=False), "entropy must be True for direction='reverse'"),
        (lambda: SkewKLLoss(entropy=0), "entropy must be True or False, got 0"),
        (lambda: skew_kl(CONFIDENT, WRONG, direction="reverse", entropy=False), "entropy must be True"),
        (lambda: generalized_jsd(CONFIDENT, WRONG, beta=1.5), r"beta must be a number in \[0, 1\], got 1.5"),
        (lambda: GeneralizedJSDLoss(beta=2.0), r"beta must be a number in \[0, 1\], got 2.0"),
    ],
)
def test_options_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
