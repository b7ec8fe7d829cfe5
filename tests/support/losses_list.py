"""Every loss of (student, teacher, labels), once, with its module: properties run over this list."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pldistill import losses


@dataclass(frozen=True)
class Loss:
    function: Callable[..., Tensor]
    module: Callable[..., nn.Module]
    options: dict[str, object]
    summed: bool = True  # a sum over samples, so that all three reductions exist
    needs_labels: bool = True
    blind: bool = True  # to a constant added to all logits of a row

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None, **more: object) -> Tensor:
        return self.function(student, teacher, labels, **{**self.options, **more})

    def __str__(self) -> str:
        return self.function.__name__ + "".join(f"-{value}" for value in self.options.values())


ALL_LOSSES = [
    Loss(losses.pld, losses.PLDLoss, {"temperature": 2.0}),
    Loss(losses.pld, losses.PLDLoss, {"temperature": 2.0, "label_weight": 0.3}),
    Loss(losses.pld, losses.PLDLoss, {"temperature": 2.0, "top_k": 3}),
    Loss(losses.decoupled_pld, losses.DecoupledPLDLoss, {"temperature": 2.0, "alpha": 1.5, "beta": 2.0}),
    Loss(losses.listmle, losses.ListMLELoss, {}),
    Loss(losses.listmle, losses.ListMLELoss, {"weights": "sum"}),
    Loss(losses.p_listmle, losses.PListMLELoss, {}),
    Loss(losses.p_listmle, losses.PListMLELoss, {"normalize": True}),
    Loss(losses.plackett_luce_kl, losses.PlackettLuceKLLoss, {"temperature": 2.0}),
    Loss(losses.plackett_luce_kl, losses.PlackettLuceKLLoss, {"temperature": 3.0, "stage_weights": 3}),
    Loss(losses.plackett_luce_kl, losses.PlackettLuceKLLoss, {"temperature": 0.5, "stage_weights": "teacher"}),
    Loss(losses.kd, losses.KDLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.kd, losses.KDLoss, {"temperature": 3.0, "tau_squared": False}, needs_labels=False),
    Loss(losses.reverse_kl, losses.ReverseKLLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.jensen_shannon, losses.JensenShannonLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.generalized_jsd, losses.GeneralizedJSDLoss, {"beta": 0.3, "temperature": 2.0}, needs_labels=False),
    Loss(losses.generalized_jsd, losses.GeneralizedJSDLoss, {"beta": 0.0}, needs_labels=False),
    Loss(losses.skew_kl, losses.SkewKLLoss, {"skew": 0.2, "temperature": 2.0}, needs_labels=False),
    Loss(losses.skew_kl, losses.SkewKLLoss, {"skew": 0.2, "direction": "reverse"}, needs_labels=False),
    Loss(losses.skew_kl, losses.SkewKLLoss, {"skew": 0.3, "entropy": False}, needs_labels=False),
    Loss(losses.dkd, losses.DKDLoss, {"alpha": 1.5, "beta": 3.0, "temperature": 2.0}),
    Loss(losses.nkd, losses.NKDLoss, {"gamma": 1.5, "temperature": 2.0}),
    Loss(losses.ttm, losses.TTMLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.wttm, losses.WTTMLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.rld, losses.RLDLoss, {"alpha": 1.5, "beta": 3.0, "temperature": 2.0, "target_temperature": 1.5}),
    Loss(losses.kendall, losses.KendallLoss, {"temperature": 2.0}, needs_labels=False),
    Loss(losses.cmkd, losses.CMKDLoss, {"beta": 3.0, "temperature": 2.0, "rank_temperature": 1.5}, needs_labels=False),
    Loss(losses.rankdistil, losses.RankDistilLoss, {"top": 2}, needs_labels=False),
    Loss(losses.dist, losses.DISTLoss, {"beta": 1.0, "gamma": 3.0, "temperature": 2.0}, False, False),
    Loss(losses.skd, losses.SKDLoss, {"ridge": 0.2}, False, False, blind=False),
    Loss(losses.dhkd, losses.DHKDLoss, {"temperature": 1.5}, needs_labels=False, blind=False),
]
