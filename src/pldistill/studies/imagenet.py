"""What the paper's ImageNet-1K tables share: the recipe (Section 5.2), the models, the rows' weights, the scales.

LAMB, 5e-3 on a cosine after 5 epochs of linear warm-up, weight decay 0.02, 100 epochs, effective batch 2048 (256 on
each of eight GPUs), random resized crop and flip; evaluation at 224 after resizing to 236. One process makes the batch
of 2048 from eight of 256, one after the other; with `--processes 8` the printed commands spread them over eight.

What the paper leaves open, and what was chosen here:

- The teachers' weights. It gives an accuracy, no source; here timm's weights trained or tuned on ImageNet-1K, named
  by their tag. Their own accuracy at 224 stands in the table beside the paper's.
- The warm-up starts at 0, the cosine ends at 0, both a value each step. Biases and norms are spared from weight decay,
  as timm's recipes do. LAMB is timm's, which clips the global gradient norm to 1. bfloat16; no average of the weights.
- The crop covers 8 to 100 % of the image and is resized bicubically.
- KD's temperature squared: there, as in Section 3.1; App. G leaves it out, so Table 11 has both.
- DIST correlates the images of a device's own 256.
- The optimizers of Table 9 keep the rate and the weight decay of LAMB: App. E says that nothing else changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pldistill.studies.paper import published
from pldistill.studies.study import Fields, Figures, Scale, Study

PROTOCOL = (
    "LAMB, lr 5e-3 cosine after 5 epochs of warm-up, weight decay 0.02, batch 2048, 100 epochs; random resized crop, "
    "flip; scored at 224, crop ratio 0.95"
)
SETTING: Fields = {
    "epochs": 100,
    "batch_size": 256,
    "accumulate": 8,
    "optimizer": "lamb",
    "lr": 5e-3,
    "weight_decay": 0.02,
    "decay_all": False,
    "schedule": "cosine",
    "warmup_epochs": 5.0,
}
# The paper's names, as in `results.yaml`, to timm's; the tag names the weights of a teacher.
MODELS = {
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "resnet50": "resnet50",
    "mobilenetv4_hybrid_medium": "mobilenetv4_hybrid_medium",
    "mobilenetv4_conv_medium": "mobilenetv4_conv_medium",
    "mobilenetv4_conv_small": "mobilenetv4_conv_small",
}
TEACHERS = {
    "vit_large": "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit_base": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "resnet152": "resnet152.a1_in1k",
    "mobilenetv4_hybrid_medium": "mobilenetv4_hybrid_medium.e500_r224_in1k",
    "mobilenetv4_conv_large": "mobilenetv4_conv_large.e500_r256_in1k",
    "mobilenetv4_hybrid_large": "mobilenetv4_hybrid_large.e600_r384_in1k",
}

# What timm measured of these weights at 224 (its table of results) and what the paper says of its teacher: the paper
# names no weights, and these are better than its. Where timm has others of the same model that come nearer, `nearest`
# trains from those: (tag, its top-1).
TOP1: Mapping[str, tuple[float, float]] = {
    TEACHERS["resnet152"]: (82.00, 79.61),
    TEACHERS["vit_base"]: (84.53, 82.07),
    TEACHERS["mobilenetv4_hybrid_medium"]: (80.43, 78.66),
    TEACHERS["vit_large"]: (85.86, 84.80),
}
NEAREST: Mapping[str, tuple[str, float]] = {TEACHERS["resnet152"]: ("resnet152.gluon_in1k", 79.69)}
_FLAT = (
    "a1_in1k weights were trained with binary cross-entropy and mixed images: their softmax is flat, and PLD reads "
    "its weights from that."
)

# The pairs of the ablations.
RESNETS = {"resnet50 < resnet152": (TEACHERS["resnet152"], MODELS["resnet50"])}
MOBILENETS = {"conv_small < hybrid_large": (TEACHERS["mobilenetv4_hybrid_large"], MODELS["mobilenetv4_conv_small"])}


def kd(alpha: float, method: str = "kd", *, tau_squared: bool = True, **options: str) -> Fields:
    """`alpha CE + (1 - alpha) KD` at temperature 2."""
    return {
        "method": method,
        "options": {"temperature": 2.0, "tau_squared": tau_squared, **options},
        "weights": {"task": alpha, method: round(1 - alpha, 10)},  # 1 - 0.7 is 0.30000000000000004
    }


def dist(alpha: float, beta: float, gamma: float, **options: str) -> Fields:
    """`alpha CE + DIST` at temperature 1, beta on the classes of an image and gamma on the images of a class."""
    return {
        "method": "dist",
        "options": {"beta": beta, "gamma": gamma, "temperature": 1.0, **options},
        "weights": {"task": alpha},
        "relation": "local",
    }


def pld(temperature: float = 1.0, **options: str) -> Fields:
    """PLD, which needs no weight."""
    return {"method": "pld", "options": {"temperature": temperature, **options}}


# The settings that the paper found best and uses in its other tables.
BEST: Mapping[str, Fields] = {"kd": kd(0.1), "dist": dist(0.1, 0.45, 0.45), "pld": pld()}

# What the paper's tables show of PLD: how far it is ahead of the two others.
DIFFERENCES = (("pld", "dist"), ("pld", "kd"))

# Models for what is shown of an ablation on CIFAR-100: a small pair, trained here in minutes.
SMALL_PAIR = ("resnet20", "resnet8")


def small_pair(row: str, column: str) -> tuple[str, str]:
    """The same small models in every cell."""
    return SMALL_PAIR


def real_in(shown: str, pairs: Mapping[str, tuple[str, str]], row: str, column: str) -> tuple[str, str]:
    """The column's own models in one row, the small ones in the others."""
    return pairs[column] if row == shown else SMALL_PAIR


def nearest_in(pairs: Mapping[str, tuple[str, str]], row: str, column: str) -> tuple[str, str]:
    """The column's models, the teacher with the weights that come nearest to the paper's accuracy."""
    teacher, student = pairs[column]
    return NEAREST.get(teacher, (teacher, 0.0))[0], student


def about_teachers(pairs: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """How the teachers of a table differ from the paper's, as notes below it."""
    teachers = [teacher for teacher in dict.fromkeys(teacher for teacher, _ in pairs.values()) if teacher in TOP1]
    if not teachers:
        return ()
    figures = [f"{teacher} {TOP1[teacher][0]:.2f} (the paper's {TOP1[teacher][1]:.2f})" for teacher in teachers]
    notes = [f"teachers, top-1 in percent by timm's own table: {', '.join(figures)}."]
    near = [f"{NEAREST[teacher][0]} ({NEAREST[teacher][1]:.2f})" for teacher in teachers if teacher in NEAREST]
    notes += [f"--scale nearest has the weights that come nearest to the paper's: {', '.join(near)}."] if near else []
    return (*notes, *([_FLAT] if any(teacher.endswith(".a1_in1k") for teacher in teachers) else []))


def scales(pairs: Mapping[str, tuple[str, str]], *, short: bool = False, shown: str = "pld") -> dict[str, Scale]:
    """`full`, `smoke`, and others where a table has them.

    `nearest` where timm has weights nearer to the paper's teacher; `short` for a table whose axis a small pair can
    show. `smoke` has the real models in the row `shown`.
    """
    found = {"full": Scale(seeds=1, teachers="pretrained")}
    if any(teacher in NEAREST for teacher, _ in pairs.values()):
        label = "nearest: the teacher's weights are those of timm whose accuracy is nearest to the paper's"
        found["nearest"] = Scale(label, seeds=1, teachers="pretrained", models=partial(nearest_in, pairs))
    if short:
        found["short"] = Scale(
            label="short: resnet8 from resnet20, 6 epochs on 10,000 images of CIFAR-100, teacher 6 epochs on 50,000",
            setting={"epochs": 6, "batch_size": 128, "accumulate": 1, "warmup_epochs": 0.5},
            train=10_000,
            seeds=1,
            models=small_pair,
        )
    found["smoke"] = Scale(
        label="smoke: 2 steps on drawn characters, random teachers, tiny models but for one row of each pair; "
        "it shows that every cell runs and nothing else",
        setting={
            "epochs": 1,
            "batch_size": 50,
            "accumulate": 1,
            "warmup_epochs": 0.0,
            "image_size": 32,
            "trust_teacher": True,
        },
        data="glyphs:train=100,val=100",
        seeds=1,
        teachers="random",
        models=partial(real_in, shown, pairs),
    )
    return found


def means(table: str) -> dict[tuple[str, str], float]:
    """The mean differences that the paper states."""
    gain = published(table)["mean_gain"]
    return {("pld", "dist"): gain["over_dist"], ("pld", "kd"): gain["over_kd"]}


def count(millions: float) -> int:
    """Parameters, of what the paper prints in millions."""
    return round(millions * 1e6)


def study(table: str, title: str, **own: Any) -> Study:
    """A table with what all of them share; `own` are its further fields, which go before those."""
    shared = {
        "name": table,
        "title": title,
        "protocol": PROTOCOL,
        "source": f"PLD paper, Table {table.removeprefix('table')}: n = 1",
        "data": "imagenet",
        "rows": BEST,
        "setting": SETTING,
        "home": "imagenet",
    }
    notes = (*own.pop("notes", ()), *about_teachers(own["pairs"]))
    return Study(**{**shared, **own, "notes": notes})


def across(table: str, metric: str = "top1") -> Callable[[str, str], Figures]:
    """Published figures of a table whose lines are a study's columns, and whose columns its rows."""

    def figures(row: str, column: str) -> Figures:
        known = published(table)
        line = known["rows"][int(column) if column.isdecimal() else column]
        return {metric: (line[known["columns"].index(row)], None)}

    return figures


def down(table: str) -> Callable[[str, str], Figures]:
    """Published Top-1 and Top-5 of a table whose lines are a study's rows."""

    def figures(row: str, column: str) -> Figures:
        top1, top5 = published(table)["rows"][row]
        return {name: (value, None) for name, value in (("top1", top1), ("top5", top5)) if value is not None}

    return figures


def beside_pld(table: str, reading: str = "") -> Callable[[str, str], Figures]:
    """Published Top-1 of other methods' variants; PLD's own stands in Table 9.

    A row that ends in `reading` is another reading of the row without it, and has its figure.
    """

    def figures(row: str, column: str) -> Figures:
        if row == "pld":
            return across("table9")(row, "lamb")
        return {"top1": (published(table)["rows"][row.removesuffix(reading)], None)}

    return figures
