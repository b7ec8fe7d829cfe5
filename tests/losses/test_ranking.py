"""The ranking losses: values written out by hand, the ranking itself, and the identities of the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

import reference
from pldistill.losses import listmle, p_listmle, plackett_luce, pld, teacher_optimal_ranking


def draw(rows=6, classes=7, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def test_plackett_luce_by_hand():
    student = torch.tensor([[0.0, 1.0, 2.0]])
    ranking = torch.tensor([[2, 0, 1]])
    weights = torch.tensor([[0.5, 0.25, 4.0]])
    first = math.log(math.exp(0) + math.exp(1) + math.exp(2)) - 2
    second = math.log(math.exp(0) + math.exp(1)) - 0
    assert plackett_luce(student, ranking, weights).item() == pytest.approx(0.5 * first + 0.25 * second, rel=1e-6)


def test_gradient_by_hand():
    student = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    plackett_luce(student, torch.tensor([[2, 0, 1]]), torch.tensor([[0.5, 0.25, 4.0]])).backward()
    all_three, last_two = math.exp(0) + math.exp(1) + math.exp(2), math.exp(0) + math.exp(1)
    expected = [
        math.exp(0) * (0.5 / all_three + 0.25 / last_two) - 0.25,
        math.exp(1) * (0.5 / all_three + 0.25 / last_two + 4.0 / math.exp(1)) - 4.0,
        math.exp(2) * 0.5 / all_three - 0.5,
    ]
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_pld_by_hand():
    student, teacher = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    total = math.exp(0) + math.exp(0.5) + math.exp(1)
    first = math.log(math.exp(1) + math.exp(3) + math.exp(2)) - 1  # the label, class 0
    second = math.log(math.exp(3) + math.exp(2)) - 2  # then class 2; class 1, the last, costs nothing
    expected = math.exp(0) / total * first + math.exp(1) / total * second
    assert pld(student, teacher, torch.tensor([0]), temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_listmle_and_p_listmle_by_hand():
    student, teacher, labels = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])
    first = math.log(math.exp(1) + math.exp(3) + math.exp(2)) - 1
    second = math.log(math.exp(3) + math.exp(2)) - 2
    assert listmle(student, teacher, labels).item() == pytest.approx((first + second) / 3, rel=1e-6)
    assert listmle(student, teacher, labels, weights="sum").item() == pytest.approx(first + second, rel=1e-6)
    published, normalized = 3 * first + 1 * second, (3 * first + 1 * second) / (2**3 - 1 - 3)
    assert p_listmle(student, teacher, labels).item() == pytest.approx(published, rel=1e-6)
    assert p_listmle(student, teacher, labels, normalize=True).item() == pytest.approx(normalized, rel=1e-6)


def test_ranking_puts_the_label_first_and_the_lower_index_first_among_equals():
    teacher = torch.tensor([[1.0, 5.0, 1.0, 5.0, -math.inf], [0.0, 0.0, 0.0, 0.0, 0.0], [math.inf, 2.0, 1.0, 0.0, 3.0]])
    ranking = teacher_optimal_ranking(teacher, torch.tensor([2, 3, 3]))
    assert ranking.tolist() == [[2, 1, 3, 0, 4], [3, 0, 1, 2, 4], [3, 0, 4, 1, 2]]


def test_ranking_of_many_ties_is_stable():
    teacher = torch.randint(4, (5, 300), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(5) * 40
    expected = [reference.ranking_of(t, y) for t, y in zip(teacher.tolist(), labels.tolist(), strict=True)]
    assert teacher_optimal_ranking(teacher, labels).tolist() == expected


def test_ranking_fills_left_out_rows_and_plackett_luce_leaves_them_out():
    student, teacher, labels = draw()
    left_out = labels.clone()
    left_out[2] = -100
    ranking = teacher_optimal_ranking(teacher, left_out)
    assert ranking[2].tolist() == [-100] * 7
    weights = teacher.softmax(1).gather(1, teacher_optimal_ranking(teacher, labels))
    torch.testing.assert_close(plackett_luce(student, ranking, weights), pld(student, teacher, left_out))


def test_ranking_of_positions():
    _, teacher, _ = draw(rows=24)
    teacher, labels = teacher.view(2, 12, 7).movedim(-1, 1).reshape(2, 7, 3, 4), torch.arange(24).view(2, 3, 4) % 7
    ranking = teacher_optimal_ranking(teacher, labels)
    assert ranking.shape == teacher.shape
    assert torch.equal(ranking[1, :, 2, 3], teacher_optimal_ranking(teacher[1:, :, 2, 3], labels[1:, 2, 3])[0])


def test_weights_may_be_shared_by_all_rows():
    student, teacher, labels = draw()
    ranking, weights = teacher_optimal_ranking(teacher, labels), torch.rand(7, dtype=torch.float64)
    torch.testing.assert_close(
        plackett_luce(student, ranking, weights), plackett_luce(student, ranking, weights.expand(6, 7))
    )


def test_one_hot_teacher_on_the_label_gives_cross_entropy():
    student, teacher, labels = draw()
    sure = torch.full_like(teacher, -math.inf).scatter(1, labels[:, None], 0.0)
    torch.testing.assert_close(pld(student, sure, labels), F.cross_entropy(student, labels), rtol=1e-12, atol=0)
    first_alone = torch.tensor([1.0, *[0.0] * 6], dtype=torch.float64)
    core = plackett_luce(student, teacher_optimal_ranking(teacher, labels), first_alone)
    torch.testing.assert_close(core, F.cross_entropy(student, labels), rtol=1e-12, atol=0)


def test_uniform_weights_give_listmle():
    student, teacher, labels = draw()
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    core = plackett_luce(student, teacher_optimal_ranking(teacher, labels), uniform)
    torch.testing.assert_close(core, listmle(student, teacher, labels))
    flat = pld(student, torch.zeros_like(teacher), labels)
    torch.testing.assert_close(flat, listmle(student, torch.zeros_like(teacher), labels))


def test_pld_is_at_most_the_soft_cross_entropy():
    for seed, scale, temperature in ((0, 0.1, 1.0), (1, 2.0, 4.0), (2, 10.0, 0.5), (3, 30.0, 1.0)):
        student, teacher, labels = draw(rows=50, seed=seed, scale=scale)
        soft = F.cross_entropy(student, (teacher / temperature).softmax(1), reduction="none")
        ranked = pld(student, teacher, labels, temperature=temperature, reduction="none")
        assert (ranked <= soft * (1 + 1e-12)).all()
        assert (ranked >= 0).all()


@pytest.mark.parametrize("loss", [pld, listmle, p_listmle])
def test_convex_along_random_segments(loss):
    start, teacher, labels = draw(rows=50, scale=5.0)
    end, _, _ = draw(rows=50, seed=1, scale=5.0)
    at_start, at_end = (loss(s, teacher, labels, reduction="none") for s in (start, end))
    for share in (0.1, 0.5, 0.8):
        between = loss((1 - share) * start + share * end, teacher, labels, reduction="none")
        assert (between <= ((1 - share) * at_start + share * at_end) * (1 + 1e-12)).all()


def test_temperature_acts_on_the_teachers_weights_alone():
    student, teacher, labels = draw()
    scaled = pld(student, teacher / 4, labels)
    torch.testing.assert_close(pld(student, teacher, labels, temperature=4.0), scaled, rtol=1e-12, atol=0)


def test_agrees_with_the_papers_listing():
    student, teacher, labels = draw(rows=20, classes=50)
    torch.testing.assert_close(
        pld(student, teacher, labels, temperature=2.0), reference.listing(student, teacher, labels, 2.0)
    )


def test_reference_agrees_with_the_definition():
    student, teacher, labels = draw(rows=4, classes=30, scale=8.0)
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ranking = reference.ranking_of(t, y)
        weights = reference.softmax(t)
        loss, gradient = reference.plackett_luce_row(s, ranking, weights)
        expected, expected_gradient = reference.definition(s, ranking, weights)
        assert loss == pytest.approx(expected, rel=1e-12)
        assert gradient == pytest.approx(expected_gradient, rel=1e-9, abs=1e-15)


def test_p_listmle_overflow_is_refused_and_normalizing_cures_it():
    for dtype, most in ((torch.float32, 128), (torch.bfloat16, 128), (torch.float64, 1024)):
        student, labels = torch.zeros(1, most + 1, dtype=dtype), torch.tensor([3])
        with pytest.raises(ValueError, match=f"overflow.*C = {most + 1} classes.*normalize=True"):
            p_listmle(student, student, labels)
        assert p_listmle(student, student, labels, normalize=True).isfinite()
        assert p_listmle(student[:, 1:], student[:, 1:], labels) > 0
    fits = torch.zeros(1, 120)
    assert p_listmle(fits, fits, torch.tensor([3])).isfinite()
    fits = torch.zeros(1, 1024, dtype=torch.float64)
    assert p_listmle(fits, fits, torch.tensor([3])) > 1e300


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_p_listmle_normalized_is_the_published_one_divided(classes):
    student, teacher, labels = draw(classes=classes)
    published = p_listmle(student, teacher, labels) / (2**classes - 1 - classes)
    torch.testing.assert_close(p_listmle(student, teacher, labels, normalize=True), published, rtol=1e-12, atol=0)


def test_p_listmle_normalized_is_finite_for_many_classes():
    student = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = p_listmle(student, student.detach().flip(1), torch.tensor([0, 7]), normalize=True)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
