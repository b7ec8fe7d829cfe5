"""Attention transfer, the hint and variational information against their formulas, element by element in Python."""

import itertools
import math

import pytest
import torch

from pldistill.losses import CWDLoss, attention_transfer, cwd, hint, vid
from pldistill.losses.feature import pool_to_smaller


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_by_hand(maps, power):
    """a of each image: u = mean over channels of |f|^p, place by place, to length 1."""
    rows = []
    for image in maps.tolist():
        places = [
            math.fsum(abs(channel[i][j]) ** power for channel in image) / len(image)
            for i in range(len(image[0]))
            for j in range(len(image[0][0]))
        ]
        length = math.sqrt(math.fsum(u * u for u in places))
        rows.append([u / length for u in places])
    return rows


def mean_of_squares(one, other):
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    differences = [(a - b) ** 2 for a, b in pairs]
    return math.fsum(differences) / len(differences)


@pytest.mark.parametrize("power", [2.0, 1.0, 3.0])
def test_attention_transfer_is_its_formula(power):
    student, teacher = draw(3, 4, 2, 5), draw(3, 6, 2, 5, seed=1)
    expected = mean_of_squares(attention_by_hand(student, power), attention_by_hand(teacher, power))
    assert attention_transfer(student, teacher, power=power).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_attention_transfer_pools_the_larger_map_before_the_power(larger):
    small, large = draw(2, 3, 2, 2), draw(2, 5, 4, 6, seed=1)
    pooled = torch.stack(
        [large[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)], dim=2
    ).unflatten(2, (2, 2))
    expected = mean_of_squares(attention_by_hand(small, 2), attention_by_hand(pooled, 2))
    pair = (large, small) if larger == "student" else (small, large)
    assert attention_transfer(*pair).item() == pytest.approx(expected, rel=1e-12)


def test_pooling_takes_the_smaller_of_each_side_and_leaves_equal_maps_alone():
    one, other = draw(2, 3, 4, 2), draw(2, 5, 2, 6)
    assert [tuple(m.shape) for m in pool_to_smaller(one, other)] == [(2, 3, 2, 2), (2, 5, 2, 2)]
    assert all(a is b for a, b in zip(pool_to_smaller(one, one), (one, one), strict=True))


def test_hint_is_the_mean_square():
    student, teacher = draw(3, 4, 2, 5), draw(3, 4, 2, 5, seed=1)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert hint(student, teacher).item() == pytest.approx(math.fsum((a - b) ** 2 for a, b in pairs) / 120, rel=1e-12)


def test_vid_is_its_formula():
    mean, teacher, log_scale = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1), draw(3, seed=2)
    total = []
    for n in range(2):
        for c in range(3):
            variance = math.log1p(math.exp(log_scale[c].item())) + 1e-5
            for m, t in zip(mean[n, c].flatten().tolist(), teacher[n, c].flatten().tolist(), strict=True):
                total.append(0.5 * ((m - t) ** 2 / variance + math.log(variance)))
    assert vid(mean, teacher, log_scale).item() == pytest.approx(math.fsum(total) / 24, rel=1e-12)


def test_vid_with_a_variance_of_the_mean_square_is_at_its_minimum():
    mean, teacher = draw(4, 1, 3, 3), draw(4, 1, 3, 3, seed=1)
    best = (mean - teacher).square().mean() - 1e-5
    log_scale = best.expm1().log()[None].requires_grad_()
    vid(mean, teacher, log_scale).backward()
    assert abs(log_scale.grad.item()) < 1e-12


def test_gradcheck():
    student, teacher = draw(2, 3, 4, 4).requires_grad_(), draw(2, 4, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda s: attention_transfer(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s: attention_transfer(s, draw(2, 1, 8, 8), power=3.0), student)
    teacher, log_scale = draw(2, 3, 4, 4, seed=1), draw(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hint(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s, scale: vid(s, teacher, scale), (student, log_scale))


LOSSES = {"attention_transfer": attention_transfer, "hint": hint, "vid": lambda s, t: vid(s, t, torch.zeros(3))}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize("blank", ["student", "teacher", "both", "one image"])
def test_features_of_zeros_give_finite_values_and_gradients(loss, blank):
    student, teacher = draw(4, 3, 2, 2).float(), draw(4, 3, 2, 2, seed=1).float()
    for name, features in (("student", student), ("teacher", teacher)):
        if blank in (name, "both"):
            features.zero_()
    if blank == "one image":
        student[1] = 0
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


@every_loss
def test_the_teacher_is_a_constant(loss):
    student, teacher = (draw(2, 3, 2, 2, seed=s).requires_grad_() for s in (0, 1))
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(loss, dtype):
    student, teacher = draw(4, 3, 4, 4).to(dtype), draw(4, 3, 4, 4, seed=1).to(dtype)
    expected = loss(student.float(), teacher.float())
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), expected)
        assert torch.equal(loss(student.float(), teacher), expected)


@every_loss
def test_float64_stays_float64(loss):
    assert loss(draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1)).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attention_transfer(draw(2, 3), draw(2, 3, 4, 4)), r"maps .*\(2, 3\).*\(2, 3, 4, 4\)"),
        (lambda: attention_transfer(draw(2, 3, 4, 4), draw(3, 3, 4, 4)), r"\(2, 3, 4, 4\).*\(3, 3, 4, 4\)"),
        (lambda: attention_transfer(draw(0, 3, 4, 4), draw(0, 3, 4, 4)), r"at least one.*\(0, 3, 4, 4\)"),
        (lambda: attention_transfer(draw(2, 3, 4, 4), draw(2, 3, 4, 4), power=0.5), "power .*0.5"),
        (lambda: attention_transfer(draw(2, 3, 4, 4), draw(2, 3, 4, 4), power=math.nan), "power .*nan"),
        (lambda: attention_transfer(draw(2, 3, 4, 4), None), "teacher must be a torch.Tensor, got NoneType"),
        (lambda: attention_transfer(draw(2, 3, 4, 4).long(), draw(2, 3, 4, 4)), "student must be floating point"),
        (lambda: attention_transfer(draw(2, 3, 4, 4), draw(2, 3, 4, 4).to("meta")), "student is on cpu but teacher on"),
        (lambda: hint(draw(2, 3, 4, 4), draw(2, 5, 4, 4)), r"\(2, 3, 4, 4\).*\(2, 5, 4, 4\)"),
        (lambda: vid(draw(2, 3, 4, 4), draw(2, 3, 2, 2), draw(3)), r"\(2, 3, 4, 4\).*\(2, 3, 2, 2\)"),
        (lambda: vid(draw(2, 3, 4, 4), draw(2, 3, 4, 4), draw(4)), r"log_scale must be \(3,\).*got \(4,\)"),
        (lambda: pool_to_smaller(draw(2, 3), draw(2, 3)), r"maps .*\(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def cwd_by_hand(student, teacher, temperature, kept=None):
    """Image by image and channel by channel, from softmaxes over the places that are kept."""
    total, images = 0.0, 0
    for n, (ours, theirs) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        places = [(i, j) for i in range(student.shape[2]) for j in range(student.shape[3])]
        places = [place for place in places if kept is None or kept[n][place]]
        images += bool(places)
        for own, other in zip(ours, theirs, strict=True):
            p, q = ([math.exp(channel[i][j] / temperature) for i, j in places] for channel in (own, other))
            p, q = ([value / math.fsum(part) for value in part] for part in (p, q))
            total += math.fsum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / (images * student.shape[1])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_its_formula(temperature):
    student, teacher = draw(3, 4, 2, 5), 3 * draw(3, 4, 2, 5, seed=1)
    expected = cwd_by_hand(student, teacher, temperature)
    assert cwd(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-12)
    moved = student + draw(3, 4, 1, 1, seed=2)  # a constant a channel
    assert cwd(moved, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-9)


def test_cwd_leaves_marked_places_out_of_every_softmax():
    student, teacher = draw(3, 4, 2, 5), draw(3, 4, 2, 5, seed=1)
    labels = torch.zeros(3, 2, 5, dtype=torch.int64)
    labels[0, 0, :3] = labels[1] = 255
    expected = cwd_by_hand(student, teacher, 4.0, labels != 255)
    assert cwd(student, teacher, labels, ignore_index=255).item() == pytest.approx(expected, rel=1e-12)
    student[1], teacher[0, :, 0, 0] = math.nan, math.inf
    student.requires_grad_()
    value = cwd(student, teacher, labels, ignore_index=255)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    assert not student.grad[1].any()
    assert not student.grad[0, :, 0, :3].any()
    nothing = cwd(student, teacher, torch.full_like(labels, 255), ignore_index=255)
    assert nothing.isnan()
    (gradient,) = torch.autograd.grad(nothing, student)
    assert not gradient.any()


def test_the_gradient_of_cwd_is_its_own():
    student, teacher = draw(2, 3, 2, 3).requires_grad_(), draw(2, 3, 2, 3, seed=1).requires_grad_()
    labels = torch.tensor([[[0, 1, 9], [9, 0, 0]]] * 2)
    for marks in (None, labels):
        assert torch.autograd.gradcheck(lambda s, m=marks: cwd(s, teacher.detach(), m, ignore_index=9), student)
    cwd(student, teacher).backward()
    assert teacher.grad is None
    tau, q, p = 4.0, (teacher / 4).flatten(2).softmax(2), (student / 4).flatten(2).softmax(2)
    torch.testing.assert_close(student.grad.flatten(2), tau * (p - q).detach() / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cwd_is_finite_where_the_logarithm_of_a_softmax_is_not(dtype):
    student, teacher = ((80 * draw(2, 5, 16, 16, seed=seed)).to(dtype).requires_grad_() for seed in (0, 1))
    assert not student.float().flatten(2).softmax(2).log().isfinite().all()
    value = cwd(student, teacher, temperature=1.0)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()
    expected = cwd(student.double(), teacher.double(), temperature=1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert cwd(student, student).item() == pytest.approx(0, abs=1e-6)


def test_the_module_of_cwd_is_its_function():
    student, teacher, labels = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1), torch.tensor([[[0, 7], [1, 1]]] * 2)
    module = CWDLoss(temperature=2.0, ignore_index=7)
    assert torch.equal(module(student, teacher, labels), cwd(student, teacher, labels, temperature=2.0, ignore_index=7))
    assert repr(module) == "CWDLoss(temperature=2.0, ignore_index=7)"
    assert CWDLoss().temperature == 4.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((draw(2, 3, 4, 4), draw(2, 5, 4, 4)), r"one shape, got student \(2, 3, 4, 4\) and teacher \(2, 5, 4, 4\)"),
        ((draw(2, 3, 4, 4), draw(2, 3, 2, 2)), "one shape"),
        ((draw(2, 3), draw(2, 3)), r"expected maps \(N, C, H, W\)"),
        ((draw(2, 3, 4, 4),) * 2 + (torch.zeros(2, 4, dtype=torch.int64),), r"labels must have shape \(2, 4, 4\)"),
        ((draw(2, 3, 4, 4),) * 2 + (torch.zeros(2, 4, 4),), "labels must be class indices of an integer dtype"),
    ],
)
def test_cwd_refuses_what_does_not_fit(arguments, says):
    with pytest.raises(ValueError, match=says):
        cwd(*arguments)
    with pytest.raises(ValueError, match="temperature must be"):
        cwd(draw(1, 1, 2, 2), draw(1, 1, 2, 2), temperature=0.0)
