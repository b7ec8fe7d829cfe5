"""Derivatives, right or refused, and the one branch-free path of compiled graphs and devices."""

import math
import shutil
import warnings

import pytest
import torch
from torch.autograd import forward_ad

from losses_list import ALL_LOSSES
from pldistill.losses import plackett_luce, pld

# torch's forward mode scripts its own rules on first use, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
RANKING = [loss for loss in ALL_LOSSES if loss.function.__module__.endswith(("ranking", "stagewise"))]
every_ranking_loss = pytest.mark.parametrize("loss", RANKING, ids=str)


def draw(rows=3, classes=5, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    student, teacher = (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


@every_loss
def test_gradcheck(loss):
    student, teacher, labels = draw()
    labels[1] = -100
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), student)
    student, teacher, _ = draw(rows=6, classes=4)
    student, teacher = (x.detach().view(2, 3, 4).movedim(-1, 1) for x in (student, teacher))
    labels = torch.tensor([[0, 1, 2], [3, -100, 0]])
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), student.requires_grad_())


@every_loss
def test_every_loss_has_forward_and_second_derivatives(loss):
    student, teacher, labels = draw()
    labels[1] = -100
    for reduction in ("mean", "none") if loss.summed else ("mean",):

        def function(s, reduction=reduction):
            return loss(s, teacher, labels, reduction=reduction)

        assert torch.autograd.gradcheck(function, student, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, student, check_batched_grad=True)


@every_loss
def test_second_derivatives_of_positions(loss):
    student, teacher, _ = draw(rows=6, classes=4)
    student, teacher = (x.detach().view(2, 3, 4) for x in (student, teacher))
    labels = torch.tensor([[0, 1, 2], [3, -100, 0]])
    assert torch.autograd.gradgradcheck(lambda s: loss(s, teacher, labels, class_dim=-1), student.requires_grad_())


@every_ranking_loss
def test_third_derivative_is_refused_in_words(loss):
    student, teacher, labels = draw()
    (gradient,) = torch.autograd.grad(loss(student, teacher, labels), student, create_graph=True)
    (bent,) = torch.autograd.grad(gradient.square().sum(), student, create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivative: differentiate them twice at most"):
        bent.sum().backward()


@every_ranking_loss
def test_first_order_transforms_are_right(loss):
    student, teacher, labels = draw()

    def function(s):
        return loss(s, teacher, labels)

    (gradient,) = torch.autograd.grad(function(student), student)
    torch.testing.assert_close(torch.func.grad(function)(student.detach()), gradient)
    tangent = torch.ones_like(gradient).cumsum(1)
    _, along = torch.autograd.functional.jvp(function, student.detach(), tangent)
    torch.testing.assert_close(along, (gradient * tangent).sum())


def test_gradient_depends_rightly_on_what_comes_from_above():
    student, teacher, labels = draw()
    factor = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(pld(student, teacher, labels), student)
    (gradient,) = torch.autograd.grad(factor * pld(student, teacher, labels), student, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient[0, 0], factor)[0], plain[0, 0])


def test_backward_twice_gives_the_same():
    student, teacher, labels = draw()
    value = pld(student, teacher, labels)
    first, second = (torch.autograd.grad(value, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def _dual(function, tensor):
    with forward_ad.dual_level():
        return function(forward_ad.make_dual(tensor, tensor))


def test_weights_that_require_grad_are_refused():
    student, _, _ = draw()
    ranking = torch.arange(5).expand(3, 5)
    weights = torch.ones(5, requires_grad=True)
    with pytest.raises(ValueError, match=r"weights must not require grad.*weights\.detach"):
        plackett_luce(student, ranking, weights)
    with torch.no_grad():
        assert plackett_luce(student, ranking, weights).isfinite()
    with pytest.raises(ValueError, match=r"weights must not require grad.*weights\.detach"):
        _dual(lambda w: plackett_luce(student.detach(), ranking, w), weights.detach())


@every_loss
def test_meta_tensors_pass_so_nothing_looks_at_values(loss):
    """A host synchronisation would need a value, which meta tensors do not have."""
    student, teacher, labels = (x.detach().to("meta") for x in draw())
    student.requires_grad_()
    loss(student, teacher, labels).backward()
    assert student.grad is not None
    assert student.grad.shape == student.shape
    assert student.grad.dtype == student.dtype


def test_the_core_looks_at_no_values_of_meta_tensors():
    student, ranking = torch.zeros(3, 5, device="meta", requires_grad=True), torch.zeros(3, 5, device="meta").long()
    plackett_luce(student, ranking, torch.ones(5, device="meta")).backward()
    assert student.grad is not None


def compiled_equals_eager(loss, backend, dynamic=False):
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compiled = torch.compile(lambda s, t, y: loss(s, t, y), backend=backend, fullgraph=True, dynamic=dynamic)
        student, teacher, labels = draw(rows=6, classes=9, scale=3.0)
        labels[2] = -100
        student = student.detach().float().requires_grad_()
        wide = (student.detach() * 1e4).requires_grad_()
        for s in (student, wide):
            measured, expected = compiled(s, teacher.float(), labels), loss(s, teacher.float(), labels)
            torch.testing.assert_close(measured, expected)
            gradients = (torch.autograd.grad(x, s)[0] for x in (measured, expected))
            torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6 * max(1, expected.item()))


@every_loss
def test_compiles_to_one_graph(loss):
    compiled_equals_eager(loss, "aot_eager")


def test_compiles_to_one_graph_of_any_size():
    compiled_equals_eager(ALL_LOSSES[0], "aot_eager", dynamic=True)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here")
def test_compiles_with_inductor():
    compiled_equals_eager(ALL_LOSSES[0], "inductor")


def test_compiled_graph_refuses_the_second_derivative():
    torch.compiler.reset()
    student, teacher, labels = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(lambda s, t, y: pld(s, t, y), backend="aot_eager", fullgraph=True)
        value = compiled(student, teacher, labels)
    (gradient,) = torch.autograd.grad(value, student, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        (value + gradient.square().sum()).backward()


def test_compiled_path_keeps_infinities_right():
    torch.compiler.reset()
    student, teacher, labels = draw(rows=4)
    with torch.no_grad():
        student[0, 1], teacher[0, 1] = -math.inf, -math.inf
        student[1, labels[1]] = -math.inf
    labels[0] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(
            lambda s, t, y: pld(s, t, y, reduction="none"), backend="aot_eager", fullgraph=True, dynamic=False
        )
        measured = compiled(student, teacher, labels)
    expected = pld(student, teacher, labels, reduction="none")
    torch.testing.assert_close(measured, expected)
    assert measured.isinf().tolist() == [False, True, False, False]
    gradients = [torch.autograd.grad(x[[0, 2, 3]].sum(), student)[0] for x in (measured, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0][0, 1] == 0
