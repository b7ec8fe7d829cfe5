"""Table 12 of the PLD paper: how close the student's answers come to the teacher's, nine pairs.

Published: `results.yaml`, table12, KL(teacher || student) on the validation pictures at the end. Command: `pldistill
reproduce table12 --data imagenet:PATH`. Cost: 27 runs on eight A100s, most of them Table 2's and 3's. Measured besides:
how often the two nets agree, the overlap of their first five classes, Kendall's tau of their rankings; and all of it
after each epoch. The paper names no temperature: here 1.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Pairs
from pldistill.recipes import imagenet
from pldistill.recipes.published import published
from pldistill.study import Figures, Study

PAIRS = {
    name: (
        imagenet.TEACHERS[name.split(">")[0].removesuffix("_16")],
        imagenet.NETS[name.split(">")[1].removesuffix("_16")],
    )
    for name in published("table12")["rows"]
}


def figures(row: str, column: str) -> Figures:
    """The paper's KL in nats."""
    table = published("table12")
    return {"kl": (table["rows"][column][table["columns"].index(row)], None)}


STUDY = Study(
    name="table12",
    title="ImageNet-1K: KL(teacher || student) on the validation pictures (nats)",
    protocol=imagenet.PROTOCOL,
    source="PLD paper, Table 12: n = 1",
    published=figures,
    data="imagenet",
    pairs=PAIRS,
    rows=imagenet.BEST,
    setting=imagenet.SETTING,
    scales=imagenet.scales(PAIRS),
    home="imagenet",
    layout=Pairs(metrics=("kl", "agreement", "overlap5", "kendall"), through=("kl",)),
)
