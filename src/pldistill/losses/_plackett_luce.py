"""The Plackett-Luce loss of (M, C) rows and its closed-form gradient, in one pass; formulas as in `ranking`.

Only the student has a gradient. It is found with the loss, since both need the same sums, and backward multiplies it by
what comes from above. The sums run in float64, in which a float32 result is exact to its rounding.

`Fused` and `operator` take any `compute(student, teacher, labels) -> (loss, gradient)`, the loss () or (M,) and the
gradient that of its sum, to autograd and `torch.compile`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pldistill.losses._inputs import computing_dtype, is_eager_cpu, savable

Compute = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Fused(torch.autograd.Function):
    """(student, teacher, labels, compute) -> loss. The gradient is kept, and given away by the first backward.

    So the loss costs one tensor like the student and no second one. Whoever goes backward again through a retained
    graph has it computed again.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, labels: Tensor, compute: Compute) -> Tensor:
        loss, gradient = compute(student, teacher, labels)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*savable(student, teacher, labels))
        ctx.compute, ctx.kept, ctx.dtype = compute, [gradient], student.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (from_above,) = above
        gradient = ctx.kept.pop() if ctx.kept else _again(ctx)
        if torch.is_grad_enabled():
            gradient = from_above.view(-1, 1) * FirstDerivative.apply(gradient, ctx.saved_tensors[0])
        elif not (from_above.dim() == 0 and from_above.is_cpu and from_above.item() == 1):
            gradient.mul_(from_above.view(-1, 1))
        return gradient.to(ctx.dtype), None, None, None


def _again(ctx: Any) -> Tensor:
    student, teacher, labels = ctx.saved_tensors
    return ctx.compute(student.detach(), teacher, labels)[1]


def operator(
    name: str,
    compute: Callable[[Tensor, Tensor, Tensor, float, int, str], tuple[Tensor, Tensor]],
    gradient_dtype: Callable[[torch.dtype, str], torch.dtype],
) -> Callable[..., Any]:
    """`compute(student, teacher, labels, temperature, ignore_index, reduction)` as an operator of torch of this name.

    A compiled graph calls it as it is: traced, its NumPy would become torch's operators, slow sort and all.
    """
    schema = (
        "(Tensor student, Tensor teacher, Tensor labels, float temperature, SymInt ignore_index, str reduction)"
        " -> (Tensor, Tensor)"
    )
    made = torch.library.custom_op(name, compute, mutates_args=(), schema=schema)

    @made.register_fake
    def _(student, teacher, labels, temperature, ignore_index, reduction):
        loss = student.new_empty((student.shape[0],) if reduction == "none" else (), dtype=torch.float32)
        return loss, student.new_empty(student.shape, dtype=gradient_dtype(student.dtype, reduction))

    made.register_autograd(_backward, setup_context=_setup_context)
    return made


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, gradient = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], gradient)


def _backward(ctx: Any, from_above: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    student, gradient = ctx.saved_tensors
    product = from_above.view(-1, 1) * gradient
    # Changes nothing, but needs the student: only then does a compiled graph refuse to be differentiated twice.
    product = torch.where(product.isnan(), product + student, product)
    return product.to(student.dtype), None, None, None, None, None


# Rows are taken this many logits at a time: on a CPU the float64 scratch then stays in the cache.
_CHUNK_CPU, _CHUNK_DEVICE = 2**17, 2**24
# exp of minus this is still a normal float64, and its inverse times C far from overflow.
_LINEAR_RANGE = 600.0


class ClosedForm(torch.autograd.Function):
    """A forward that gives (M,) losses and their (M, C) gradient by its first argument, the student."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(inputs[0], gradient)
        ctx.constants = len(inputs) - 1

    @staticmethod
    def backward(ctx, grad_losses: Tensor, _):
        student, gradient = ctx.saved_tensors
        constants = (None,) * ctx.constants
        if not torch.compiler.is_compiling():
            gradient = FirstDerivative.apply(gradient, student)
            return (grad_losses[:, None] * gradient).to(student.dtype), *constants
        product = grad_losses[:, None] * gradient
        # Changes nothing, but needs the student: only then does a compiled graph refuse to be differentiated twice.
        return torch.where(product.isnan(), product + student, product).to(student.dtype), *constants


class PlackettLuce(ClosedForm):
    """(M, C) student, ranking and weights -> (M,) losses and their (M, C) gradient, found in the same pass."""

    @staticmethod
    def forward(student: Tensor, ranking: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        dtype = computing_dtype(student, weights)

        def of(part: slice) -> tuple[Tensor, Tensor]:
            return _losses_and_gradient(student[part], ranking[part], weights[part], dtype)

        return in_chunks(of, student, dtype)


class FirstDerivative(torch.autograd.Function):
    """The stored gradient as what it is, a function of the student.

    Taken for a constant, it would silently give zero to whoever differentiates it again, for a gradient penalty say.
    """

    @staticmethod
    def forward(gradient: Tensor, student: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError("the Plackett-Luce losses have no second derivative: differentiate them once")


def in_chunks(
    of: Callable[[slice], tuple[Tensor, Tensor]], student: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Losses and gradient of all rows, a slice of them at a time."""
    rows, classes = student.shape
    chunk = _CHUNK_CPU if student.device.type == "cpu" else _CHUNK_DEVICE
    step = rows if torch.compiler.is_compiling() else max(1, chunk // classes)
    if step >= rows:
        return of(slice(None))
    losses = student.new_empty(rows, dtype=dtype)
    gradient = student.new_empty(rows, classes, dtype=dtype)
    for at in range(0, rows, step):
        part = slice(at, at + step)
        losses[part], gradient[part] = of(part)
    return losses, gradient


def _losses_and_gradient(
    student: Tensor, ranking: Tensor, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One chunk: bring the student into ranking order, scan in float64, bring the gradient back."""
    s, alpha = below_top(student.gather(1, ranking).double()), weights.double()
    log_worth, gradient = scan(s, alpha, linear=is_narrow(s))
    costs = alpha * (log_worth - s)
    impossible = (s == -math.inf) & (alpha > 0)
    costs = costs.masked_fill(alpha == 0, 0).masked_fill(impossible, math.inf)
    gradient = torch.empty_like(gradient).scatter_(1, ranking, gradient - alpha)
    return costs.sum(1).to(dtype), gradient.to(dtype)


def below_top(s: Tensor) -> Tensor:
    """The logits less the largest of their row: none is above 0."""
    top = s.amax(1, keepdim=True)
    return s - top.masked_fill(top == -math.inf, 0)


def is_narrow(s: Tensor) -> bool:
    """Whether exp of logits `below_top` does not underflow, where one may look: then plain sums do."""
    return is_eager_cpu(s) and s.numel() > 0 and bool(s.masked_fill(s == -math.inf, 0).min() > -_LINEAR_RANGE)


def scan(s: Tensor, alpha: Tensor, *, linear: bool) -> tuple[Tensor, Tensor]:
    """log X_k and exp(s_i) G_i of logits `below_top` in ranking order."""
    return _scan_linear(s, alpha) if linear else _scan_logarithmic(s, alpha)


def _scan_linear(s: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Where exp(s) does not underflow: plain sums, of positive terms, so none cancel."""
    worth = s.exp()
    left = worth.flip(1).cumsum(1).flip(1)
    share = (alpha / left).masked_fill((alpha == 0) | (left == 0), 0).cumsum(1)
    return left.log(), (worth * share).masked_fill(share == 0, 0)


def _scan_logarithmic(s: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """For any s: the same sums, carried as logarithms."""
    log_left = s.flip(1).logcumsumexp(1).flip(1)
    log_share = (alpha.log() - log_left).masked_fill((alpha == 0) | (log_left == -math.inf), -math.inf).logcumsumexp(1)
    return log_left, (s + log_share).masked_fill(log_share == -math.inf, -math.inf).exp()
