"""A loss that is found together with its gradient, as autograd and `torch.compile` see it.

`compute(student, teacher, labels) -> (loss, gradient)`: the loss is () or (M,), the gradient that of its sum. Only the
student has a gradient, and only a first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pldistill.losses._plackett_luce import FirstDerivative

Compute = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Fused(torch.autograd.Function):
    """(student, teacher, labels, compute) -> loss. The gradient is kept, and given away by the first backward.

    So the loss costs one tensor like the student and no second one. Whoever goes backward again through a retained
    graph has it computed again.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, labels: Tensor, compute: Compute) -> Tensor:
        loss, gradient = compute(student, teacher, labels)
        ctx.save_for_backward(student, teacher, labels)
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
