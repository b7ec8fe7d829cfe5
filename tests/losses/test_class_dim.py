"""`class_dim` says where the classes lie; the numbers are those of the same data with the classes along dim 1."""

import inspect

import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill import losses

every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
KEYWORD = r"the classes are expected along dim {0} \(class_dim={0}\)"
# Shapes with the classes along dim 1, of which (2, 5, 5) is the one that nobody can tell from its mirror.
SHAPES = [(4, 5), (2, 5, 5), (2, 5, 3), (2, 5, 3, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def draw(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    labels = torch.randint(5, shape[:1] + shape[2:], generator=generator)
    labels[1] = torch.where(torch.arange(labels[1].numel()).view(labels[1].shape) % 2 == 0, -100, labels[1])
    return student, teacher, labels


def run(function, student, *constants, **options):
    student = student.clone().requires_grad_()
    value = function(student, *constants, **options)
    factors = torch.arange(1.0, value.numel() + 1, dtype=value.dtype).view(value.shape)
    return value, torch.autograd.grad((factors * value).sum(), student)[0]


def assert_equal_anywhere(function, student, *constants, others=(), **options):
    """`function` of tensors of the logits' shape and then `others`, with the classes at each place there is."""
    expected, gradient = run(function, student, *constants, *others, **options)
    for dim in (*range(student.dim()), -1, -student.dim()):
        moved = [z.movedim(1, dim).contiguous() for z in (student, *constants)]
        found, slope = run(function, *moved, *others, class_dim=dim, **options)
        assert torch.equal(found, expected)
        assert torch.equal(slope.movedim(dim, 1), gradient)


@every_loss
@every_shape
@every_dtype
def test_numbers_do_not_depend_on_where_the_classes_lie(loss, shape, dtype):
    student, teacher, labels = draw(shape, dtype)
    for reduction in ("mean", "none") if loss.summed else ("mean",):
        assert_equal_anywhere(loss, student, teacher, others=(labels,), reduction=reduction)


@every_loss
def test_modules_take_it_too(loss):
    student, teacher, labels = draw((2, 5, 5))
    module = loss.module(**loss.options, class_dim=-1)
    assert torch.equal(module(student, teacher, labels), loss(student.mT, teacher.mT, labels))
    assert not torch.equal(module(student, teacher, labels), loss(student, teacher, labels))
    assert "class_dim=-1" in repr(module)


@every_shape
def test_rankings_and_weights_follow(shape):
    student, teacher, labels = draw(shape)
    ranking = losses.teacher_optimal_ranking(teacher, labels)
    weights = torch.linspace(0.5, 2, teacher.numel(), dtype=torch.float64).view(shape)
    for_all = torch.linspace(0.5, 2, 5)
    assert_equal_anywhere(losses.plackett_luce, student, ranking, weights, reduction="none")
    assert_equal_anywhere(losses.plackett_luce, student, ranking, others=(for_all,), reduction="none")

    def by_stages(s, t, w, y, **options):
        return losses.plackett_luce_kl(s, t, y, stage_weights=w, **options)

    assert_equal_anywhere(by_stages, student, teacher, weights, others=(labels,))
    assert_equal_anywhere(by_stages, student, teacher, others=(for_all, labels))


@every_shape
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_helpers_on_logits(shape, dim):
    if dim >= len(shape):
        return
    _, teacher, labels = draw(shape)
    moved, known = teacher.movedim(1, dim), labels.clamp(min=0)
    ranking = losses.teacher_optimal_ranking(teacher, labels)
    assert torch.equal(losses.teacher_optimal_ranking(moved, labels, class_dim=dim).movedim(dim, 1), ranking)
    rows, row_labels = teacher.movedim(1, -1).reshape(-1, 5), known.flatten()
    for floor in (0.0, 0.4):
        weights = losses.pld_weights(moved, known, label_weight=floor, class_dim=dim)
        assert weights.shape == moved.shape
        by_row = losses.pld_weights(rows, row_labels, label_weight=floor)
        assert torch.equal(weights.movedim(dim, -1).reshape(-1, 5), by_row)
    standard = losses.standardize(moved, class_dim=dim)
    by_hand = (teacher - teacher.mean(1, keepdim=True)) / (1e-7 + teacher.std(1, keepdim=True))
    torch.testing.assert_close(standard.movedim(dim, 1), by_hand)


@every_loss
@pytest.mark.parametrize("dim", [3, -4, 1000])
def test_dims_that_are_none_are_refused(loss, dim):
    student, teacher, labels = draw((2, 5, 3))
    with pytest.raises(ValueError, match=rf"class_dim must be in -3\.\.2 .* of shape \(2, 5, 3\), got {dim}"):
        loss(student, teacher, labels, class_dim=dim)
    with pytest.raises(ValueError, match=rf"class_dim must be in -3\.\.2 .*, got {dim}"):
        loss.module(class_dim=dim)(student, teacher, labels)


@every_loss
@pytest.mark.parametrize("dim", [None, True, 1.0, "1", "last", torch.tensor(1)], ids=str)
def test_what_is_no_dim_is_refused(loss, dim):
    with pytest.raises(ValueError, match="class_dim must be an integer, got "):
        loss(*draw((2, 5, 3)), class_dim=dim)
    with pytest.raises(ValueError, match="class_dim must be an integer, got "):
        loss.module(class_dim=dim)


@pytest.mark.parametrize("dim", [None, 2, -3])
def test_helpers_refuse_them_too(dim):
    _, teacher, labels = draw((4, 5))
    labels = labels.clamp(min=0)
    for call in (
        lambda: losses.standardize(teacher, class_dim=dim),
        lambda: losses.teacher_optimal_ranking(teacher, labels, class_dim=dim),
        lambda: losses.pld_weights(teacher, labels, class_dim=dim),
        lambda: losses.plackett_luce(teacher, teacher.argsort(1), torch.ones(5), class_dim=dim),
    ):
        with pytest.raises(ValueError, match="class_dim must be "):
            call()


@every_loss
def test_the_words_name_the_dim_and_the_keyword(loss):
    tokens, labels = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=KEYWORD.format(1) + r"; the labels fit class_dim=2$"):
        loss(tokens, tokens, labels)
    with pytest.raises(ValueError, match=KEYWORD.format(0) + r"; the labels fit class_dim=2$"):
        loss(tokens, tokens, labels, class_dim=0)
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\) .* got \(2, 5\); " + KEYWORD.format(-1)):
        loss(tokens, tokens, torch.zeros(2, 5, dtype=torch.int64), class_dim=-1)
    with pytest.raises(ValueError, match=KEYWORD.format(-1) + "$"):  # nothing fits: nothing is offered
        loss(tokens, tokens, labels[0], class_dim=-1)
    with pytest.raises(ValueError, match=r"teacher_logits has 6 classes but student_logits 5.*" + KEYWORD.format(-1)):
        loss(tokens, torch.zeros(2, 3, 6), labels, class_dim=-1)
    with pytest.raises(ValueError, match=r"teacher_logits must have student_logits's shape.*" + KEYWORD.format(-1)):
        loss(tokens, torch.zeros(2, 4, 5), labels, class_dim=-1)
    with pytest.raises(ValueError, match=r"student_logits must have .* C >= 1, got \(2, 3, 0\); " + KEYWORD.format(2)):
        loss(tokens[..., :0], tokens[..., :0], labels, class_dim=2)


def test_the_words_of_rankings_and_weights():
    student = torch.zeros(2, 3, 5)
    ranking = torch.arange(5).expand(2, 3, 5)
    with pytest.raises(ValueError, match=r"ranking has 3 classes but student_logits 5.*" + KEYWORD.format(-1)):
        losses.plackett_luce(student, torch.zeros(2, 3, 3, dtype=torch.int64), torch.ones(5), class_dim=-1)
    with pytest.raises(ValueError, match=r"every class once in each row, got \[0, 0, 0, 0, 0\] .* in row \(0, 0\)"):
        losses.plackett_luce(student, ranking * 0, torch.ones(5), class_dim=-1)
    with pytest.raises(
        ValueError, match=r"weights must have shape \(2, 3, 5\) or \(5,\), got \(3,\); " + KEYWORD.format(-1)
    ):
        losses.plackett_luce(student, ranking, torch.ones(3), class_dim=-1)
    with pytest.raises(IndexError, match=r"labels must be in 0\.\.4 .* got 5"):
        losses.kd(student, student, torch.full((2, 3), 5), class_dim=-1)


OF_SEQUENCES = ("sequence", "fused_linear", "chunks", "cross_tokenizer")


def test_every_function_on_logits_has_the_keyword():
    for name in losses.__all__:
        if name in ("PlackettLuce", "CWDLoss") or getattr(losses, name).__module__.rpartition(".")[2] in OF_SEQUENCES:
            continue  # a distribution of torch, maps, and sequences: their classes are the last dimension
        if isinstance(getattr(losses, name), type) and issubclass(getattr(losses, name), tuple):
            continue  # a teacher's values, not a loss
        parameters = inspect.signature(getattr(losses, name)).parameters
        if isinstance(getattr(losses, name), type) or any("logits" in parameter for parameter in parameters):
            assert parameters["class_dim"].default == 1, name
