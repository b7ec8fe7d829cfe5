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

PAIRS = {
    name: (
        imagenet.TEACHERS[name.split(">")[0].removesuffix("_16")],
        imagenet.NETS[name.split(">")[1].removesuffix("_16")],
    )
    for name in published("table12")["rows"]
}


STUDY = imagenet.study(
    "table12",
    "ImageNet-1K: KL(teacher || student) on the validation pictures (nats)",
    published=imagenet.across("table12", "kl"),
    pairs=PAIRS,
    scales=imagenet.scales(PAIRS),
    layout=Pairs(metrics=("kl", "agreement", "overlap5", "kendall"), through=("kl",)),
)
