"""Draws by hash: the published generator, even, independent of each other, and never torch's global one."""

import numpy as np
import pytest
import torch

from pldistill.data.sampling import bits, key, order, uniform

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """One step of the generator in Python's whole numbers, as its paper writes it."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_the_step_is_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first number of the reference program started at 0


@pytest.mark.parametrize("at", [0, 1, 7, 49_999, 2**40])
def test_bits_are_the_sequence_that_starts_at_the_key(at):
    start = (key(3, 5, "flip") + at * 0x9E3779B97F4A7C15) & MASK
    assert bits(3, 5, np.array([at]), "flip")[0] == splitmix64(start)


def test_draws_are_even_on_the_unit_interval():
    draws = uniform(0, 0, np.arange(100_000), "top")
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi squared, 19 degrees of freedom: 50 is beyond 1 in 5,000


@pytest.mark.parametrize("other", [(1, 0, "top"), (0, 1, "top"), (0, 0, "left")], ids=["seed", "view", "name"])
def test_streams_do_not_resemble_each_other(other):
    ids = np.arange(50_000)
    draws, others = uniform(0, 0, ids, "top"), uniform(other[0], other[1], ids, other[2])
    assert abs(np.corrcoef(draws, others)[0, 1]) < 0.02
    assert abs(np.corrcoef(draws[1:], others[:-1])[0, 1]) < 0.02


def test_order_is_a_permutation_of_its_own_for_each_view_and_seed():
    ids = torch.arange(1000)
    orders = [order(0, 0, ids), order(0, 1, ids), order(1, 0, ids)]
    for places in orders:
        assert torch.equal(places.sort().values, ids)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0], order(0, 0, ids))


def test_a_subset_keeps_the_order_of_the_whole():
    part = torch.arange(0, 1000, 3)
    whole = order(4, 2, torch.arange(1000))
    assert torch.equal(part[order(4, 2, part)], whole[whole % 3 == 0])


def test_torch_s_generator_is_left_alone():
    before = torch.get_rng_state()
    order(0, 0, torch.arange(100))
    assert torch.equal(torch.get_rng_state(), before)
