"""Two comparisons that a laptop finishes: every method at its best, paired over seeds, with intervals.

`cifar100-small`: real CIFAR-100, a ResNet-20 teacher that stops above 60 %, ResNet-8 students. Command:
`pldistill reproduce cifar100-small --data cifar100:PATH`. `teacher-quality`: the same question on drawn characters with
three teachers, a poor, a fair and a good one; it tests Section 6 of the PLD paper, which says that PLD stands and falls
with the teacher's ranking. Command: `pldistill reproduce teacher-quality`.

Neither is a table of the paper. The rows are its methods, PLD beside cross-entropy (`ce+pld`), and pldistill's own:
`plkl`, PLD with a floor for the label (`pld-floor`) and decoupled PLD (`decoupled-pld`).

SGD's step grows with the loss, so under it the scale of the whole loss is searched. AdamW's does not, so under it the
weight of the distillation term beside the task's is.
"""

from __future__ import annotations

from collections.abc import Mapping

from pldistill.studies.search import OWN_TERMS, WHOLE_LOSS, Axis, Row, Search, Size
from pldistill.studies.study import Fields

_TEMPERATURE = Axis("temperature", (1.0, 2.0, 4.0))
_FLOOR = Axis("label_weight", (0.1, 0.2, 0.4), grow=2.0, least=0.05, most=0.8)
_BETA = Axis("beta", (1.0, 3.0, 9.0), grow=3.0, least=0.3, most=81.0)


def _rows(mixed: Axis, alone: tuple[Axis, ...]) -> Mapping[str, Row]:
    """The methods. `mixed` is searched of losses that stand beside the task's, `alone` of those that replace it."""
    return {
        "kd": Row({"method": "kd"}, (mixed,)),
        "ce": Row({"method": "ce"}, alone),
        "pld": Row({"method": "pld"}, (_TEMPERATURE, *alone)),
        "dist": Row({"method": "dist"}, (mixed,)),
        "dkd": Row({"method": "dkd"}, (mixed,)),
        "ce+pld": Row(
            {"method": "pld", "options": {"temperature": 4.0}, "weights": {"task": 1.0, "pld": 1.0}},
            (mixed,),
        ),
        "plkl": Row({"method": "plkl"}, (mixed,)),
        "pld-floor": Row({"method": "pld", "options": {"temperature": 4.0}}, (_FLOOR, *alone)),
        "decoupled-pld": Row({"method": "decoupled_pld"}, (_BETA, *alone)),
    }


_CIFAR_TEACHER: Fields = {
    "student": "resnet20",
    "epochs": 40,
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "warmup_epochs": 1.0,
}
CIFAR100 = Search(
    name="cifar100-small",
    title="CIFAR-100, ResNet-8 from ResNet-20: Top-1 (%)",
    protocol="45,000 training images, 5,000 held out to choose on, 10,000 to score; 4 epochs of SGD 0.1, cosine, "
    "batch 128; crop, flip; the teacher 40 epochs of the same; its answers stored for 4 views of each image",
    data="cifar100",
    student="resnet8",
    rows=_rows(WHOLE_LOSS, (WHOLE_LOSS,)),
    setting={
        "epochs": 4,
        "batch_size": 128,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "warmup_epochs": 0.5,
        "amp": "off",  # it takes hours, and may be gone on with on a machine of another kind
    },
    sizes={
        "full": Size(data=None, teachers={"resnet20": _CIFAR_TEACHER}, views=4),
        "smoke": Size(
            label="smoke: a few steps on drawn characters, which shows that everything runs and nothing else",
            data="glyphs:train=300,val=100,validation=100",
            teachers={"resnet20": {**_CIFAR_TEACHER, "student": "resnet8", "epochs": 2}},
            setting={"epochs": 1, "warmup_epochs": 0.0, "trust_teacher": True},
            views=1,
            seeds=2,
            first=True,
        ),
    },
    validation=5000,
)


_GLYPHS: Fields = {"image_size": 16, "optimizer": "adamw", "batch_size": 64, "weight_decay": 0.05, "warmup_epochs": 0.5}


def _glyph_teacher(epochs: int, **fields: object) -> Fields:
    data = "glyphs:train=12000,val=2000"
    return {**_GLYPHS, "data": data, "student": "resnet20", "lr": 0.004, "epochs": epochs, **fields}


TEACHER_QUALITY = Search(
    name="teacher-quality",
    title="Drawn characters, ResNet-8 from ResNet-20s of three qualities: Top-1 (%)",
    protocol="16 x 16 pixels, 100 classes; 4,000 training images, 1,000 held out to choose on, 2,000 to score; 12 "
    "epochs of AdamW 0.01, cosine, batch 64; the teachers 3, 5 and 20 epochs on 12,000 images; their answers "
    "stored for 12 views of each image",
    data="glyphs",
    student="resnet8",
    rows=_rows(OWN_TERMS, ()),
    setting={**_GLYPHS, "lr": 0.01, "epochs": 12},
    sizes={
        "full": Size(
            data="glyphs:train=5000,val=2000,validation=1000",
            teachers={f"{epochs}-epochs": _glyph_teacher(epochs) for epochs in (3, 5, 20)},
            views=12,
        ),
        "smoke": Size(
            label="smoke: a few steps, which shows that everything runs and nothing else",
            data="glyphs:train=300,val=100,validation=100",
            teachers={"1-epoch": _glyph_teacher(1, data="glyphs:train=100,val=100", student="resnet8")},
            setting={"epochs": 1, "warmup_epochs": 0.0, "trust_teacher": True},
            views=1,
            seeds=2,
            first=True,
        ),
    },
)
