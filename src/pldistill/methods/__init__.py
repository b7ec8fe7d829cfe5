"""Every method by name. A new logit loss is one function in `losses` and one entry here; other methods are classes.

The registry is data: names, options and defaults are known without torch. A loss is imported when its method is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pldistill.methods.spec import (
    NAMED,
    MethodSpec,
    Option,
    Ramp,
    Taps,
    Weight,
    hint_stage,
    last_stage,
    later_stages,
    pooled,
    students_pooled,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pldistill.methods.base import Method
    from pldistill.types import Outputs


def _loss(name: str) -> Callable[..., Tensor]:
    return getattr(import_module("pldistill.losses"), name)


def _lazy(module: str, name: str) -> Callable[..., Method]:
    """What `pldistill.methods.MODULE.NAME` builds, imported when it is built."""

    def build(*outputs: Any, **options: Any) -> Method:
        return getattr(import_module(f"pldistill.methods.{module}"), name)(*outputs, **options)

    return build


def _relation(term: str, loss: str) -> Callable[..., Method]:
    def build(student: Outputs, teacher: Outputs, **options: Any) -> Method:
        from pldistill.methods.feature import RelationMethod

        return RelationMethod(term, _loss(loss), student, teacher, **options)

    return build


def _logit(
    term: str,
    loss: str,
    *,
    options: Mapping[str, Option],
    weights: Mapping[str, Weight],
    source: str,
    note: str = "",
    couples_batch: bool = False,
    needs_labels: bool = True,
    needs_all: bool = True,
    label_weight: Callable[[Tensor, Tensor, Mapping[str, Option]], Tensor] | None = None,
) -> MethodSpec:
    def build(standardize: str = "none", **given: Any) -> Method:
        from pldistill.methods.logit import LogitMethod

        if given.get("top_k") == 0:  # the option's word for all ranks
            del given["top_k"]
        return LogitMethod(term, _loss(loss), given, standardize)

    return MethodSpec(
        build,
        source,
        options,
        weights,
        note,
        couples_batch=couples_batch,
        needs_labels=needs_labels,
        tail_temperature=None if needs_all else _tempered,
        label_weight=label_weight,
        ramps=True,
        divides_by_deviation=_standardizes if loss not in ("dist", "cmkd") else _always,
    )


def _standardizes(options: Mapping[str, Option | Ramp]) -> bool:
    return options.get("standardize") == "both"


def _always(options: Mapping[str, Option | Ramp]) -> bool:
    """Pearson's correlations, of dist and cmkd, are covariances over deviations."""
    return True


def _tempered(options: Mapping[str, Option | Ramp]) -> float | None:
    """The temperature of a loss that weights each class by the teacher's softmax; z-scores are of all classes.

    None for a temperature that moves.
    """
    temperature = options["temperature"]
    return None if isinstance(temperature, Ramp) or options["standardize"] != "none" else float(temperature)


def _pld_label_weight(teacher_logits: Tensor, labels: Tensor, options: Mapping[str, Option]) -> Tensor:
    logits = teacher_logits if options["standardize"] == "none" else _loss("standardize")(teacher_logits)
    temperature, floor = float(options["temperature"]), float(options["label_weight"])
    return _loss("pld_weights")(logits, labels, temperature=temperature, label_weight=floor)[:, 0]


def _decoupled_label_weight(teacher_logits: Tensor, labels: Tensor, options: Mapping[str, Option]) -> Tensor:
    own, others = float(options["alpha"]), float(options["beta"])
    return teacher_logits.new_full(labels.shape, own / (own + others))


def _feature(
    taps: Taps,
    method: Callable[..., Method],
    *,
    options: Mapping[str, Option] | None = None,
    places: Mapping[str, Option] | None = None,
    weights: Mapping[str, Weight],
    source: str,
    note: str = "",
    couples_batch: bool = False,
) -> MethodSpec:
    """A method that compares activations: `places` are the options that say where, `options` those of the method."""
    own = options or {}

    def build(student: Outputs, teacher: Outputs, **given: Any) -> Method:
        return method(student, teacher, **{name: given[name] for name in own})

    return MethodSpec(
        build,
        source,
        {**own, **(places or {})},
        weights,
        note,
        couples_batch=couples_batch,
        needs_labels=False,
        taps=taps,
    )


# Published for both models with kd and dkd (Sun et al.) and with kd, dist and pld (PLD paper, App. F); for the teacher
# alone with pld (App. F). The other combinations are there because nothing forbids them.
_STANDARDIZE = {"standardize": "none"}
_KL = {"temperature": 4.0, "tau_squared": True, **_STANDARDIZE}

METHODS: dict[str, MethodSpec] = {
    "ce": MethodSpec(
        _lazy("logit", "TaskOnly"),
        source="cross-entropy on the labels (torch)",
        weights={"task": 1.0},
        note="trains a teacher or a baseline",
        needs_teacher=False,
    ),
    "ls": MethodSpec(
        _lazy("logit", "LabelSmoothing"),
        source="Szegedy et al. 2016 (torch)",
        options={"epsilon": 0.1},
        weights={"task": 0.0, "ls": 1.0},
        needs_teacher=False,
    ),
    "kd": _logit(
        "kd",
        "kd",
        needs_all=False,
        needs_labels=False,
        options=_KL,
        weights={"task": 0.1, "kd": 0.9},
        source="Hinton et al. 2015; weights of mdistiller and RepDistiller on CIFAR",
        note="standardize=both is Sun et al. 2024 (with temperature 2, weights 0.1 and 9) and the paper's Table 10",
    ),
    "rkl": _logit(
        "rkl",
        "reverse_kl",
        needs_labels=False,
        options=_KL,
        weights={"task": 0.1, "rkl": 0.9},
        source="PLD paper, App. G, with KD's CIFAR weights",
        note="the paper's Table 11 has temperature 2 and no tau^2",
    ),
    "js": _logit(
        "js",
        "jensen_shannon",
        needs_labels=False,
        options=_KL,
        weights={"task": 0.1, "js": 0.9},
        source="PLD paper, App. G, with KD's CIFAR weights",
        note="the paper's Table 11 has temperature 2 and no tau^2",
    ),
    "jsd": _logit(
        "jsd",
        "generalized_jsd",
        needs_labels=False,
        options={"beta": 0.5, "temperature": 1.0, "tau_squared": True, **_STANDARDIZE},
        weights={"task": 0.1, "jsd": 0.9},
        source="Agarwal et al. 2024, with KD's CIFAR weights",
        note="beta is the teacher's part of the mixture; 0 is kd's divergence, 1 rkl's, 0.5 js's",
    ),
    "skew_kl": _logit(
        "skew_kl",
        "skew_kl",
        needs_labels=False,
        options={
            "skew": 0.1,
            "direction": "forward",
            "entropy": True,
            "temperature": 1.0,
            "tau_squared": True,
            **_STANDARDIZE,
        },
        weights={"task": 0.1, "skew_kl": 0.9},
        source="Ko et al. 2024, with KD's CIFAR weights",
        note="direction=reverse mixes the teacher into the student; entropy=false leaves out the teacher's, a constant",
    ),
    "dist": _logit(
        "dist",
        "dist",
        needs_labels=False,
        options={"beta": 2.0, "gamma": 2.0, "temperature": 4.0, **_STANDARDIZE},
        weights={"task": 1.0, "dist": 1.0},
        source="Huang et al. 2022; PLD paper, Table 1",
        note="standardize=both is the paper's Table 10",
        couples_batch=True,
    ),
    "dkd": _logit(
        "dkd",
        "dkd",
        options={"alpha": 1.0, "beta": 8.0, "temperature": 4.0, **_STANDARDIZE},
        weights={"task": 1.0, "dkd": Ramp(1.0, 20 / 240)},
        source="Zhao et al. 2022; mdistiller on CIFAR",
        note="beta by pair there: 6 wrn_40_2-wrn_40_1, 2 resnet56-resnet20, 8 the others; "
        "standardize=both is Sun et al. 2024 (with temperature 2, alpha and beta times 9)",
    ),
    "nkd": _logit(
        "nkd",
        "nkd",
        options={"gamma": 1.5, "temperature": 1.0},
        weights={"task": 1.0, "nkd": 1.0},
        source="Yang et al. 2023; cls_KD on ImageNet",
        note="cls_KD's example on CIFAR-100 has gamma 3.5 and temperature 3; with two classes the gamma term is 0",
    ),
    "ttm": _logit(
        "ttm",
        "ttm",
        needs_labels=False,
        options={"temperature": 10.0},
        weights={"task": 1.0, "ttm": 45.0},
        source="Zheng & Yang 2024; the example of its public code, vgg13-vgg8 on CIFAR-100",
        note="the temperature, one over the paper's exponent, is the teacher's alone; no tau^2; temperature and weight "
        "are chosen by pair, and the code names those of the example alone",
    ),
    "wttm": _logit(
        "wttm",
        "wttm",
        needs_labels=False,
        options={"temperature": 5.0},
        weights={"task": 1.0, "wttm": 4.0},
        source="Zheng & Yang 2024; the example of its public code, on CIFAR-100 and beside CRD",
        note="rows weighted by how unsure the teacher is, 5 to 26 at 100 classes: ttm's weight is ten times too large",
    ),
    "rld": _logit(
        "rld",
        "rld",
        options={"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "target_temperature": 1.0, **_STANDARDIZE},
        weights={"task": 1.0, "rld": Ramp(1.0, 20 / 240)},
        source="Sun et al. 2024, refined logits; its public code on CIFAR",
        note="target_temperature=4 is the README's; with standardize=both the code has alpha 9, beta 72 and both "
        "temperatures 2; on ImageNet beta 0.5 or 2 and temperature 1",
    ),
    "kendall": _logit(
        "kendall",
        "kendall",
        needs_labels=False,
        options={"temperature": 1.0},
        weights={"task": 1.0, "kendall": 1.0},
        source="in the form of Guan et al. 2025, who add such a term to KD's; weights are pldistill's own",
        note="compares every pair of classes: C^2 numbers a row",
    ),
    "cmkd": _logit(
        "cmkd",
        "cmkd",
        needs_labels=False,
        options={"alpha": 1.0, "beta": 1.0, "temperature": 4.0, "rank_temperature": 1.0},
        weights={"task": 1.0, "cmkd": 1.0},
        source="in the form of Niu et al. 2024, with fixed weights, which are pldistill's own",
        note="Pearson's correlation of the softmaxes and Spearman's of the logits; C^2 numbers a row",
    ),
    "rankdistil": _logit(
        "rankdistil",
        "rankdistil",
        needs_labels=False,
        options={"top": 10},
        weights={"task": 1.0, "rankdistil": 1.0},
        source="in the form of Reddi et al. 2021, as pairs under the logistic loss; weights are pldistill's own",
        note="the teacher's first top classes, each before all that the teacher puts behind it",
    ),
    "skd": _logit(
        "skd",
        "skd",
        needs_labels=False,
        options={"ridge": 0.1},
        weights={"task": 0.1, "skd": 0.9},
        source="the correlation term of SKD's public code (CVPR 2026), with its weights before their masks",
        note="the code adds 0.9 KD of temperature 4, and scales both terms by masks of the batch; the loss is of raw "
        "logits, to which a constant added matters",
        couples_batch=True,
    ),
    "pld": _logit(
        "pld",
        "pld",
        needs_all=False,
        options={"temperature": 1.0, "label_weight": 0.0, "top_k": 0, **_STANDARDIZE},
        label_weight=_pld_label_weight,
        weights={"task": 0.0, "pld": 1.0},
        source="PLD paper, Sec. 4.2 and its listing",
        note="temperature 1 is the paper's on ImageNet; on CIFAR-100 (Table 1) it is 4; label_weight is a floor of the "
        "label's weight, pldistill's own; top_k=K compares the first K ranks alone, for large label sets, and 0 all of "
        "them; standardize=both and standardize=teacher are the paper's Table 10",
    ),
    "decoupled_pld": _logit(
        "decoupled_pld",
        "decoupled_pld",
        options={"temperature": 4.0, "alpha": 1.0, "beta": 3.0, **_STANDARDIZE},
        label_weight=_decoupled_label_weight,
        weights={"task": 0.0, "decoupled_pld": 1.0},
        source="pldistill's own, not from the paper",
        note="the label's choice and the ranks behind it weighted apart; to PLD what DKD is to KD",
    ),
    "plkl": MethodSpec(
        _lazy("logit", "stagewise"),
        source="pldistill's own, not from the paper",
        options={"temperature": 4.0, "stages": "2"},
        weights={"task": 1.0, "plkl": 3.0},
        note="stages=K compares the first K choices along the teacher's ranking, teacher all, weighted by its mass",
    ),
    "listmle": _logit(
        "listmle",
        "listmle",
        options={"weights": "uniform"},
        weights={"task": 0.0, "listmle": 1.0},
        source="Xia et al. 2008; PLD paper, Sec. 5.2.2",
        note="weights=sum is the original plain sum over ranks",
    ),
    "plistmle": _logit(
        "plistmle",
        "p_listmle",
        options={"normalize": True},
        weights={"task": 0.0, "plistmle": 1.0},
        source="Lan et al. 2014; PLD paper, Sec. 4.2",
        note="normalize=false is the published 2^(C-k)-1, which overflows float32 from 129 classes on",
    ),
    "at": _feature(
        later_stages,
        _lazy("feature", "AttentionTransfer"),
        options={"power": 2.0},
        places=NAMED,
        weights={"task": 1.0, "at": 1000.0},
        source="Zagoruyko & Komodakis 2017; mdistiller and RepDistiller on CIFAR",
        note="all stages but the stem; student_taps and teacher_taps name others, as `1,2,layer3.0`",
    ),
    "fitnet": _feature(
        hint_stage,
        _lazy("feature", "FitNet"),
        places={"layer": 2, **NAMED},
        weights={"task": 1.0, "fitnet": 100.0},
        source="Romero et al. 2015; mdistiller and RepDistiller on CIFAR, in one phase",
        note="layer counts the stages that the models share, 0 the stem; the regressor is trained with the student",
    ),
    "dhkd": _feature(
        students_pooled,
        _lazy("dual_head", "DualHead"),
        options={"temperature": 2.0, "head": "linear", "align": False},
        weights={"task": 1.0, "dhkd": 1.0},
        source="Yang et al. 2025; its public code on CIFAR-100",
        note="a second head learns from the teacher and is left out of the exported student; head=nonlinear and "
        "align=true, gradient alignment, are the code's example for resnet32x4-ShuffleNetV2; weight 0.1 on ImageNet; "
        "the logits themselves are matched",
    ),
    "cwd": _feature(
        last_stage,
        _lazy("feature", "ChannelWise"),
        options={"temperature": 4.0},
        places=NAMED,
        weights={"task": 1.0, "cwd": 3.0},
        source="Shu et al. 2021; its public code on maps of logits (segmentation)",
        note="of a classifier the last stage's map, which is our choice; the student's channels are brought to the "
        "teacher's by a 1x1 convolution, which is trained with it",
    ),
    "pkt": _feature(
        pooled,
        _relation("pkt", "pkt"),
        weights={"task": 1.0, "pkt": 30000.0},
        source="Passalis & Tefas 2018; mdistiller and RepDistiller on CIFAR",
        couples_batch=True,
    ),
    "rkd": _feature(
        pooled,
        _relation("rkd", "rkd"),
        options={"distance": 25.0, "angle": 50.0},
        weights={"task": 1.0, "rkd": 1.0},
        source="Park et al. 2019; mdistiller and RepDistiller on CIFAR",
        couples_batch=True,
    ),
    "sp": _feature(
        last_stage,
        _relation("sp", "sp"),
        places=NAMED,
        weights={"task": 1.0, "sp": 3000.0},
        source="Tung & Mori 2019; mdistiller and RepDistiller on CIFAR",
        couples_batch=True,
    ),
    "vid": _feature(
        later_stages,
        _lazy("feature", "VariationalInformation"),
        options={"variance": 5.0},
        places=NAMED,
        weights={"task": 1.0, "vid": 1.0},
        source="Ahn et al. 2019; RepDistiller on CIFAR, which trains the variance",
        note="all stages but the stem; variance is the one that training starts from",
    ),
}


def __getattr__(name: str) -> Any:
    if name == "Method":  # a torch module: it is imported when it is asked for
        from pldistill.methods.base import Method

        return Method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["METHODS", "Method", "MethodSpec", "Option", "Ramp", "Taps", "Weight"]
