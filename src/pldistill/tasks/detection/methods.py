"""The methods in detection: the same classes, with detection's own defaults. A row is an RoI, background or not.

The detector's own four losses are terms like any other, each with its weight; all of them stay beside every method, as
in the public code for DKD. Whether the classification loss does beside PLD, which contains it, the paper leaves open:
that is the weight of `loss_classifier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pldistill.methods.spec import MethodSpec, Weight

OWN: dict[str, Weight] = dict.fromkeys(("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"), 1.0)


def specs(known: Mapping[str, MethodSpec]) -> dict[str, MethodSpec]:
    """Give the methods of detection from those of classification, `known`."""

    def of(name: str, source: str, note: str = "", weight: float = 1.0, **options: float | str) -> MethodSpec:
        spec = known[name]
        weights = {**OWN, name: weight} if spec.needs_teacher else OWN
        return replace(spec, options={**spec.options, **options}, weights=weights, source=source, note=note)

    return {
        "ce": of("ce", "Ren et al. 2015 (torchvision)", "the undistilled detector"),
        "kd": of("kd", "Hinton et al. 2015, on RoIs; temperature of DKD's there", temperature=1.0),
        "dist": of(
            "dist",
            "Huang et al. 2022, on RoIs",
            "beta, gamma and temperature are our choice",
            beta=1.0,
            gamma=1.0,
            temperature=1.0,
        ),
        "dkd": of("dkd", "Zhao et al. 2022; mdistiller on COCO, no warm-up", alpha=1.0, beta=0.25, temperature=1.0),
        "pld": of(
            "pld",
            "PLD paper, Table 7",
            "temperature and weight are our choice, and that loss_classifier stays: the paper says none of them",
            temperature=1.0,
        ),
        "listmle": of("listmle", "Xia et al. 2008, on RoIs"),
        "fitnet": of(
            "fitnet",
            "Romero et al. 2015, on a level of the feature pyramid; layer and weight are our choice",
            "layer counts the levels fpn0 (stride 4) to fpn3 (stride 32); student_taps and teacher_taps name them",
        ),
    }
