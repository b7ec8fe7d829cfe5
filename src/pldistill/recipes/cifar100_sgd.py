"""CIFAR-100 by the recipe that other papers use: Table 1's rows and pairs under SGD, 240 epochs with three steps.

Published with this recipe: other papers' tables. Beside the measured figures stand the PLD paper's, which are of its
own AdamW recipe, and the table says so. Command: `pldistill reproduce cifar100-sgd --data cifar100:PATH`.

The recipe is that of mdistiller and RepDistiller: SGD 0.05 (0.01 for MobileNetV2), momentum 0.9 without Nesterov,
weight decay 5e-4 on everything, batch 64, a tenth of the rate after epochs 150, 180 and 210, crop with 4 pixels of
zeros around, flip. What was chosen: the teachers are trained here, in the same way, rather than downloaded; PLD, which
no other paper has under this recipe, keeps the temperature 4 of the paper's CIFAR table and no task term.

Under SGD the scale of a loss acts like a learning rate, and the published weights of DIST and DKD carry a large one.
`--sweep-scale 1 2 4 8 --validation 5000` chooses a scale for every method on held-out pictures.
"""

from __future__ import annotations

from dataclasses import replace

from pldistill.recipes import table1
from pldistill.study import Fields, Study

SMALL_NETS_RATE = {"resnet50-mobilenetv2": 0.01}


def by_pair(row: str, pair: str, setting: Fields) -> Fields:
    """The rows of table 1, with the learning rate that small depthwise nets need."""
    own = table1.by_pair(row, pair, setting)
    return {**own, "lr": SMALL_NETS_RATE[pair]} if pair in SMALL_NETS_RATE else own


STUDY: Study = replace(
    table1.STUDY,
    name="cifar100-sgd",
    protocol="SGD 0.05 (MobileNetV2 0.01), momentum 0.9, weight decay 5e-4, x0.1 after 150, 180, 210; batch 64, "
    "240 epochs; crop, flip",
    source="PLD paper, Table 1: AdamW, 250 epochs, n = 3",
    by_pair=by_pair,
    setting={
        "epochs": 240,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step",
    },
)
