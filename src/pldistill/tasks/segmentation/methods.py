"""The methods of segmentation: the same classes, with the field's defaults for dense labels. A row is a pixel.

The cross-entropy at full size, the term "task", stays beside every method with weight 1: the rows of the others are at
the stride of the map of logits, where an edge is not seen. Temperatures are 1, but for channel-wise distillation, whose
softmax is over an image's pixels and not over classes: the last stage of these models is the map of logits.
"""

from __future__ import annotations

from dataclasses import replace

from pldistill.methods import METHODS
from pldistill.methods.spec import MethodSpec


def _of(name: str, source: str, note: str = "", weight: float = 1.0, **options: float) -> MethodSpec:
    spec = METHODS[name]
    weights = {"task": 1.0, **({name: weight} if spec.needs_teacher else {})}
    return replace(spec, options={**spec.options, **options}, weights=weights, source=source, note=note)


_CHOICE = "temperature and weight are our choice"

SPECS: dict[str, MethodSpec] = {
    "ce": _of("ce", "cross-entropy of every pixel at full size (torchvision's reference)"),
    "kd": _of("kd", "Hinton et al. 2015, on pixels", _CHOICE, temperature=1.0),
    "dist": _of(
        "dist",
        "Huang et al. 2022, on pixels; its public code for segmentation",
        "pixels of no class take no part here, and do there; no auxiliary heads",
        beta=1.0,
        gamma=1.0,
        temperature=1.0,
    ),
    "dkd": _of("dkd", "Zhao et al. 2022, on pixels", _CHOICE, alpha=1.0, beta=1.0, temperature=1.0),
    "pld": _of(
        "pld",
        "PLD paper, Sec. 5.3 and its listing, which flattens pixels to rows",
        "temperature and weight are our choice, and that the cross-entropy at full size stays beside it",
        temperature=1.0,
    ),
    "decoupled_pld": _of("decoupled_pld", "pldistill's own, on pixels", _CHOICE, temperature=1.0),
    "plkl": _of("plkl", "pldistill's own, on pixels", _CHOICE, temperature=1.0),
    "listmle": _of("listmle", "Xia et al. 2008, on pixels"),
    "cwd": _of(
        "cwd",
        "Shu et al. 2021; its public code on maps of logits",
        "on the map of logits, all its pixels, as published; student_taps and teacher_taps name other stages",
        weight=3.0,
    ),
}
