"""The losses as modules, by the conventions of `torch.nn`: options at construction, tensors in the call.

    criterion = PLDLoss(temperature=1.0)
    loss = criterion(student_logits, teacher_logits, labels)

Each is the function of its name in `ranking`, `stagewise`, `rank_agreement`, `logit`, `logit_relation` or `feature`,
which says what it computes. Options are plain attributes; bad ones are refused at construction. A tensor among them,
`class_weight` say, moves with the module between devices and stays out of its state dict. `sample_weight` is given with
the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from pldistill.losses import feature, logit, logit_relation, rank_agreement, ranking, stagewise, top_k
from pldistill.losses._inputs import (
    check_choice,
    check_class_dim,
    check_class_weight,
    check_count,
    check_factor,
    check_flag,
    check_fraction,
    check_ignore_index,
    check_reduction,
    check_stage_weights,
    check_temperature,
)

_CHECKS = {
    "temperature": check_temperature,
    "rank_temperature": partial(check_temperature, name="rank_temperature"),
    "ridge": logit_relation.check_ridge,
    "top": partial(check_count, "top"),
    "target_temperature": partial(check_temperature, name="target_temperature"),
    "reduction": check_reduction,
    "ignore_index": check_ignore_index,
    "class_dim": check_class_dim,
    "weights": partial(check_choice, "weights", known=ranking.LISTMLE_WEIGHTS),
    "top_k": top_k.check_top_k_option,
    "stage_weights": check_stage_weights,
    "normalize": partial(check_flag, "normalize"),
    "tau_squared": partial(check_flag, "tau_squared"),
    "alpha": partial(check_factor, "alpha"),
    "beta": partial(check_factor, "beta"),
    "gamma": partial(check_factor, "gamma"),
    "skew": partial(check_fraction, "skew"),
    "direction": partial(check_choice, "direction", known=logit.DIRECTIONS),
    "entropy": partial(check_flag, "entropy"),
    "label_weight": partial(check_fraction, "label_weight"),
    "class_weight": check_class_weight,
}


class _Loss(nn.Module):
    """Keeps the options of a loss function, as attributes."""

    def __init__(self, **options: object):
        super().__init__()
        for name, value in options.items():
            _CHECKS[name](value)
            if isinstance(value, Tensor):  # moves with the module between devices, and stays out of its state dict
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)
        self._names = tuple(options)

    def _options(self) -> dict:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items() if value is not None)


class PLDLoss(_Loss):
    """Plackett-Luce distillation, `ranking.pld`. The paper's temperature is 1 on ImageNet and 4 on CIFAR-100."""

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_weight: float = 0.0,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
        top_k: int | None = None,
    ):
        super().__init__(
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            label_weight=label_weight,
            top_k=top_k,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return ranking.pld(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class DecoupledPLDLoss(_Loss):
    """PLD with the label's choice and the ranks behind it weighted apart, `ranking.decoupled_pld`: pldistill's own."""

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 3.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return ranking.decoupled_pld(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class ListMLELoss(_Loss):
    """ListMLE on the teacher-optimal ranking, `ranking.listmle`; `weights` is "uniform" (1/C) or "sum" (1)."""

    def __init__(
        self,
        weights: str = "uniform",
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            weights=weights,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return ranking.listmle(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class PListMLELoss(_Loss):
    """Position-aware ListMLE, `ranking.p_listmle`; from C = 129 on, float32 needs `normalize=True`."""

    def __init__(
        self,
        normalize: bool = False,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            normalize=normalize,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return ranking.p_listmle(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class PlackettLuceKLLoss(_Loss):
    """KL along the teacher-optimal ranking, `stagewise.plackett_luce_kl`: pldistill's own, not from the paper."""

    def __init__(
        self,
        temperature: float = 4.0,
        stage_weights: str | int | Tensor = 2,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            stage_weights=stage_weights,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return stagewise.plackett_luce_kl(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class _DivergenceLoss(_Loss):
    """A divergence of the tempered softmaxes: what the modules of `logit.kd` and its kin share."""

    function: Callable[..., Tensor]

    def __init__(
        self,
        temperature: float = 4.0,
        tau_squared: bool = True,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            tau_squared=tau_squared,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return self.function(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class KDLoss(_DivergenceLoss):
    """Knowledge distillation by forward KL, `logit.kd`: the distillation term alone, without cross-entropy."""

    function = staticmethod(logit.kd)


class ReverseKLLoss(_DivergenceLoss):
    """Distillation by reverse KL, `logit.reverse_kl`."""

    function = staticmethod(logit.reverse_kl)


class JensenShannonLoss(_DivergenceLoss):
    """Distillation by the Jensen-Shannon divergence, `logit.jensen_shannon`."""

    function = staticmethod(logit.jensen_shannon)


class GeneralizedJSDLoss(_Loss):
    """Distillation by the generalized Jensen-Shannon divergence, `logit.generalized_jsd`."""

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 1.0,
        tau_squared: bool = True,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        logit.check_mixture(beta)
        super().__init__(
            beta=beta,
            temperature=temperature,
            tau_squared=tau_squared,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return logit.generalized_jsd(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class SkewKLLoss(_Loss):
    """Distillation by KL to a mixture of both models, `logit.skew_kl`; `direction` is "forward" or "reverse"."""

    def __init__(
        self,
        skew: float = 0.1,
        direction: str = "forward",
        entropy: bool = True,
        temperature: float = 1.0,
        tau_squared: bool = True,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        logit.check_skew(skew, direction, entropy)
        super().__init__(
            skew=skew,
            direction=direction,
            entropy=entropy,
            temperature=temperature,
            tau_squared=tau_squared,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return logit.skew_kl(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class DKDLoss(_Loss):
    """Decoupled knowledge distillation, `logit.dkd`. Its warm-up is a ramp of the loss's weight, outside."""

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return logit.dkd(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class NKDLoss(_Loss):
    """Normalized knowledge distillation, `logit.nkd`: both of its terms, without the labels' cross-entropy."""

    def __init__(
        self,
        gamma: float = 1.5,
        temperature: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            gamma=gamma,
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return logit.nkd(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class TTMLoss(_Loss):
    """Transformed teacher matching, `logit.ttm`."""

    def __init__(
        self,
        temperature: float = 10.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return logit.ttm(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class WTTMLoss(_Loss):
    """Weighted transformed teacher matching, `logit.wttm`."""

    def __init__(
        self,
        temperature: float = 5.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return logit.wttm(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class RLDLoss(_Loss):
    """Refined logit distillation, `logit.rld`. Its warm-up is a ramp of the loss's weight, outside."""

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        target_temperature: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            target_temperature=target_temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return logit.rld(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class KendallLoss(_Loss):
    """Kendall's tau as a smooth loss, `rank_agreement.kendall`."""

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return rank_agreement.kendall(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class CMKDLoss(_Loss):
    """Correlation matching by Pearson and Spearman, `rank_agreement.cmkd`."""

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 4.0,
        rank_temperature: float = 1.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            rank_temperature=rank_temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return rank_agreement.cmkd(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class RankDistilLoss(_Loss):
    """The teacher's first K classes before all behind, pair by pair, `rank_agreement.rankdistil`."""

    def __init__(
        self,
        top: int = 10,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            top=top,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return rank_agreement.rankdistil(
            student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options()
        )


class DHKDLoss(_Loss):
    """Dual-head KD's logit term, `logit.dhkd`: give it the logits of the second head."""

    def __init__(
        self,
        temperature: float = 2.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
        class_weight: Tensor | None = None,
    ):
        super().__init__(
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
            class_weight=class_weight,
        )

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return logit.dhkd(student_logits, teacher_logits, labels, sample_weight=sample_weight, **self._options())


class DISTLoss(_Loss):
    """DIST, `logit.dist`. It couples the samples of a batch: "mean" is the only reduction."""

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 4.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
    ):
        logit.check_mean_alone("dist", reduction)
        super().__init__(
            beta=beta,
            gamma=gamma,
            temperature=temperature,
            reduction=reduction,
            ignore_index=ignore_index,
            class_dim=class_dim,
        )

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return logit.dist(student_logits, teacher_logits, labels, **self._options())


class SKDLoss(_Loss):
    """SKD's term, `logit_relation.skd`. It couples the samples of a batch: "mean" is the only reduction."""

    def __init__(
        self,
        ridge: float = 0.1,
        reduction: str = "mean",
        ignore_index: int = -100,
        class_dim: int = 1,
    ):
        logit.check_mean_alone("skd", reduction)
        super().__init__(ridge=ridge, reduction=reduction, ignore_index=ignore_index, class_dim=class_dim)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
        return logit_relation.skd(student_logits, teacher_logits, labels, **self._options())


class CWDLoss(_Loss):
    """Channel-wise distillation of maps (N, C, H, W), `feature.cwd`. It is a mean: there is no other reduction."""

    def __init__(self, temperature: float = 4.0, ignore_index: int = -100):
        super().__init__(temperature=temperature, ignore_index=ignore_index)

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        return feature.cwd(student, teacher, labels, **self._options())
