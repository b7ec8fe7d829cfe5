"""The stagewise KL of (M, C) rows and its closed-form gradient, in one pass; formulas as in `stagewise`.

U_k / T_k - log T_k + log S_k is a small difference of large sums, and is not computed so here. To choose among what is
left at place k is to take what stands there, or to go on and choose among the rest. So

    KL_k = b_k + (1 - q_k) KL_{k+1} = Σ_{j>=k} (T_j / T_k) b_j

with q_k = e^{t_k} / T_k, p_k = e^{s_k} / S_k, and b_k the KL between the coins (q_k, 1 - q_k) and (p_k, 1 - p_k). No
term is below 0, so none cancels another. The gradient is that of two Plackett-Luce losses, one less the other: exact to
the rounding of the weights, in float64, and so nought where both nets are sure of the same class to that rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pldistill.losses._plackett_luce import ClosedForm, below_top, in_chunks, is_narrow, scan
from pldistill.losses._rows import computing_dtype

# Up to this difference of log-odds, a coin's KL is written so that it loses no digits near 0.
_NEAR = 0.5


class StagewiseKL(ClosedForm):
    """(M, C) student, teacher, ranking and weights (None: the teacher's mass) -> (M,) losses, (M, C) gradient."""

    @staticmethod
    def forward(
        student: Tensor, teacher: Tensor, ranking: Tensor, weights: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        dtype = computing_dtype(student, teacher, *(() if weights is None else (weights,)))

        def of(part: slice) -> tuple[Tensor, Tensor]:
            places = ranking[part]
            s, t = (below_top(z[part].gather(1, places).double()) / temperature for z in (student, teacher))
            w = t.softmax(1) if weights is None else weights[part].double()
            losses, gradient = _losses_and_gradient(s, t, w)
            gradient = torch.empty_like(gradient).scatter_(1, places, gradient)
            return (temperature**2 * losses).to(dtype), (temperature * gradient).to(dtype)

        return in_chunks(of, student, dtype)


def _losses_and_gradient(s: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_k w_k KL_k and its gradient by s, in ranking order; a stage where the teacher leaves no class costs nothing."""
    linear = is_narrow(s) and is_narrow(t)
    log_t, from_teacher = scan(t, w, linear=linear)
    w = w.masked_fill(log_t == -math.inf, 0)
    log_s, from_student = scan(s, w, linear=linear)
    divergences = _divergences(_coins(s, t, log_s, log_t), log_t, linear=linear)
    return (w * divergences).masked_fill(w == 0, 0).sum(1), from_student - from_teacher


def _coins(s: Tensor, t: Tensor, log_s: Tensor, log_t: Tensor) -> Tensor:
    """b_k from the log-odds of taking place k against what comes after it."""
    odds_s, odds_t = (
        z - torch.nn.functional.pad(left[:, 1:], (0, 1), value=-math.inf) for z, left in ((s, log_s), (t, log_t))
    )
    log_p, log_not_p, log_q, log_not_q = map(_log_sigmoid, (odds_s, -odds_s, odds_t, -odds_t))
    q, not_q = log_q.exp(), log_not_q.exp()
    apart = (q * (log_q - log_p)).masked_fill(q == 0, 0) + (not_q * (log_not_q - log_not_p)).masked_fill(not_q == 0, 0)
    smaller, step = torch.minimum(q, not_q), torch.where(q < not_q, odds_s - odds_t, odds_t - odds_s)
    near = (smaller * step.expm1()).log1p() - smaller * step  # log(1 - q + q e^δ) - q δ, or the same of the other side
    coins = torch.where(step.abs() < _NEAR, near, apart).clamp(min=0)
    impossible = (log_s == -math.inf) & (log_t > -math.inf)
    return coins.masked_fill(impossible, math.inf).masked_fill(log_t == -math.inf, 0)


def _divergences(coins: Tensor, log_t: Tensor, *, linear: bool) -> Tensor:
    """KL_k, the sums of coins from the last place up."""
    if linear:
        left = log_t.exp()
        return (left * coins).flip(1).cumsum(1).flip(1) / left
    log_total = (log_t + coins.log()).flip(1).logcumsumexp(1).flip(1)
    return (log_total - log_t).exp()


def _log_sigmoid(x: Tensor) -> Tensor:
    return x.clamp(max=0) - (-x.abs()).exp().log1p()
