"""Table 4 of the PLD paper: MobileNetV4 conv-medium from conv-large after 100 and 300 epochs.

Published: `results.yaml`, table4; Figure 1b is drawn from it. Command: `pldistill reproduce table4 --data
imagenet:PATH`. Cost: 24 and 72 hours on eight A100s, by the paper; the distilled rows of 100 epochs are Table 2's.
At scale short the columns are 6 and 18 epochs.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Pairs
from pldistill.recipes import imagenet
from pldistill.study import Fields

PAIR = (imagenet.TEACHERS["mobilenetv4_conv_large"], imagenet.NETS["mobilenetv4_conv_medium"])
PAIRS = {"100": PAIR, "300": PAIR}


def by_pair(row: str, column: str, setting: Fields) -> Fields:
    """The columns differ in how long they train; a shortened run keeps the ratio."""
    return {"epochs": setting["epochs"] * int(column) // 100}


STUDY = imagenet.study(
    "table4",
    "ImageNet-1K, MobileNetV4 medium from large, 100 and 300 epochs: Top-1 (%)",
    protocol=imagenet.PROTOCOL.replace("100 epochs", "100 or 300 epochs"),
    published=imagenet.across("table4"),
    pairs=PAIRS,
    rows={"ce": {"method": "ce"}, **imagenet.BEST},
    by_pair=by_pair,
    scales=imagenet.scales(PAIRS, short=True),
    layout=Pairs(line="epochs", differences=imagenet.DIFFERENCES, steps=(("300", "100"),)),
)
