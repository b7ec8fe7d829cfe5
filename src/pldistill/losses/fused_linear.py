"""A loss of tokens from hidden states, a chunk at a time: the logits of a whole batch never exist.

The head of a language model makes logits (B, S, V) from hidden states (B, S, D), V being hundreds of times D at times.
Here the head is applied to some valid positions, the loss and its gradient by these logits are found, carried back to
the hidden states and to the head, and the logits dropped. Symbols: h hidden states, W the head's weight, b its bias,

    z = h Wᵀ + b,   L = Σ_i L_i(z_i) / n,   ∂L/∂h = g W,   ∂L/∂W = gᵀ h,   ∂L/∂b = Σ_i g_i,   g = ∂L/∂z

The gradients are found with the loss, so they cost no second pass, and memory for one tensor like h and one like W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pldistill.losses._inputs import check_flag, check_floats, computing_dtype
from pldistill.losses.sequence import (
    check_states,
    check_store_and_loss,
    check_token_options,
    common_size,
    denominator,
    loss_couples_rows,
    loss_name,
    packed_teacher,
    sum_of_rows,
    valid_positions,
)
from pldistill.losses.top_k import TeacherTopK


class TeacherHead(NamedTuple):
    """A teacher by its hidden states and its head: logits t = hidden @ weight.T + bias. A constant.

    Attributes:
        hidden: (B, S, D_t), floating point.
        weight: (V, D_t), as of a `torch.nn.Linear`.
        bias: (V,), or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


def fused_linear(
    loss: Callable[..., Tensor],
    hidden: Tensor,
    weight: Tensor,
    teacher: TeacherHead | TeacherTopK,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = 256,
    shift: bool = True,
    num_items: float | Tensor | None = None,
    ignore_index: int = -100,
    common_vocabulary: bool = False,
    **options: object,
) -> Tensor:
    """`tokens` of the logits hidden @ weight.T + bias, of which no more than `chunk` rows exist at a time.

    Value and gradients are those of `tokens` up to rounding. Differentiated once; a second derivative raises.

    Args:
        loss: as `tokens`, but for `dist` and `skd`, which need all rows at once.
        hidden: h, (B, S, D), floating point: the student's hidden states before its head.
        weight: W, (V, D), as of a `torch.nn.Linear`.
        teacher: a `TeacherHead`, or a `TeacherTopK` of ids (B, S, K) for `pld_from_top_k`.
        labels: y, (B, S), integers in 0..V-1 or `ignore_index`.
        bias: b, (V,), or None.
        chunk: how many positions have logits at a time, at least 1.
        common_vocabulary: cut both heads to their first min(V_s, V_t) rows, where one vocabulary is the other and
            padding behind it.
        shift, num_items, ignore_index, options: as `tokens`.

    Returns:
        A scalar, float32, or float64 where the logits are.

    Raises:
        ValueError: shapes, dtypes or options do not fit; `dist` or `skd`.
        IndexError: as `tokens`.

    Source: pldistill's own.
    """
    check_token_options(loss, shift, num_items, ignore_index, options)
    check_flag("common_vocabulary", common_vocabulary)
    if loss_couples_rows(loss):
        raise ValueError(
            f"loss must not be {loss_name(loss)}, which relates all rows of a batch and so needs all logits; tokens "
            "takes it"
        )
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk must be an integer of at least 1, got {chunk!r}")
    check_states("hidden", hidden, "(B, S, D)")
    _check_head("", hidden, weight, bias)
    check_store_and_loss("teacher", teacher, loss)
    if not isinstance(teacher, TeacherHead | TeacherTopK):
        raise ValueError(f"teacher must be a TeacherHead or a TeacherTopK, got {type(teacher).__name__}")
    if isinstance(teacher, TeacherHead):
        check_states("teacher.hidden", teacher.hidden, "(B, S, D)")
        _check_head("teacher.", *teacher)
        size = common_size("teacher.weight", len(teacher.weight), "weight", len(weight), common_vocabulary)
        weight, bias = weight[:size], None if bias is None else bias[:size]
    labels, valid = valid_positions(labels, hidden, shift, ignore_index)
    rows = _teacher_rows(teacher, valid, len(weight))

    def part_of_loss(logits: Tensor, part: slice) -> Tensor:
        return sum_of_rows(loss, logits, rows(part), labels[part], ignore_index, options)

    total = Chunked.apply(hidden[valid], weight, bias, part_of_loss, chunk)
    return total / denominator(num_items, len(labels), total)


class Chunked(torch.autograd.Function):
    """(hidden (M, D), weight, bias, part_of_loss, chunk) -> Σ of the rows' losses, its gradients found with it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        part_of_loss: Callable[[Tensor, slice], Tensor],
        chunk: int,
    ) -> Tensor:
        by_hidden, by_weight, by_bias, *_ = ctx.needs_input_grad
        asked = by_hidden or by_weight or by_bias
        sums = [torch.zeros_like(hidden) if by_hidden else None]
        sums += [
            torch.zeros_like(each, dtype=computing_dtype(each)) if each is not None and needed else None
            for each, needed in ((weight, by_weight), (bias, by_bias))
        ]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        dtype = computing_dtype(hidden, weight)
        for at in range(0, len(hidden), chunk):
            part = slice(at, at + chunk)
            logits = _logits(hidden[part], weight, bias)
            with torch.set_grad_enabled(asked):
                logits = logits.detach().requires_grad_(asked)
                found = part_of_loss(logits, part)
            total += found.detach()
            dtype = found.dtype
            if asked:
                (gradient,) = torch.autograd.grad(found, logits)
                _add(sums, gradient, hidden[part], weight, part)
        ctx.save_for_backward(hidden, weight, *sums)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return total.to(dtype)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *sums = ctx.saved_tensors
        gradients = [
            None if each is None else (above[0] * each).to(dtype) for each, dtype in zip(sums, ctx.dtypes, strict=True)
        ]
        if torch.is_grad_enabled():
            gradients = [None if each is None else Once.apply(each, hidden, weight) for each in gradients]
        return *gradients, None, None


class Once(torch.autograd.Function):
    """(gradient, hidden, weight) -> the gradient, which is no constant, though nobody may differentiate it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError("fused_linear has no second derivative: tokens of the logits has that of its loss")


def _add(sums: list[Tensor | None], gradient: Tensor, hidden: Tensor, weight: Tensor, part: slice) -> None:
    """Carry the gradient of some logits back to hidden states, weight and bias."""
    of_hidden, of_weight, of_bias = sums
    if of_hidden is not None:
        of_hidden[part] = gradient.to(weight.dtype) @ weight
    if of_weight is not None:
        if of_weight.dtype == gradient.dtype == hidden.dtype:
            of_weight.addmm_(gradient.t(), hidden)
        else:
            of_weight += gradient.to(hidden.dtype).t() @ hidden
    if of_bias is not None:
        of_bias += gradient.sum(0, dtype=of_bias.dtype)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(hidden, weight, bias)


def _teacher_rows(
    teacher: TeacherHead | TeacherTopK, valid: Tensor, size: int
) -> Callable[[slice], Tensor | TeacherTopK]:
    """The teacher's answer at a part of the valid positions, its logits made when they are asked for."""
    if isinstance(teacher, TeacherTopK):
        store = packed_teacher("teacher", teacher, valid)
        return lambda part: TeacherTopK(*(None if each is None else each[part] for each in store))  # pyright: ignore
    packed = packed_teacher("teacher.hidden", teacher.hidden.detach(), valid)
    assert isinstance(packed, Tensor)
    weight, bias = teacher.weight.detach()[:size], None if teacher.bias is None else teacher.bias.detach()[:size]

    def rows(part: slice) -> Tensor:
        with torch.no_grad():
            return _logits(packed[part], weight, bias)

    return rows


def _check_head(prefix: str, hidden: Tensor, weight: object, bias: object) -> None:
    check_floats(f"{prefix}weight", weight)
    assert isinstance(weight, Tensor)
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1] or len(weight) == 0:
        raise ValueError(
            f"{prefix}weight must have shape (V, D) with D = {hidden.shape[-1]} of {prefix}hidden, got "
            f"{tuple(weight.shape)}"
        )
    if bias is not None:
        check_floats(f"{prefix}bias", bias)
        assert isinstance(bias, Tensor)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"{prefix}bias must have shape ({len(weight)},), got {tuple(bias.shape)}")
