"""Table 7 of the PLD paper: MS-COCO, Faster R-CNN with FPN, DKD and PLD on three pairs of backbones.

Published: `results.yaml`, table7. Command: `pldistill reproduce table7 --data coco:PATH`, where PATH is a folder `coco`
or `coco2017` that holds COCO 2017; other images are named in the table. Cost: a run sees 1.4 million images, each
of the two teachers 4.3 million; `--dry-run` says how many hours that is on your machine. `--scale short` is small
models on drawn scenes, minutes on two CPU cores.

The paper names the pairs, DKD's code (mdistiller on detectron2) and nothing else of the protocol, so the rest is that
code's: SGD, momentum 0.9, weight decay 1e-4, batch 8, learning rate 0.01 with a short linear warm-up, a tenth of it
after 2/3 and again after 8/9 of 180,000 steps, short side 640 to 800 (at most 1333), mirrored; students start from
ImageNet's weights with BatchNorm frozen, the stem and the first stage of the ResNets too; 512 RoIs an image, a
quarter of them objects, up to 1000 proposals. DKD: alpha 1, beta 0.25, temperature 1, over all rows, background too.

What the paper leaves open, or is otherwise here, and what was chosen:

- Whether the classification loss stays beside PLD: in `pld` it does, as beside DKD; `pld_no_ce` is the other reading,
  for PLD contains a cross-entropy. The published figure stands beside both.
- PLD's temperature and weight: 1 and 1. Background rows count. Logits are of the data's own 80 classes and the
  background, without the 11 numbers that COCO never uses.
- The teachers: trained here in the same setting three times as long, as detectron2's were; theirs had batch 16.
- Steps are counted in epochs: 12 of 118,287 images at batch 8 are 177,431. Images without a box are shown too.
- A short side is any whole number from 640 to 800, not one of six. The batch of 8 is made from four of 2.
- The detector is torchvision's: box regression by smooth L1 with beta 1/9 where detectron2's is L1.
- `ce`, the undistilled student, stands in the table for comparison; the paper does not print it.
"""

from __future__ import annotations

from functools import partial

from pldistill.reports.comparison import Variants
from pldistill.studies.paper import published
from pldistill.studies.study import Fields, Figures, Scale, Study
from pldistill.tasks.detection import SPEC

METRICS = tuple(SPEC.metrics)

PAIRS = {
    "resnet50>mobilenetv2_fpn": ("fasterrcnn:resnet50", "fasterrcnn:mobilenet_v2"),
    "resnet101>resnet18_fpn": ("fasterrcnn:resnet101", "fasterrcnn:resnet18"),
    "resnet101>resnet50_fpn": ("fasterrcnn:resnet101", "fasterrcnn:resnet50"),
}
ROWS: dict[str, Fields] = {
    "ce": {"method": "ce"},
    "dkd": {"method": "dkd"},
    "pld": {"method": "pld"},
    "pld_no_ce": {"method": "pld", "weights": {"loss_classifier": 0.0}},
}
WARMUP_STEPS, STEPS, EPOCHS = 1000, 180_000, 12


def figures(row: str, pair: str) -> Figures:
    """The paper's six columns; of PLD beside both of its readings, nothing for the undistilled student."""
    known = published("table7")["rows"][pair]
    name = row.removesuffix("_no_ce")
    return {metric: (value, None) for metric, value in zip(METRICS, known[name], strict=True)} if name in known else {}


def by_pair(row: str, pair: str, setting: Fields) -> Fields:
    """MobileNetV2 learns in all of its layers, as in mdistiller's configuration."""
    if pair == "resnet50>mobilenetv2_fpn" and setting["task_options"].get("norm") == "frozen":
        return {"task_options": {"trainable_layers": 5}}
    return {}


# Models that learn from drawn scenes in minutes, shown where a pair itself would take days; and models that take no
# time.
SMALL_PAIR = ("fasterrcnn:resnet18", "fasterrcnn:test_resnet")
TINY_PAIR = ("fasterrcnn:test_resnet", "fasterrcnn:test_resnet")
SMALL: Fields = {
    "fpn_channels": 64,
    "head_width": 256,
    "anchor": 12,
    "rois_per_image": 32,
    "rpn_per_image": 64,
    "pre_nms": 200,
    "post_nms": 100,
    "pre_nms_eval": 200,
    "post_nms_eval": 100,
}


def small_pair(row: str, column: str) -> tuple[str, str]:
    """The same small models in every cell."""
    return SMALL_PAIR


def real_in(shown: str, row: str, column: str) -> tuple[str, str]:
    """The column's own models in one row, the tiny ones in the others."""
    return PAIRS[column] if row == shown else TINY_PAIR


SHORT = Scale(
    label="short: small models on drawn scenes, 3 epochs of 2,000 images, teacher 4",
    setting={
        "epochs": 3,
        "batch_size": 8,
        "accumulate": 1,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_epochs": 0.2,
        "pretrained": False,
        "image_size": None,
        "task_options": SMALL,
    },
    teacher={"epochs": 4},
    data="scenes:train=2000,val=300",
    pairs=("resnet101>resnet18_fpn",),
    seeds=3,
    models=small_pair,
)
SMOKE = Scale(
    label="smoke: 2 steps on drawn scenes, random teachers, tiny models but for one row of each pair; "
    "it shows that every cell runs and nothing else",
    setting={
        "epochs": 1,
        "batch_size": 2,
        "accumulate": 1,
        "warmup_epochs": 0.0,
        "pretrained": False,
        "image_size": 64,
        "trust_teacher": True,
        "task_options": SMALL,
    },
    data="scenes:train=4,val=2",
    seeds=1,
    teachers="random",
    models=partial(real_in, "pld"),
)

TABLE7 = Study(
    name="table7",
    title="MS-COCO, Faster R-CNN with FPN: AP (%)",
    protocol="SGD, lr 0.01, a tenth after 2/3 and 8/9 of 12 epochs, batch 8, weight decay 1e-4; short side 640 to 800, "
    "flip; BatchNorm frozen; scored at 800 on val2017",
    source="PLD paper, Table 7: n = 1",
    published=figures,
    data="coco:coco",
    also=("coco:coco2017",),
    pairs=PAIRS,
    rows=ROWS,
    by_pair=by_pair,
    setting={
        "task": "detection",
        "epochs": EPOCHS,
        "batch_size": 2,
        "accumulate": 4,
        "optimizer": "sgd",
        "lr": 0.01,
        "weight_decay": 1e-4,
        "schedule": "two-step",
        "warmup_epochs": WARMUP_STEPS / STEPS * EPOCHS,
        "pretrained": True,
        "image_size": 800,
        "task_options": {"norm": "frozen", "trainable_layers": 3, "short_sides": "640-800", "post_nms": 1000},
    },
    scales={"full": Scale(teacher={"epochs": 3 * EPOCHS}, seeds=1), "short": SHORT, "smoke": SMOKE},
    layout=Variants(
        metrics=METRICS,
        differences=(("pld", "dkd"), ("pld_no_ce", "dkd"), ("pld", "ce"), ("dkd", "ce")),
        through=("AP", "AP50"),
    ),
    notes=("pld_no_ce: PLD without the classification loss beside it; the paper does not say which of the two it is.",),
)
