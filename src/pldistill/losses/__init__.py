"""Distillation losses as pure functions, and as modules: (student, teacher, labels) in, a loss out."""

from pldistill.losses.feature import attention_transfer, hint, pkt, rkd, sp, vid
from pldistill.losses.logit import dist, dkd, generalized_jsd, jensen_shannon, kd, reverse_kl, skew_kl, standardize
from pldistill.losses.model import PlackettLuce
from pldistill.losses.modules import (
    DecoupledPLDLoss,
    DISTLoss,
    DKDLoss,
    GeneralizedJSDLoss,
    JensenShannonLoss,
    KDLoss,
    ListMLELoss,
    PlackettLuceKLLoss,
    PLDLoss,
    PListMLELoss,
    ReverseKLLoss,
    SkewKLLoss,
)
from pldistill.losses.ranking import (
    decoupled_pld,
    listmle,
    p_listmle,
    plackett_luce,
    pld,
    pld_weights,
    teacher_optimal_ranking,
)
from pldistill.losses.sequence import tokens
from pldistill.losses.stagewise import plackett_luce_kl
from pldistill.losses.top_k import TeacherTopK, TopKBound, pld_from_top_k, pld_top_k_bound, teacher_top_k

__all__ = [
    "DISTLoss",
    "DKDLoss",
    "DecoupledPLDLoss",
    "GeneralizedJSDLoss",
    "JensenShannonLoss",
    "KDLoss",
    "ListMLELoss",
    "PLDLoss",
    "PListMLELoss",
    "PlackettLuce",
    "PlackettLuceKLLoss",
    "ReverseKLLoss",
    "SkewKLLoss",
    "TeacherTopK",
    "TopKBound",
    "attention_transfer",
    "decoupled_pld",
    "dist",
    "dkd",
    "generalized_jsd",
    "hint",
    "jensen_shannon",
    "kd",
    "listmle",
    "p_listmle",
    "pkt",
    "plackett_luce",
    "plackett_luce_kl",
    "pld",
    "pld_from_top_k",
    "pld_top_k_bound",
    "pld_weights",
    "reverse_kl",
    "rkd",
    "skew_kl",
    "sp",
    "standardize",
    "teacher_optimal_ranking",
    "teacher_top_k",
    "tokens",
    "vid",
]
