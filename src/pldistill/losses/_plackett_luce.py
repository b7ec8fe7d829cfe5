"""The Plackett-Luce loss of (M, C) rows, its gradient and its Hessian in closed form; formulas as in `ranking`.

Only the student has a gradient. It is found with the loss, since both need the same sums, and backward multiplies it by
what comes from above. The sums run in float64, in which a float32 result is exact to its rounding.

The Hessian is never laid out. Its product with a vector v, in ranking order, is one more scan, done when asked for:

    (Hv)_i = exp(s_i) Σ_{k<=i} α_k / X_k (v_i - v̄_k),   v̄_k = Σ_{l>=k} exp(s_l) v_l / X_k

`Fused` and `ClosedForm` take a `Form` to autograd, forward mode and `vmap` among it; `operator` takes a kernel to
`torch.compile`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]

from pldistill.losses._inputs import computing_dtype, is_eager_cpu, is_mapped, savable


@dataclass(frozen=True)
class Form:
    """A loss of rows with derivatives in closed form, as functions of (student, *constants).

    Constants are what a row needs besides the student's logits, row by row too: they are what autograd keeps.
    """

    compute: Callable[..., tuple[Tensor, Tensor]]  # the loss, () or (M,), and the (M, C) gradient of its sum
    places: Callable[..., tuple[Tensor, Tensor]]  # ranking and weights α, (M, C), of the Plackett-Luce loss ...
    temperature: float = 1.0  # ... of s / τ which, times τ², has the same Hessian


class Fused(torch.autograd.Function):
    """(student, teacher, labels, form, shares) -> reduced loss. The gradient is kept, and given to the first backward.

    So the loss costs one tensor like the student and no second one. Whoever goes backward again through a retained
    graph has it computed again. `shares(labels)` are the factors of the rows' losses in the reduced one, (M,): the last
    of the constants of `form.places`.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, labels: Tensor, form: Form, shares: Callable[[Tensor], Tensor]
    ) -> Tensor:
        loss, gradient = form.compute(student, teacher, labels)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*savable(student, teacher, labels))
        ctx.form, ctx.shares, ctx.kept, ctx.dtype = form, shares, [gradient], student.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (from_above,) = above
        gradient = ctx.kept.pop() if ctx.kept else _again(ctx)
        if torch.is_grad_enabled():
            student, teacher, labels = ctx.saved_tensors
            slope = Slope.apply(student, ctx.form, gradient, teacher, labels, ctx.shares(labels))
            gradient = from_above.view(-1, 1) * slope
        elif is_mapped(from_above):
            gradient = from_above.view(-1, 1) * gradient
        elif not (from_above.dim() == 0 and from_above.is_cpu and from_above.item() == 1):
            gradient.mul_(from_above.view(-1, 1))
        return gradient.to(ctx.dtype), None, None, None, None


def _again(ctx: Any) -> Tensor:
    student, teacher, labels = ctx.saved_tensors
    return ctx.form.compute(student.detach(), teacher, labels)[1]


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
    product = _once(from_above.view(-1, 1) * gradient, student)
    return product, None, None, None, None, None


def _once(product: Tensor, student: Tensor) -> Tensor:
    """The product in the student's dtype, in a graph of `torch.compile`.

    That it needs the student changes nothing, but only then does the graph refuse to be differentiated twice.
    """
    return torch.where(product.isnan(), product + student, product).to(student.dtype)


# Rows are taken this many logits at a time: on a CPU the float64 scratch then stays in the cache.
_CHUNK_CPU, _CHUNK_DEVICE = 2**17, 2**24
# exp of minus this is still a normal float64, and its inverse times C far from overflow.
_LINEAR_RANGE = 600.0


def losses_of(student: Tensor, form: Form, *constants: Tensor) -> Tensor:
    """(M,) losses, of which autograd knows what `form` does."""
    function = Traced if torch.compiler.is_compiling() else ClosedForm
    return function.apply(student, form, *constants)[0]


class Traced(torch.autograd.Function):
    """A form in a graph of `torch.compile`: differentiated once."""

    @staticmethod
    def forward(student: Tensor, form: Form, *constants: Tensor) -> tuple[Tensor, Tensor]:
        return form.compute(student, *constants)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(inputs[0], gradient)
        ctx.others = len(inputs) - 1

    @staticmethod
    def backward(ctx, from_above: Tensor, _):
        student, gradient = ctx.saved_tensors
        return _once(from_above[:, None] * gradient, student), *(None,) * ctx.others


def _mapped(
    function: type[torch.autograd.Function], info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]
) -> tuple[Any, Any]:
    """`torch.vmap` of a function of rows: what is mapped over is so many more of them."""
    size = info.batch_size

    def fold(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor):
            return value
        batch = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return batch.flatten(0, 1)

    found = function.apply(*map(fold, inputs, in_dims))
    single = isinstance(found, Tensor)
    outputs = tuple(x.view(size, -1 if size else 0, *x.shape[1:]) for x in ((found,) if single else found))
    return (outputs[0], 0) if single else (outputs, (0,) * len(outputs))


class ClosedForm(torch.autograd.Function):
    """(student, form, *constants) -> (M,) losses and their (M, C) gradient, found in the same pass."""

    @staticmethod
    def forward(student: Tensor, form: Form, *constants: Tensor) -> tuple[Tensor, Tensor]:
        return form.compute(student, *constants)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        student, ctx.form, *constants = inputs
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        _save(ctx, student, gradient, *constants)

    @staticmethod
    def backward(ctx, from_above: Tensor, _):
        student, gradient, *constants = ctx.saved_tensors
        slope = Slope.apply(student, ctx.form, gradient, *constants)
        return (from_above[:, None] * slope).to(student.dtype), None, *(None for _ in constants)

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        _check_forward_once()
        student, gradient, *constants = ctx.saved_tensors
        return (Slope.apply(student, ctx.form, gradient, *constants) * tangent).sum(1), None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _mapped(ClosedForm, info, in_dims, inputs)


class Slope(torch.autograd.Function):
    """(student, form, gradient, *constants) -> the gradient as what it is, a function of the student.

    Taken for a constant, it would silently give zero to whoever differentiates it again, for a gradient penalty say.
    """

    @staticmethod
    def forward(student: Tensor, form: Form, gradient: Tensor, *constants: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        student, ctx.form, gradient, *constants = inputs
        ctx.dtype = gradient.dtype
        _save(ctx, student, *constants)

    @staticmethod
    def backward(ctx, *above: Tensor):
        student, *constants = ctx.saved_tensors
        product = HessianProduct.apply(above[0], Last.apply(student), ctx.form, *constants)
        return product.to(student.dtype), None, None, *(None for _ in constants)

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        _check_forward_once()
        student, *constants = ctx.saved_tensors
        return HessianProduct.apply(tangent, Last.apply(student), ctx.form, *constants).to(ctx.dtype)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _mapped(Slope, info, in_dims, inputs)


class HessianProduct(torch.autograd.Function):
    """(v, student, form, *constants) -> Hv of the losses' sum; v alone has a derivative, the student one of `Last`."""

    @staticmethod
    def forward(v: Tensor, student: Tensor, form: Form, *constants: Tensor) -> Tensor:
        return hessian_product(v, student, *form.places(student, *constants), form.temperature)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, student, ctx.form, *constants = inputs
        _save(ctx, student, *constants)

    @staticmethod
    def backward(ctx, *above: Tensor):
        student, *constants = ctx.saved_tensors
        product = HessianProduct.apply(above[0], student, ctx.form, *constants)
        return product, torch.zeros_like(student), None, *(None for _ in constants)

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        _check_forward_once()
        student, *constants = ctx.saved_tensors
        return HessianProduct.apply(tangent, student, ctx.form, *constants)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _mapped(HessianProduct, info, in_dims, inputs)


class Last(torch.autograd.Function):
    """The student as it stands in its Hessian: whoever asks for a derivative by it asks for the third."""

    @staticmethod
    def forward(student: Tensor) -> Tensor:
        return student.view_as(student)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(_NO_THIRD)

    @staticmethod
    def jvp(ctx, *_):
        raise NotImplementedError(_NO_THIRD)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _mapped(Last, info, in_dims, inputs)


_NO_THIRD = "the Plackett-Luce losses have no third derivative: differentiate them twice at most"


def _check_forward_once() -> None:
    """Refuse forward mode over forward mode: torch hides the outer one from the rule of the inner, which would be 0."""
    transforms = functorch.get_interpreter_stack() or ()
    if sum(each.key() == functorch.TransformType.Jvp for each in transforms) > 1:
        raise NotImplementedError(
            "the Plackett-Luce losses have no forward mode over forward mode: for a second derivative, "
            "take torch.func.grad or jacrev for one of the two"
        )


def _save(ctx: Any, *tensors: Tensor) -> None:
    tensors = savable(*tensors)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def losses_and_gradient(student: Tensor, ranking: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The (M,) Plackett-Luce losses of (M, C) rows, and their (M, C) gradient."""
    dtype = computing_dtype(student, weights)

    def of(part: slice) -> tuple[Tensor, Tensor]:
        return _losses_and_gradient(student[part], ranking[part], weights[part], dtype)

    losses, gradient = in_chunks(of, student)
    return losses, gradient


def hessian_product(v: Tensor, student: Tensor, ranking: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """The product of v, (M, C), with the Hessian of τ² times the Plackett-Luce loss of s / τ, row by row."""
    dtype = computing_dtype(v, student)

    def of(part: slice) -> tuple[Tensor, ...]:
        places = ranking[part]
        s, ordered = below_top(student[part].gather(1, places).double()) / temperature, v[part].gather(1, places)
        product = _curvature(s, weights[part].double(), ordered.double(), linear=is_narrow(s))
        return (torch.empty_like(product).scatter_(1, places, product).to(dtype),)

    return in_chunks(of, student)[0]


def in_chunks(of: Callable[[slice], tuple[Tensor, ...]], student: Tensor) -> tuple[Tensor, ...]:
    """Tensors of all rows, such as losses and gradient, a slice of the rows at a time."""
    rows, classes = student.shape
    chunk = _CHUNK_CPU if student.device.type == "cpu" else _CHUNK_DEVICE
    step = rows if torch.compiler.is_compiling() else max(1, chunk // classes)
    if step >= rows:
        return of(slice(None))
    first = of(slice(0, step))
    whole = tuple(each.new_empty(rows, *each.shape[1:]) for each in first)
    for at in range(0, rows, step):
        part = slice(at, at + step)
        for each, found in zip(whole, of(part) if at else first, strict=True):
            each[part] = found
    return whole


def _losses_and_gradient(
    student: Tensor, ranking: Tensor, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One chunk: bring the student into ranking order, scan in float64, bring the gradient back."""
    s, alpha = below_top(student.gather(1, ranking).double()), weights.double()
    losses, gradient = in_order(s, alpha, linear=is_narrow(s))
    return losses.to(dtype), torch.empty_like(gradient).scatter_(1, ranking, gradient).to(dtype)


def in_order(s: Tensor, alpha: Tensor, *, linear: bool) -> tuple[Tensor, Tensor]:
    """Losses and gradient of logits `below_top` in ranking order."""
    log_worth, gradient = scan(s, alpha, linear=linear)
    costs = alpha * (log_worth - s)
    impossible = (s == -math.inf) & (alpha > 0)
    costs = costs.masked_fill(alpha == 0, 0).masked_fill(impossible, math.inf)
    return costs.sum(1), gradient - alpha


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


def _curvature(s: Tensor, alpha: Tensor, v: Tensor, *, linear: bool) -> Tensor:
    """Hv of logits `below_top` and of v, both in ranking order.

    A constant added to v changes nothing. So the least of v is taken off it: all terms are then at least 0.
    """
    gone = s == -math.inf
    v = (v - v.masked_fill(gone, math.inf).amin(1, keepdim=True)).masked_fill(gone, 0)
    return _curvature_linear(s, alpha, v) if linear else _curvature_logarithmic(s, alpha, v)


def _curvature_linear(s: Tensor, alpha: Tensor, v: Tensor) -> Tensor:
    worth = s.exp()
    left, weighted = (z.flip(1).cumsum(1).flip(1) for z in (worth, worth * v))
    nothing = (alpha == 0) | (left == 0)
    share = (alpha / left).masked_fill(nothing, 0)
    total = share.cumsum(1)
    from_means = (share * weighted / left).masked_fill(nothing, 0).cumsum(1)
    return (worth * (total * v - from_means)).masked_fill(total == 0, 0)


def _curvature_logarithmic(s: Tensor, alpha: Tensor, v: Tensor) -> Tensor:
    log_v = v.log()
    log_left, log_weighted = (z.flip(1).logcumsumexp(1).flip(1) for z in (s, s + log_v))
    nothing = (alpha == 0) | (log_left == -math.inf)
    log_share = (alpha.log() - log_left).masked_fill(nothing, -math.inf)
    log_total = log_share.logcumsumexp(1)
    log_means = (log_share + log_weighted - log_left).masked_fill(nothing, -math.inf)
    from_means = s + log_means.logcumsumexp(1)
    return ((s + log_total + log_v).exp() - from_means.exp()).masked_fill(log_total == -math.inf, 0)
