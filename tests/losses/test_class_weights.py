"""Class weights, sample weights and soft labels: every loss against the formula, and torch's cross_entropy."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from losses_list import ALL_LOSSES
from pldistill import losses

SUMMED = [loss for loss in ALL_LOSSES if loss.summed]
every = pytest.mark.parametrize("loss", SUMMED, ids=str)
READING = pytest.mark.parametrize("loss", [loss for loss in SUMMED if loss.needs_labels], ids=str)


def draw(shape=(6,), classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(*shape, classes, generator=generator, dtype=dtype) for _ in range(2))
    labels = torch.randint(classes, shape, generator=generator)
    labels.view(-1)[1] = -100
    class_weight = torch.rand(classes, generator=generator, dtype=dtype) + 0.1
    sample_weight = torch.rand(*shape, generator=generator, dtype=dtype) + 0.1
    soft = torch.rand(*shape, classes, generator=generator, dtype=dtype)
    soft = torch.where(soft > 0.5, soft, 0)
    return student, teacher, labels, class_weight, sample_weight, soft


def with_gradient(function, student, *others, **options):
    student = student.clone().requires_grad_()
    value = function(student, *others, **options)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


@every
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_of_classes_and_samples(loss, reduction):
    student, teacher, labels, w, v, _ = draw()
    kept = labels != -100
    parts = torch.where(kept, v * w[labels.clamp(min=0)], 0)

    def by_hand(s, t, y):
        rows = torch.stack([loss(s[n : n + 1], t[n : n + 1], y[n : n + 1], reduction="sum") for n in range(6)]) * parts
        return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / parts.sum()}[reduction]

    ours = with_gradient(loss, student, teacher, labels, class_weight=w, sample_weight=v, reduction=reduction)
    torch.testing.assert_close(ours, with_gradient(by_hand, student, teacher, labels), rtol=1e-9, atol=1e-12)


@every
def test_either_alone_and_weights_of_one_are_no_weights(loss):
    student, teacher, labels, w, v, _ = draw()
    ones = torch.ones_like(w), torch.ones_like(v)
    plain = with_gradient(loss, student, teacher, labels)
    for given in ({"class_weight": ones[0]}, {"sample_weight": ones[1]}):
        torch.testing.assert_close(with_gradient(loss, student, teacher, labels, **given), plain, rtol=1e-9, atol=1e-12)
    rows, kept = loss(student, teacher, labels, reduction="none"), labels != -100
    by_class = torch.where(kept, w[labels.clamp(min=0)], 0)
    expected = (rows * by_class).sum() / by_class.sum()
    torch.testing.assert_close(loss(student, teacher, labels, class_weight=w), expected)
    expected = (rows * v).sum() / v[kept].sum()
    torch.testing.assert_close(loss(student, teacher, labels, sample_weight=v), expected)


@READING
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_labels_are_the_mixture_of_the_losses_of_each_class(loss, reduction):
    student, teacher, _, w, v, soft = draw()

    def by_hand(s, t, y):
        rows = sum(y[:, c] * w[c] * loss(s, t, torch.full((6,), c), reduction="none") for c in range(5)) * v
        return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / v.sum()}[reduction]

    ours = with_gradient(loss, student, teacher, soft, class_weight=w, sample_weight=v, reduction=reduction)
    torch.testing.assert_close(ours, with_gradient(by_hand, student, teacher, soft), rtol=1e-9, atol=1e-12)


@every
def test_soft_labels_that_are_one_hot_are_hard_labels(loss):
    student, teacher, labels, *_ = draw()
    labels = labels.clamp(min=0)
    soft = torch.nn.functional.one_hot(labels, 5).double()
    ours, hard = (with_gradient(loss, student, teacher, each) for each in (soft, labels))
    torch.testing.assert_close(ours, hard, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_of_cross_entropy_all_this_is_torchs(kind, reduction):
    student, teacher, labels, w, _, soft = draw()
    target = labels if kind == "hard" else soft
    ours = losses.decoupled_pld(student, teacher, target, alpha=1, beta=0, class_weight=w, reduction=reduction)
    torch.testing.assert_close(ours, cross_entropy(student, target, weight=w, reduction=reduction))


@pytest.mark.parametrize("class_dim", [1, -1])
def test_positions_have_weights_of_their_own(class_dim):
    student, teacher, labels, w, v, soft = draw((2, 3))
    s, t, y = (tensor.movedim(-1, class_dim) for tensor in (student, teacher, soft))
    for target, flat in ((labels, labels.flatten()), (y, soft.flatten(0, 1))):
        ours = losses.pld(s, t, target, class_weight=w, sample_weight=v, class_dim=class_dim)
        rows = losses.pld(student.flatten(0, 1), teacher.flatten(0, 1), flat, class_weight=w, sample_weight=v.flatten())
        torch.testing.assert_close(ours, rows)


@every
def test_a_row_of_no_weight_costs_nothing_whatever_it_holds(loss):
    student, teacher, labels, _, v, _ = draw()
    student[3, labels[3]], v[3] = -math.inf, 0
    value, gradient = with_gradient(loss, student, teacher, labels, sample_weight=v)
    assert value.isfinite()
    assert gradient[torch.arange(6) != 3].isfinite().all()
    assert not gradient[3].nan_to_num().any()
    value, gradient = with_gradient(loss, draw()[0], teacher, labels, sample_weight=torch.zeros_like(v))
    assert value.isnan()
    assert not gradient.any()


@every
def test_half_precision_weights_and_labels_compute_in_float32(loss):
    student, teacher, labels, w, v, soft = draw()
    half = [tensor.to(torch.bfloat16) for tensor in (student, teacher, w, v, soft)]
    for target, short in ((labels, labels), (soft, half[4])):
        if target is soft and not loss.needs_labels:
            continue
        ours = loss(half[0], half[1], short, class_weight=half[2], sample_weight=half[3])
        exact = [tensor.float() for tensor in half]
        expected = loss(
            exact[0], exact[1], exact[4] if target is soft else labels, class_weight=exact[2], sample_weight=exact[3]
        )
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=1e-6)


def test_gradcheck():
    student, teacher, labels, w, v, soft = draw()
    for target in (labels, soft):
        weighted = lambda s: losses.pld(s, teacher, target, class_weight=w, sample_weight=v)  # noqa: B023, E731
        assert torch.autograd.gradcheck(weighted, student.clone().requires_grad_())
        assert torch.autograd.gradgradcheck(weighted, student.clone().requires_grad_())


def test_a_compiled_graph_has_the_weights_and_refuses_soft_labels():
    student, teacher, labels, w, v, soft = draw(dtype=torch.float32)
    compiled = torch.compile(losses.pld, backend="aot_eager", fullgraph=True)
    ours = compiled(student, teacher, labels, class_weight=w, sample_weight=v)
    torch.testing.assert_close(ours, losses.pld(student, teacher, labels, class_weight=w, sample_weight=v))
    with pytest.raises(ValueError, match=r"labels must be class indices under torch.compile and torch.func"):
        torch.func.grad(lambda s: losses.pld(s, teacher, soft))(student)


@every
def test_the_module_keeps_class_weights_and_is_given_those_of_samples(loss):
    student, teacher, labels, w, v, _ = draw()
    module = loss.module(**loss.options, class_weight=w)
    expected = loss(student, teacher, labels, class_weight=w, sample_weight=v)
    torch.testing.assert_close(module(student, teacher, labels, v), expected)
    assert not module.state_dict()
    assert module.to(torch.float32).class_weight.dtype == torch.float32
    assert "class_weight=" in repr(module)
    assert "class_weight" not in repr(loss.module(**loss.options))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"class_weight": torch.ones(4)}, r"class_weight must have shape \(5,\), got \(4,\)"),
        ({"class_weight": [1.0] * 5}, "class_weight must be a torch.Tensor, got list"),
        ({"class_weight": torch.ones(5, dtype=torch.int64)}, "class_weight must be floating point"),
        ({"class_weight": -torch.ones(5)}, r"class_weight must be finite and at least 0, got -1\.0"),
        ({"sample_weight": torch.ones(5)}, r"sample_weight must have shape \(6,\), got \(5,\)"),
        ({"sample_weight": torch.full((6,), math.nan)}, "sample_weight must be finite and at least 0, got nan"),
        ({"sample_weight": torch.ones(6), "reduction": "men"}, "reduction must be one of .*, got 'men'"),
        (
            {"labels": torch.ones(6, 4)},
            r"labels must be class indices .* shape \(6, 5\), got \(6, 4\) of torch.float32",
        ),
        ({"labels": -torch.ones(6, 5)}, r"labels must be finite and at least 0, got -1\.0"),
        ({"labels": torch.ones(6)}, "labels must be class indices of an integer dtype, got torch.float32"),
    ],
)
@pytest.mark.parametrize("function", [losses.pld, losses.kd])
def test_what_does_not_fit_is_refused(function, given, says):
    student, teacher, labels, *_ = draw(dtype=torch.float32)
    with pytest.raises(ValueError, match=says):
        function(student, teacher, given.get("labels", labels), **{k: v for k, v in given.items() if k != "labels"})


def test_class_weights_want_labels_and_a_vector():
    student, teacher, *_ = draw()
    with pytest.raises(ValueError, match="labels: expected class indices beside class_weight, got None"):
        losses.kd(student, teacher, class_weight=torch.ones(5).double())
    with pytest.raises(ValueError, match=r"class_weight must have shape \(C,\), got \(1, 5\)"):
        losses.PLDLoss(class_weight=torch.ones(1, 5))
