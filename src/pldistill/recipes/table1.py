"""Table 1 of the PLD paper: CIFAR-100, eleven methods, four pairs of nets, three runs a cell.

Published: `results.yaml`, table1. Command: `pldistill reproduce table1 --data cifar100:PATH`; `--dry-run` says how
many hours that is on your machine. `--scale short` is one pair on a part of the pictures, for two CPU cores and about
three hours.

What the paper leaves open, and what was chosen here:

- The teachers and how they were trained: the same setting as the students, seed 0, one teacher a pair, last epoch.
- KD's temperature and weights: 4, 0.1 and 0.9, as mdistiller and RepDistiller on CIFAR.
- DKD's weights: mdistiller's, its beta by pair (6, 2, 8, 8) and its warm-up as a fraction of the run.
- The feature methods' weights and layers: mdistiller's and RepDistiller's, which agree.
- The cosine: a value each step, down to 0, no warm-up. Weight decay: on every parameter, adapters too.
- "MobileNetV2" is the half-width net that CIFAR papers use (its published cross-entropy figure agrees); "ResNet50" is
  the CIFAR one of the same code.
- Crop: 4 pixels of zeros around, as the other recipe. Every batch counts, the last one too. No clipping, float32.
- Last or best epoch: both stand in the table.
"""

from __future__ import annotations

from pldistill.recipes.published import published
from pldistill.study import Fields, Figures, Scale, Study

PAIRS = {
    "wrn_40_2-wrn_40_1": ("wrn_40_2", "wrn_40_1"),
    "resnet56-resnet20": ("resnet56", "resnet20"),
    "resnet32x4-resnet8x4": ("resnet32x4", "resnet8x4"),
    "resnet50-mobilenetv2": ("cifar_resnet50", "cifar_mobilenetv2"),
}
DKD_BETA = {
    "wrn_40_2-wrn_40_1": 6.0,
    "resnet56-resnet20": 2.0,
    "resnet32x4-resnet8x4": 8.0,
    "resnet50-mobilenetv2": 8.0,
}
PUBLISHED = ("ce", "at", "fitnet", "pkt", "rkd", "sp", "vid", "kd", "dist", "dkd", "pld")
# Every method with its defaults, which are those of this table, but for PLD's temperature, which is the paper's 4 here;
# and one that the paper does not have.
ROWS: dict[str, Fields] = {
    **{method: {"method": method} for method in PUBLISHED},
    "pld": {"method": "pld", "options": {"temperature": 4.0}},
    "plkl-k2": {"method": "plkl", "options": {"stages": "2"}},
    "plkl-k10": {"method": "plkl", "options": {"stages": "10"}},
}
# One pair, a part of the pictures, few epochs: what two CPU cores do in about three hours.
SHORT = Scale(
    label="short: 10 epochs on 10,000 pictures, teacher 3 epochs on 50,000",
    setting={"epochs": 10},
    teacher={"epochs": 3},
    train=10_000,
    pairs=("resnet56-resnet20",),
    seeds=1,
)
SMOKE = Scale(
    label="smoke: 2 steps on drawn characters, which shows that every cell runs and nothing else",
    setting={"epochs": 1, "batch_size": 50, "trust_teacher": True},
    data="glyphs:train=100,val=100",
    seeds=1,
)


def by_pair(row: str, pair: str, setting: Fields) -> Fields:
    """What a row has of its own on one pair."""
    return {"options": {"beta": DKD_BETA[pair]}} if row == "dkd" else {}


def figures(row: str, pair: str) -> Figures:
    """The paper's Top-1 with its deviation; nothing for a row that it does not have."""
    table = published("table1")
    if row not in table["rows"]:
        return {}
    mean, deviation = table["rows"][row][table["columns"].index(pair)]
    return {"top1": (mean, deviation)}


STUDY = Study(
    name="table1",
    title="CIFAR-100: Top-1 (%)",
    protocol="AdamW, lr 1e-3 cosine, weight decay 0.5, batch 128, 250 epochs; crop, flip",
    source="PLD paper, Table 1: 250 epochs, n = 3",
    published=figures,
    data="cifar100",
    pairs=PAIRS,
    rows=ROWS,
    by_pair=by_pair,
    setting={
        "epochs": 250,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.5,
        "schedule": "cosine",
    },
    scales={"full": Scale(), "short": SHORT, "smoke": SMOKE},
)
