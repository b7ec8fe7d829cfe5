"""The Plackett-Luce model itself, a distribution over rankings: the ranking losses are likelihoods of it.

Symbols as in `ranking`: s logits, π a ranking (π_1 comes first), C classes, α_k the weight of place k,
X_k = Σ_{l>=k} exp(s_{π_l}).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pldistill.losses._inputs import check_tensor, computing_dtype


class _BelowInfinity(constraints.Constraint):
    """Numbers and -inf; neither NaN nor +inf."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value < math.inf).all(-1)


class _Permutations(constraints.Constraint):
    """Along the last dim, every class 0..C-1 once."""

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        classes = torch.arange(value.shape[-1], device=value.device)
        return (value.sort(-1).values == classes).all(-1)


class PlackettLuce(Distribution):
    """Rankings of C classes, their first place chosen in proportion to exp(s), the next among those left, and so on.

        P(π | s) = Π_k exp(s_{π_k}) / X_k,   X_k = Σ_{l>=k} exp(s_{π_l})

    That each choice is in proportion to a worth, whatever else there is to choose from, is Luce's axiom: the ratio of
    two classes' probabilities does not depend on the other classes. A constant added to all logits changes nothing. A
    class of logit -inf has worth 0: it comes behind all others, and classes of worth 0 come in any order alike, the
    limit of small worths that are equal. (The losses ask more: such a class costs +inf at a place of positive weight.)

    How smooth the losses are. -Σ_k α_k log p_k has the Hessian Σ_k α_k (diag σ_k - σ_k σ_kᵀ), where σ_k is the softmax
    over the classes left at place k. The eigenvalues of one such matrix lie in [0, 1/2], and the last place, where one
    class is left, adds none. So those of the whole lie in [0, 1/2 Σ_{k<C} α_k]: in [0, (C - 1) / 2] for -log P, and in
    [0, 1/2] for `pld`, whose weights sum to at most 1. Its gradient is Lipschitz with constant 1/2 everywhere, and no
    smaller constant does: two classes of equal logits, the others far below, reach it.

    Args:
        logits: s, (..., C), floating point, C >= 1; -inf allowed. batch_shape is (...), event_shape (C,). Half
            precision gives float32.
        validate_args: look at values, on any device, as all of `torch.distributions` do; None takes their default.

    Raises:
        ValueError: `logits` are no floating point tensor of at least one dimension and one class; or, validated, hold
            a NaN or +inf.

    Source: Luce, "Individual choice behavior" (1959); Plackett, "The analysis of permutations" (1975); the PLD paper,
    Sec. 3.2. The Hessian is the derivative of the gradient in its Appendix A.3; A.4 proves convexity and a Lipschitz
    gradient without a constant. The constant is pldistill's, by Böhning's bound, diag σ - σ σᵀ <= 1/2 ("Multinomial
    logistic regression algorithm", 1992).
    """

    arg_constraints = {"logits": _BelowInfinity()}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        check_tensor("logits", logits)
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}")
        if logits.dim() < 1 or logits.shape[-1] == 0:
            raise ValueError(f"logits must have shape (..., C) with C >= 1, got {tuple(logits.shape)}")
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PlackettLuce:
        """The same model for a larger batch shape, without new memory; see `torch.distributions.Distribution`."""
        new: Any = self._get_checked_instance(PlackettLuce, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.event_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Permutations of 0..C-1 along the last dim."""
        return _Permutations()

    @property
    def probs(self) -> Tensor:
        """(..., C): the probability of each class to come first, softmax(s)."""
        return self.choice_probs()

    @property
    def mode(self) -> Tensor:
        """(..., C): the most probable ranking, by descending logit; of equal logits the lower class comes first."""
        return self.logits.argsort(dim=-1, descending=True, stable=True)

    def choice_probs(self, available: Tensor | None = None) -> Tensor:
        """The probability of each class to be chosen first among those available: exp(s_i) / Σ_{j available} exp(s_j).

        Args:
            available: bool, (..., C), broadcast with the logits; None for all classes.

        Returns:
            (..., C), a row sums to 1; 0 where not available.

        Raises:
            ValueError: no bool tensor, or shapes that do not fit; validated, also a row without an available class,
                whose probabilities are NaN otherwise.
        """
        s = self.logits.to(computing_dtype(self.logits))
        if available is None:
            available = torch.ones(s.shape[-1:], dtype=torch.bool, device=s.device)
        else:
            self._check_available(available)
        worthless = ~(available & (s > -math.inf)).any(-1, keepdim=True)
        return s.masked_fill(worthless, 0).masked_fill(~available, -math.inf).softmax(-1)

    def log_prob(self, ranking: Tensor) -> Tensor:
        """log P(π | s) = Σ_k (s_{π_k} - log X_k), differentiable in the logits.

        Args:
            ranking: π, (..., C), integer: the class at each place, broadcast with the logits.

        Returns:
            (...), the broadcast batch shape; -inf for a ranking with a class of worth 0 before one of positive worth.

        Raises:
            ValueError: dtype or shape does not fit; validated, also a row that is no permutation.

        Source: Sec. 3.2; minus this is `plackett_luce` with all weights 1.
        """
        self._check_classes("ranking", ranking)
        if ranking.shape[-1] != self.event_shape[0]:
            raise ValueError(f"ranking must have shape (..., {self.event_shape[0]}), got {tuple(ranking.shape)}")
        return self._log_prob("ranking", ranking)

    def log_prob_top_k(self, first_k: Tensor) -> Tensor:
        """The log-probability that these k classes come first, in this order: the first k factors of P(π | s).

        Args:
            first_k: (..., k), integer, k <= C: distinct classes, broadcast with the logits.

        Returns:
            (...), the broadcast batch shape; 0 where k = 0.

        Raises:
            ValueError: dtype or shape does not fit; validated, also a row with a class twice or outside 0..C-1.

        Source: Sec. 3.2, the sum over all rankings that begin so.
        """
        self._check_classes("first_k", first_k)
        if first_k.shape[-1] > self.event_shape[0]:
            raise ValueError(
                f"first_k must have shape (..., k) with k <= C = {self.event_shape[0]}, got {tuple(first_k.shape)}"
            )
        return self._log_prob("first_k", first_k)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Rankings drawn from torch's global generator: the order of s_i + g_i, g_i standard Gumbel, largest first.

        Returns:
            int64, sample_shape + (..., C).

        Source: Yellott, "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment, and
        the double exponential distribution" (1977).
        """
        with torch.no_grad():
            s = self._below_top().expand(self._extended_shape(sample_shape))
            noise = -torch.empty_like(s).exponential_().log()
            # Where the noise is lost in the rounding of huge logits, and where worths are 0, it orders by itself.
            by_noise = noise.argsort(dim=-1, descending=True)
            keys = (s + noise).gather(-1, by_noise)
            return by_noise.gather(-1, keys.argsort(dim=-1, descending=True, stable=True))

    def _below_top(self) -> Tensor:
        """The logits in float64, less the largest of their row: a large number in common costs no digits."""
        s = self.logits.double()
        top = s.detach().amax(-1, keepdim=True)
        return s - top.masked_fill(top == -math.inf, 0)

    def _log_prob(self, name: str, first: Tensor) -> Tensor:
        """Σ_k log p_k of checked (..., k) places: from the last one up, on top of what is behind them."""
        if self._validate_args:
            self._check_distinct(name, first)
        batch = self._broadcast(name, first)
        first = first.long().expand(*batch, first.shape[-1])
        s = self._below_top().expand(*batch, *self.event_shape)
        worthless = s == -math.inf
        behind = torch.ones_like(s, dtype=torch.bool).scatter(-1, first, False)
        # A sum over nothing but -inf has no gradient: the lowest number stands for it, whose exp is 0 all the same.
        rest = s.masked_fill(~behind | worthless, torch.finfo(s.dtype).min).logsumexp(-1, keepdim=True)
        from_last = torch.cat([rest, s.gather(-1, first).flip(-1)], -1)
        log_left = from_last.logcumsumexp(-1)[..., 1:].flip(-1)
        some_behind = (behind & ~worthless).any(-1, keepdim=True)
        worthy = torch.cat([some_behind, ~worthless.gather(-1, first).flip(-1)], -1)
        nobody = worthy.cumsum(-1)[..., 1:].flip(-1) == 0  # all that are left have worth 0, and are alike
        left = self.event_shape[0] - torch.arange(first.shape[-1], device=s.device, dtype=s.dtype)
        log_prob = torch.where(nobody, -left.log(), s.gather(-1, first) - log_left).sum(-1)
        return log_prob.to(computing_dtype(self.logits))

    def _broadcast(self, name: str, tensor: Tensor) -> torch.Size:
        try:
            return torch.broadcast_shapes(tensor.shape[:-1], self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must broadcast with batch_shape {tuple(self.batch_shape)}, got {tuple(tensor.shape)}"
            ) from error

    def _check_device(self, name: str, tensor: Tensor) -> None:
        if tensor.device != self.logits.device:
            raise ValueError(f"{name} is on {tensor.device} but logits on {self.logits.device}")

    def _check_classes(self, name: str, classes: Tensor) -> None:
        check_tensor(name, classes)
        if classes.dtype == torch.bool or classes.is_floating_point() or classes.is_complex():
            raise ValueError(f"{name} must be class indices of an integer dtype, got {classes.dtype}")
        if classes.dim() < 1:
            raise ValueError(f"{name} must have at least one dimension, got shape ()")
        self._check_device(name, classes)

    def _check_distinct(self, name: str, classes: Tensor) -> None:
        last = self.event_shape[0] - 1
        ordered = classes.sort(-1).values
        wrong = ((classes < 0) | (classes > last)).any(-1) | (ordered[..., 1:] == ordered[..., :-1]).any(-1)
        if wrong.any():
            row = classes[wrong][0].tolist()
            raise ValueError(f"{name} must hold distinct classes 0..{last} in each row, got {row[:8]} (of {len(row)})")

    def _check_available(self, available: Tensor) -> None:
        check_tensor("available", available)
        if available.dtype != torch.bool:
            raise ValueError(f"available must be bool, got {available.dtype}")
        if available.shape[-1:] != self.event_shape:
            raise ValueError(f"available must have shape (..., {self.event_shape[0]}), got {tuple(available.shape)}")
        self._broadcast("available", available)
        self._check_device("available", available)
        if self._validate_args and not available.any(-1).all():
            raise ValueError("available must hold at least one class in each row, got a row without any")
