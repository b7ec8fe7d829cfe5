"""The methods of language models: those of the logits, with the field's defaults for text. A row is a token.

The temperature is 1, and the divergences have no cross-entropy beside them, as in the public trainers of language
models (TRL's, DistiLLM's). Methods whose defaults are of 100 classes and nothing else, and those that compare all pairs
of classes, are not here.
"""

from __future__ import annotations

from dataclasses import replace

from pldistill.methods import METHODS
from pldistill.methods.spec import MethodSpec

DIVERGENCES = ("kd", "rkl", "js", "jsd", "skew_kl")
NAMES = ("ce", *DIVERGENCES, "dkd", "nkd", "dist", "pld", "decoupled_pld", "plkl", "listmle", "plistmle")


def _of(name: str) -> MethodSpec:
    spec = METHODS[name]
    options = {"temperature": 1.0} if "temperature" in spec.options else {}
    weights = {"task": 0.0, name: 1.0} if name in DIVERGENCES else spec.weights
    return replace(spec, options={**spec.options, **options}, weights=weights)


SPECS: dict[str, MethodSpec] = {name: _of(name) for name in NAMES}
