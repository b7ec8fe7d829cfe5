"""Temperature scaling and the calibration error: against a search on a grid, and sums written out."""

import pytest
import torch
from torch.nn import functional

from pldistill.tasks.calibration import LEAST, MOST, _derivatives, calibration_bins, calibration_error, fit_temperature


def draw(rows=400, classes=5, scale=3.0):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(2)
    return scale * logits, labels.sample()


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 50.0])
def test_the_temperature_is_that_of_the_least_cross_entropy(scale):
    logits, labels = draw(scale=scale)
    fitted = fit_temperature(logits, labels)
    grid = fitted * torch.linspace(0.98, 1.02, 41, dtype=torch.float64)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in grid])
    assert losses.argmin() == 20
    assert fitted / scale == pytest.approx(fit_temperature(*draw(scale=1.0)), rel=1e-5)  # logits c z want c times T
    slope = functional.cross_entropy
    leaf = torch.tensor(1 / fitted, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(slope(leaf * logits, labels), leaf)
    assert abs(gradient.item()) < 1e-5 * scale


def test_labels_drawn_from_the_softmax_ask_for_none():
    logits, labels = draw(rows=40_000, scale=1.0)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)


def test_parts_that_are_joined_fit_as_the_whole():
    logits, labels = draw()
    parts = [(logits[:100], labels[:100]), (logits[100:], labels[100:])]

    def alone(sums):
        return sums

    for beta in (0.3, 1.0):
        derivatives = [_derivatives(*part, beta, alone) for part in parts]
        joined = [sum(each) for each in zip(*derivatives, strict=True)]
        assert joined == pytest.approx(_derivatives(logits, labels, beta, alone), rel=1e-12)


def test_without_a_least_it_ends_near_a_bound():
    logits = torch.tensor([[3.0, 0.0]] * 4)
    assert LEAST <= fit_temperature(logits, torch.tensor([0] * 4)) < 0.01  # always right: the surer the better
    assert fit_temperature(logits, torch.tensor([1] * 4)) == pytest.approx(MOST, rel=0.01)  # always wrong
    assert LEAST <= fit_temperature(0 * logits, torch.tensor([0] * 4)) <= MOST  # nothing to tell


def test_extreme_logits_are_no_nan():
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4], [1e4, 0.0, 5.0]])
    assert 1e-3 <= fit_temperature(logits, torch.tensor([0, 0, 0])) <= 1e3


def test_the_calibration_error_is_the_gap_of_each_bin_times_its_part():
    log_p = torch.tensor([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.3, 0.7]]).log()
    labels = torch.tensor([0, 1, 0, 1])
    means = {name: value.item() / 4 for name, value in calibration_bins(log_p, labels).items()}
    expected = 100 * (abs(0.9 + 0.92 - 1) + abs(0.6 - 1) + abs(0.7 - 1)) / 4  # bins (13/15, 14/15], (8/15, 9/15], ...
    assert calibration_error(means) == pytest.approx(expected, rel=1e-6)
