"""Table 2 of the PLD paper: ImageNet-1K, five students from teachers of their own family.

Published: `results.yaml`, table2. Command: `pldistill reproduce table2 --data imagenet:PATH`. Cost: fifteen runs of
about 6 hours (ViT: 8) on eight A100s each, by the paper; `--dry-run` says how many hours that is on your machine.
"""

from __future__ import annotations

from pldistill.recipes import imagenet
from pldistill.recipes.published import published
from pldistill.study import Study

PAIRS = {
    name: (imagenet.TEACHERS[name.split(" < ")[1]], imagenet.NETS[name.split(" < ")[0]])
    for name in published("table2")["rows"]
}

STUDY = Study(
    name="table2",
    title="ImageNet-1K, homogeneous pairs: Top-1 (%)",
    protocol=imagenet.PROTOCOL,
    source="PLD paper, Table 2: n = 1",
    published=imagenet.across("table2"),
    data="imagenet",
    pairs=PAIRS,
    rows=imagenet.BEST,
    setting=imagenet.SETTING,
    scales=imagenet.scales(PAIRS),
    home="imagenet",
    teacher_top1={name: line[0] for name, line in published("table2")["rows"].items()},
)
