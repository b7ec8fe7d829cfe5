"""Table 2 of the PLD paper: ImageNet-1K, five students from teachers of their own family.

Published: `results.yaml`, table2. Command: `pldistill reproduce table2 --data imagenet:PATH`. Cost: fifteen runs of
about 6 hours (ViT: 8) on eight A100s each, by the paper; `--dry-run` says how many hours that is on your machine.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Facts, Pairs
from pldistill.recipes import imagenet
from pldistill.recipes.published import published

PAIRS = {
    name: (imagenet.TEACHERS[name.split(" < ")[1]], imagenet.NETS[name.split(" < ")[0]])
    for name in published("table2")["rows"]
}


def facts(pair: str) -> Facts:
    """The paper's columns of one pair's nets."""
    table = published("table2")
    student, teacher = pair.split(" < ")
    return Facts(
        paper_student_parameters=imagenet.count(table["student_params_m"][student]),
        paper_teacher_parameters=imagenet.count(table["teacher_params_m"][teacher]),
        paper_teacher_top1=table["rows"][pair][0],
    )


STUDY = imagenet.study(
    "table2",
    "ImageNet-1K, homogeneous pairs: Top-1 (%)",
    published=imagenet.across("table2"),
    pairs=PAIRS,
    scales=imagenet.scales(PAIRS),
    layout=Pairs(
        facts=("student_parameters", "teacher_parameters", "teacher_top1"),
        differences=imagenet.DIFFERENCES,
        mean=True,
        paper_means=imagenet.means("table2"),
    ),
    facts={name: facts(name) for name in PAIRS},
)
