"""Table 9 of the PLD paper: four optimizers, MobileNetV4 conv-small from hybrid-large.

Published: `results.yaml`, table9. Command: `pldistill reproduce table9 --data imagenet:PATH`. Cost: twelve runs of
about 6 hours on eight A100s, by the paper. The teacher is another than Table 2's, so LAMB's line is not the one there.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Pairs
from pldistill.recipes import imagenet
from pldistill.recipes.published import published
from pldistill.study import Fields, Study

PAIRS = dict.fromkeys(published("table9")["rows"], imagenet.MOBILENETS["conv_small < hybrid_large"])


def by_pair(row: str, column: str, setting: Fields) -> Fields:
    """The columns differ in the optimizer alone."""
    return {"optimizer": column}


STUDY = Study(
    name="table9",
    title="ImageNet-1K, MobileNetV4 conv-small from hybrid-large, optimizers: Top-1 (%)",
    protocol=imagenet.PROTOCOL.replace("LAMB, ", "AdaBelief, AdamW, Adan or LAMB, "),
    source="PLD paper, Table 9: n = 1",
    published=imagenet.across("table9"),
    data="imagenet",
    pairs=PAIRS,
    rows=imagenet.BEST,
    by_pair=by_pair,
    setting=imagenet.SETTING,
    scales=imagenet.scales(PAIRS, short=True),
    home="imagenet",
    layout=Pairs(line="optimizer", differences=imagenet.DIFFERENCES, mean=True),
)
