"""The Plackett-Luce model: it is a distribution, Luce's axiom holds, and the losses are its likelihoods."""

import itertools
import math

import pytest
import torch
from torch.distributions import Distribution, Independent

import pldistill
from pldistill.losses import PlackettLuce, plackett_luce, pld, pld_weights, teacher_optimal_ranking


@pytest.fixture(autouse=True)
def validating():
    """Torch's distributions check their arguments by default until a first `torch.compile` switches that off."""
    Distribution.set_default_validate_args(True)


def draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permutations(classes, length=None):
    return torch.tensor(list(itertools.permutations(range(classes), length)), dtype=torch.int64)


def by_definition(logits, first):
    """log of Π_k w_{π_k} / Σ_{l left} w_l over the places given, in Python floats."""
    worths = [math.exp(z) for z in logits]
    total = 0.0
    for place, c in enumerate(first):
        total += math.log(worths[c] / math.fsum(w for other, w in enumerate(worths) if other not in first[:place]))
    return total


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_it_is_public():
    assert pldistill.PlackettLuce is pldistill.losses.PlackettLuce is PlackettLuce


@pytest.mark.parametrize("classes", [1, 4, 5])
def test_log_prob_is_the_definition_and_sums_to_one(classes):
    logits, rankings = draw(classes), permutations(classes)
    found = PlackettLuce(logits).log_prob(rankings)
    expected = [by_definition(logits.tolist(), ranking) for ranking in rankings.tolist()]
    close(found, torch.tensor(expected, dtype=torch.float64))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5])
def test_top_k_is_the_marginal_of_the_ranking(k):
    model, rankings = PlackettLuce(draw(5)), permutations(5)
    probability = model.log_prob(rankings).exp()
    starts = permutations(5, k)
    found = model.log_prob_top_k(starts).exp()
    expected = [probability[(rankings[:, :k] == start).all(1)].sum() for start in starts]
    close(found, torch.stack(expected))
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


def test_worthless_classes_come_last_in_any_order_alike():
    logits = torch.tensor([0.3, -math.inf, 1.0, -math.inf, -math.inf], dtype=torch.float64)
    model, rankings = PlackettLuce(logits), permutations(5)
    found = model.log_prob(rankings)
    limit = PlackettLuce(logits.clamp(min=-60)).log_prob(rankings)
    close(found.exp(), limit.exp())
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert found[(rankings[:, :2] % 2 == 1).any(1)].eq(-math.inf).all()
    close(model.log_prob_top_k(permutations(5, 3)).exp().sum().item(), 1.0)
    close(PlackettLuce(torch.full((4,), -math.inf)).log_prob(permutations(4)), torch.full((24,), -math.log(24)), 1e-6)


def test_choice_probs_by_hand():
    available = torch.tensor([[True, True, False, True], [True, True, True, True], [False, False, False, True]])
    shares = [[1 / 3, 2 / 3, 0, 0], [1 / 6, 2 / 6, 3 / 6, 0], [0, 0, 0, 1]]
    logits = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64).log()  # the last one's is -inf
    close(PlackettLuce(logits).choice_probs(available), torch.tensor(shares, dtype=torch.float64))
    close(PlackettLuce(logits).probs, torch.tensor(shares[1], dtype=torch.float64))


def test_irrelevant_alternatives_are_irrelevant():
    model = PlackettLuce(draw(6))
    sets = torch.tensor([[True, True, *others] for others in itertools.product([False, True], repeat=4)])
    chosen = model.choice_probs(sets)
    close(chosen[:, 0] / chosen[:, 1], (model.logits[0] - model.logits[1]).exp().expand(16))
    close(chosen.sum(1), torch.ones(16, dtype=torch.float64))
    assert chosen[~sets].eq(0).all()


def test_a_ranking_is_choices_among_what_is_left():
    model, ranking = PlackettLuce(draw(5)), [3, 0, 4, 2, 1]
    log_prob = 0.0
    for place, c in enumerate(ranking):
        available = torch.tensor([other not in ranking[:place] for other in range(5)])
        log_prob += model.choice_probs(available)[c].log().item()
    assert model.log_prob(torch.tensor(ranking)).item() == pytest.approx(log_prob, abs=1e-12)


def test_the_losses_are_its_likelihoods():
    student, teacher = draw(8, 7), draw(8, 7, seed=1)
    labels = torch.arange(8) % 7
    ranking = teacher_optimal_ranking(teacher, labels)
    model = PlackettLuce(student)
    close(-model.log_prob(ranking), plackett_luce(student, ranking, torch.ones(7).double(), reduction="none"))
    upto = torch.stack([model.log_prob_top_k(ranking[:, :k]) for k in range(8)], 1)
    weighted = (pld_weights(teacher, labels) * -upto.diff(dim=1)).sum(1)
    close(weighted, pld(student, teacher, labels, reduction="none"))


def test_gradients():
    logits, rankings = draw(3, 5).requires_grad_(), permutations(5)[[0, 50, 119]]
    assert torch.autograd.gradcheck(lambda s: PlackettLuce(s).log_prob(rankings), logits)
    assert torch.autograd.gradgradcheck(lambda s: PlackettLuce(s).log_prob(rankings), logits)
    assert torch.autograd.gradcheck(lambda s: PlackettLuce(s).log_prob_top_k(rankings[:, :2]), logits)
    available = torch.tensor([True, True, False, True, False])
    assert torch.autograd.gradcheck(lambda s: PlackettLuce(s).choice_probs(available), logits)


def test_gradient_is_minus_that_of_the_loss():
    student, ranking = draw(4, 6).requires_grad_(), permutations(6)[[3, 200, 500, 719]]
    (found,) = torch.autograd.grad(PlackettLuce(student).log_prob(ranking).sum(), student)
    loss = plackett_luce(student, ranking, torch.ones(6).double(), reduction="sum")
    close(found, -torch.autograd.grad(loss, student)[0])


def test_samples_come_as_often_as_they_should():
    logits = torch.tensor([0.0, 1.0, -0.5, 0.7], dtype=torch.float64)
    model, draws = PlackettLuce(logits), 40_000
    torch.manual_seed(0)
    samples = model.sample((draws,))
    rankings = permutations(4)
    counts = (samples[:, None] == rankings).all(2).sum(0)
    assert counts.sum() == draws
    expected = draws * model.log_prob(rankings).exp()
    assert expected.min() > 100
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees of freedom, 0.1 %
    first = torch.bincount(samples[:, 0], minlength=4) / draws
    assert (first - model.probs).abs().max() < 0.01


@pytest.mark.parametrize("common", [-math.inf, 1e30, -1e30])
def test_samples_of_equal_classes_are_uniform_however_large_the_logits(common):
    logits = torch.tensor([common, 1e30, common, common])
    torch.manual_seed(0)
    samples = PlackettLuce(logits).sample((24_000,))
    candidates = permutations(4) if common > 0 else torch.tensor([[1, *p] for p in itertools.permutations([0, 2, 3])])
    counts = (samples[:, None] == candidates).all(2).sum(0).double()
    expected = 24_000 / len(candidates)
    assert counts.sum() == 24_000
    assert ((counts - expected) ** 2 / expected).sum() < (49.7 if common > 0 else 20.5)  # 23 and 5 degrees, 0.1 %


def test_samples_follow_the_seed():
    model = PlackettLuce(draw(3, 10))
    torch.manual_seed(1)
    first = model.sample((4,))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert model.sample((4,)).equal(first)
    assert torch.get_rng_state().equal(state)
    assert not model.sample((4,)).equal(first)


def test_mode_is_the_most_probable_ranking():
    for seed in range(20):
        model, rankings = PlackettLuce(draw(5, seed=seed)), permutations(5)
        assert model.mode.tolist() == rankings[model.log_prob(rankings).argmax()].tolist()


def test_mode_puts_the_lower_of_equal_classes_first():
    assert PlackettLuce(torch.tensor([1.0, 2.0, 1.0, -math.inf, 2.0, -math.inf])).mode.tolist() == [1, 4, 0, 2, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_finite_numbers(dtype):
    large = 1e30 if dtype in (torch.float64, torch.float32) else 3e4
    logits = torch.tensor([[large, -large, 0.0, large], [-large] * 4, [large] * 4], dtype=dtype).requires_grad_()
    model = PlackettLuce(logits)
    worst = model.log_prob(model.mode.flip(-1))
    best = model.log_prob_top_k(model.mode[:, :3])
    assert worst.dtype == best.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert worst.isfinite().all()
    close(best.double(), torch.tensor([-math.log(2), -math.log(24), -math.log(24)]).double(), 1e-6)
    (worst.sum() + best.sum() + model.probs.square().sum()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_masked_classes_leave_the_gradient_finite():
    logits = torch.tensor([[0.5, -math.inf, 1.0, -math.inf], [-math.inf] * 4], dtype=torch.float64, requires_grad=True)
    model, ranking = PlackettLuce(logits), torch.tensor([2, 0, 1, 3])
    (model.log_prob(ranking) + model.log_prob_top_k(ranking[:1]) + model.probs[:, 0]).sum().backward()
    left = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    tame = PlackettLuce(left)
    (tame.log_prob(torch.tensor([1, 0])) + tame.log_prob_top_k(torch.tensor([1])) + tame.probs[0]).backward()
    assert logits.grad is not None
    assert left.grad is not None
    close(logits.grad[0, [0, 2]], left.grad)
    close(logits.grad[0, [1, 3]], torch.zeros(2).double())
    close(logits.grad[1], torch.zeros(4).double())


def test_shapes_and_expand():
    logits = draw(2, 1, 5)
    model = PlackettLuce(logits)
    assert model.batch_shape == (2, 1)
    assert model.event_shape == (5,)
    assert model.mode.shape == model.probs.shape == (2, 1, 5)
    assert model.sample().shape == (2, 1, 5)
    assert model.sample((3, 4)).shape == (3, 4, 2, 1, 5)
    assert model.log_prob(model.sample((3, 4))).shape == (3, 4, 2, 1)
    assert model.log_prob(permutations(5)).shape == (2, 120)
    assert model.choice_probs(torch.ones(7, 5, dtype=torch.bool)).shape == (2, 7, 5)
    wide = model.expand((6, 2, 3))
    assert wide.batch_shape == (6, 2, 3)
    assert wide.event_shape == (5,)
    assert wide.logits.data_ptr() == logits.data_ptr()
    ranking = wide.sample()
    assert ranking.shape == (6, 2, 3, 5)
    assert not ranking[0].equal(ranking[1])
    close(wide.log_prob(ranking), PlackettLuce(logits.expand(6, 2, 3, 5).clone()).log_prob(ranking))
    whole = Independent(model, 2)
    close(whole.log_prob(model.mode), model.log_prob(model.mode).sum())
    assert repr(model) == "PlackettLuce(logits: torch.Size([2, 1, 5]))"


def test_support():
    support = PlackettLuce(draw(3)).support
    assert support.is_discrete
    assert support.event_dim == 1
    assert support.check(torch.tensor([[2, 0, 1], [2, 2, 0], [3, 1, 2]])).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([1.0, 2.0], r"logits must be a torch\.Tensor, got list"),
        (torch.tensor([1, 2]), r"logits must be floating point, got torch\.int64"),
        (torch.tensor(1.0), r"logits must have shape \(\.\.\., C\) with C >= 1, got \(\)"),
        (torch.zeros(3, 0), r"logits must have shape \(\.\.\., C\) with C >= 1, got \(3, 0\)"),
        (torch.tensor([0.0, math.nan]), r"(?s)parameter logits .*BelowInfinity.*found invalid values:.*nan"),
        (torch.tensor([0.0, math.inf]), r"(?s)parameter logits .*BelowInfinity.*found invalid values:.*inf"),
    ],
)
def test_bad_logits(logits, message):
    with pytest.raises(ValueError, match=message):
        PlackettLuce(logits)


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([0, 1, 2], r"ranking must be a torch\.Tensor, got list"),
        (torch.tensor([0.0, 1.0, 2.0]), r"ranking must be class indices of an integer dtype, got torch\.float32"),
        (torch.tensor(0), r"ranking must have at least one dimension, got shape \(\)"),
        (torch.tensor([0, 1]), r"ranking must have shape \(\.\.\., 3\), got \(2,\)"),
        (torch.tensor([[0, 1, 2]] * 3), r"ranking must broadcast with batch_shape \(2,\), got \(3, 3\)"),
        (torch.tensor([[0, 1, 2], [0, 1, 1]]), r"ranking must hold distinct classes 0\.\.2 .* got \[0, 1, 1\]"),
        (torch.tensor([0, 1, 3]), r"ranking must hold distinct classes 0\.\.2 in each row, got \[0, 1, 3\]"),
        (torch.tensor([0, 1, -1]), r"ranking must hold distinct classes 0\.\.2 in each row, got \[0, 1, -1\]"),
    ],
)
def test_bad_rankings(ranking, message):
    with pytest.raises(ValueError, match=message):
        PlackettLuce(draw(2, 3)).log_prob(ranking)


def test_bad_starts():
    model = PlackettLuce(draw(3))
    with pytest.raises(ValueError, match=r"first_k must have shape \(\.\.\., k\) with k <= C = 3, got \(4,\)"):
        model.log_prob_top_k(torch.arange(4))
    with pytest.raises(ValueError, match=r"first_k must hold distinct classes 0\.\.2 in each row, got \[2, 2\]"):
        model.log_prob_top_k(torch.tensor([2, 2]))


@pytest.mark.parametrize(
    ("available", "message"),
    [
        (torch.tensor([1, 0, 1]), r"available must be bool, got torch\.int64"),
        (torch.tensor([True]), r"available must have shape \(\.\.\., 3\), got \(1,\)"),
        (torch.ones(3, 3).bool(), r"available must broadcast with batch_shape \(2,\), got \(3, 3\)"),
        (torch.tensor([[True] * 3, [False] * 3]), r"available must hold at least one class in each row"),
    ],
)
def test_bad_sets(available, message):
    with pytest.raises(ValueError, match=message):
        PlackettLuce(draw(2, 3)).choice_probs(available)


def test_tensors_of_two_devices():
    model = PlackettLuce(draw(3))
    with pytest.raises(ValueError, match="ranking is on meta but logits on cpu"):
        model.log_prob(torch.arange(3, device="meta"))
    with pytest.raises(ValueError, match="available is on meta but logits on cpu"):
        model.choice_probs(torch.ones(3, dtype=torch.bool, device="meta"))


def test_an_expanded_model_looks_at_values_as_before():
    with pytest.raises(ValueError, match="ranking must hold distinct classes"):
        PlackettLuce(draw(3), validate_args=True).expand((2,)).log_prob(torch.tensor([1, 1, 1]))


def test_values_are_not_looked_at_where_the_caller_says_so():
    model = PlackettLuce(torch.tensor([0.0, math.nan]), validate_args=False)
    assert model.log_prob(torch.tensor([0, 1])).isnan()
    assert model.expand((2,)).log_prob(torch.tensor([1, 1])).isnan().all()
    assert PlackettLuce(torch.zeros(2), validate_args=False).choice_probs(torch.zeros(2).bool()).isnan().all()


def by_hand(student, ranking, weights):
    s = student[ranking]
    return sum(weights[k] * (s[k:].logsumexp(0) - s[k]) for k in range(len(s)))


def eigenvalues(student, teacher, label):
    """Of the Hessian of `pld`, whose formula written out is first held against it."""
    ranking = teacher_optimal_ranking(teacher[None], torch.tensor([label]))[0]
    weights = pld_weights(teacher[None], torch.tensor([label]))[0]
    close(by_hand(student, ranking, weights), pld(student[None], teacher[None], torch.tensor([label])))
    hessian = torch.autograd.functional.hessian(lambda s: by_hand(s, ranking, weights), student)
    return torch.linalg.eigvalsh(hessian)


def test_curvature_of_pld_is_within_its_bounds():
    largest = []
    for seed in range(60):
        student, teacher = draw(6, seed=seed, scale=4.0 * (seed % 7) / 6), draw(6, seed=1000 + seed, scale=3.0)
        values = eigenvalues(student, teacher, seed % 6)
        assert values[0] > -1e-12
        largest.append(values[-1].item())
    assert max(largest) <= 0.5
    assert max(largest) > 0.1


def test_the_bound_of_the_curvature_is_reached():
    student = torch.tensor([0.0, 0.0, -60.0, -60.0], dtype=torch.float64)
    sure = torch.tensor([60.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert eigenvalues(student, sure, 0)[-1].item() == pytest.approx(0.5, abs=1e-9)


def test_gradient_of_pld_is_lipschitz():
    ratios = []
    for seed in range(200):
        here, teacher = draw(1, 5, seed=seed), draw(1, 5, seed=1000 + seed, scale=4.0)
        there = here + draw(1, 5, seed=2000 + seed, scale=10.0 ** (seed % 4 - 2))
        gradients = []
        for at in (here, there):
            at = at.clone().requires_grad_()
            gradients.append(torch.autograd.grad(pld(at, teacher, torch.tensor([seed % 5])), at)[0])
        ratios.append(((gradients[0] - gradients[1]).norm() / (here - there).norm()).item())
    assert max(ratios) <= 0.5
    assert max(ratios) > 0.1
