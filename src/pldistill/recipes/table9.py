"""Table 9 of the PLD paper: four optimizers, MobileNetV4 conv-small from hybrid-large.

Published: `results.yaml`, table9. Command: `pldistill reproduce table9 --data imagenet:PATH`. Cost: twelve runs of
about 6 hours on eight A100s, by the paper. The teacher is another than Table 2's, so LAMB's line is not the one there.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Pairs
from pldistill.recipes import imagenet
from pldistill.recipes.published import published
from pldistill.study import Fields

PAIRS = dict.fromkeys(published("table9")["rows"], imagenet.MOBILENETS["conv_small < hybrid_large"])


def by_pair(row: str, column: str, setting: Fields) -> Fields:
    """The columns differ in the optimizer alone."""
    return {"optimizer": column}


STUDY = imagenet.study(
    "table9",
    "ImageNet-1K, MobileNetV4 conv-small from hybrid-large, optimizers: Top-1 (%)",
    protocol=imagenet.PROTOCOL.replace("LAMB, ", "AdaBelief, AdamW, Adan or LAMB, "),
    published=imagenet.across("table9"),
    pairs=PAIRS,
    by_pair=by_pair,
    scales=imagenet.scales(PAIRS, short=True),
    layout=Pairs(line="optimizer", differences=imagenet.DIFFERENCES, mean=True),
)
