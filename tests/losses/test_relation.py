"""PKT, RKD and similarity-preserving against their formulas, element by element in Python."""

import math

import pytest
import torch

from pldistill.losses import pkt, rkd, sp


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def neighbors_by_hand(rows):
    unit = [[x / (math.sqrt(dot(row, row)) + 1e-7) for x in row] for row in rows]
    kernel = [[(dot(a, b) + 1) / 2 for b in unit] for a in unit]
    return [[k / math.fsum(row) for k in row] for row in kernel]


def test_pkt_is_its_formula():
    student, teacher = draw(5, 3), draw(5, 7, seed=1)
    p, q = neighbors_by_hand(student.tolist()), neighbors_by_hand(teacher.tolist())
    terms = [q[i][j] * math.log((q[i][j] + 1e-7) / (p[i][j] + 1e-7)) for i in range(5) for j in range(5)]
    assert pkt(student, teacher).item() == pytest.approx(math.fsum(terms) / 25, rel=1e-9)


def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def relations_by_hand(rows):
    count = len(rows)
    difference = [[[x - y for x, y in zip(b, a, strict=True)] for b in rows] for a in rows]
    d = [[math.sqrt(dot(v, v)) for v in row] for row in difference]
    mean = math.fsum(map(math.fsum, d)) / (count * (count - 1))
    e = [[[x / d[i][j] if i != j else 0.0 for x in difference[i][j]] for j in range(count)] for i in range(count)]
    cosines = [dot(e[i][j], e[i][k]) for i in range(count) for j in range(count) for k in range(count)]
    return [d[i][j] / mean for i in range(count) for j in range(count)], cosines


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd_is_its_formula(distance, angle):
    student, teacher = draw(5, 3), draw(5, 7, seed=1) ** 3  # cubed: some differences pass Huber's corner
    (d_s, cos_s), (d_t, cos_t) = relations_by_hand(student.tolist()), relations_by_hand(teacher.tolist())
    assert max(abs(a - b) for a, b in zip(d_s, d_t, strict=True)) > 1
    expected = distance * math.fsum(huber(a - b) for a, b in zip(d_s, d_t, strict=True)) / 25
    expected += angle * math.fsum(huber(a - b) for a, b in zip(cos_s, cos_t, strict=True)) / 125
    assert rkd(student, teacher, distance=distance, angle=angle).item() == pytest.approx(expected, rel=1e-10)
    if distance == 25:
        assert torch.equal(rkd(student, teacher), rkd(student, teacher, distance=25.0, angle=50.0))


def gram_by_hand(rows):
    gram = [[dot(a, b) for b in rows] for a in rows]
    return [[g / math.sqrt(dot(row, row)) for g in row] for row in gram]


def test_sp_is_its_formula():
    student, teacher = draw(4, 3, 2, 2), draw(4, 5, 3, 3, seed=1)
    g_s, g_t = gram_by_hand(student.flatten(1).tolist()), gram_by_hand(teacher.flatten(1).tolist())
    expected = math.fsum((g_s[i][j] - g_t[i][j]) ** 2 for i in range(4) for j in range(4)) / 16
    assert sp(student, teacher).item() == pytest.approx(expected, rel=1e-12)


LOSSES = {"pkt": pkt, "rkd": rkd, "sp": sp}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
def test_gradcheck(loss):
    teacher = draw(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), draw(5, 3).requires_grad_())


@every_loss
def test_a_student_with_the_teachers_features_has_no_loss_and_no_gradient(loss):
    student = draw(6, 4).requires_grad_()
    value = loss(student, 3.0 * student.detach())
    value.backward()
    assert abs(value.item()) < 1e-9
    assert student.grad.abs().max() < 1e-7  # PKT's ε is not to scale


@every_loss
@pytest.mark.parametrize("blank", ["student", "teacher", "both", "one image", "two alike", "opposite"])
def test_degenerate_features_give_finite_values_and_tame_gradients(loss, blank):
    student, teacher = draw(4, 6).float(), draw(4, 6, seed=1).float()
    for name, features in (("student", student), ("teacher", teacher)):
        if blank in (name, "both"):
            features.zero_()
    if blank == "one image":
        student[1] = 0
    if blank == "two alike":
        student[2] = student[1]
    if blank == "opposite":
        student[2], student[3] = -1e4 * student[1], -1e-4 * student[0]
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad.abs().max() < 1e7 if blank == "opposite" else student.grad.abs().max() < 100


def test_pkt_of_opposite_features_is_finite_where_their_cosine_rounds_to_less_than_minus_one():
    rows = 1000 * draw(300, 512).float()
    for row in rows:
        student = torch.stack([row, -row]).requires_grad_()
        value = pkt(student, rows[:2])
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


@every_loss
def test_one_image_has_no_relations(loss):
    student = draw(1, 4).requires_grad_()
    value = loss(student, draw(1, 5, seed=1))
    value.backward()
    assert abs(value.item()) < 1e-9
    assert student.grad.abs().max() < 1e-9


@every_loss
def test_every_sample_is_coupled_to_the_others(loss):
    student, teacher = draw(4, 3), draw(4, 5, seed=1)
    moved = student.clone()
    moved[3] += 1
    (gradient,) = torch.autograd.grad(loss(student.requires_grad_(), teacher), student)
    (other,) = torch.autograd.grad(loss(moved.requires_grad_(), teacher), moved)
    assert not torch.allclose(gradient[0], other[0])


@every_loss
def test_the_order_of_the_images_means_nothing(loss):
    student, teacher, order = draw(4, 3), draw(4, 5, seed=1), [2, 0, 3, 1]
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


@every_loss
def test_the_teacher_is_a_constant(loss):
    student, teacher = (draw(4, 3, seed=s).requires_grad_() for s in (0, 1))
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(loss, dtype):
    student, teacher = draw(8, 16).to(dtype), draw(8, 16, seed=1).to(dtype)
    expected = loss(student.float(), teacher.float())
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), expected)
        assert torch.equal(loss(student.float(), teacher), expected)


@every_loss
def test_float64_stays_float64(loss):
    assert loss(draw(4, 3), draw(4, 5)).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pkt(draw(4, 3, 2, 2), draw(4, 3)), r"pooled features .*\(4, 3, 2, 2\).*\(4, 3\)"),
        (lambda: rkd(draw(4, 3), draw(5, 3)), r"\(4, 3\).*\(5, 3\)"),
        (lambda: rkd(draw(4, 3), draw(4, 3), distance=-1.0), "distance .*-1.0"),
        (lambda: rkd(draw(4, 3), draw(4, 3), angle=math.inf), "angle .*inf"),
        (lambda: sp(draw(4), draw(4, 3)), r"at least 2 dimensions.*\(4,\).*\(4, 3\)"),
        (lambda: sp([[1.0]], draw(1, 1)), "student must be a torch.Tensor, got list"),
        (lambda: pkt(draw(0, 3), draw(0, 3)), r"at least one.*\(0, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
