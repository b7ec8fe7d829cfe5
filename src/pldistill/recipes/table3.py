"""Table 3 of the PLD paper: ImageNet-1K, ResNet-50 from five teachers.

Published: `results.yaml`, table3. Command: `pldistill reproduce table3 --data imagenet:PATH`. Cost: fifteen runs of
about 6 hours on eight A100s, by the paper; three of them are Table 2's and run once.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Facts, Pairs
from pldistill.recipes import imagenet
from pldistill.recipes.published import published

PAIRS = {
    name: (imagenet.TEACHERS[name.removesuffix("_16")], imagenet.NETS["resnet50"])
    for name in published("table3")["rows"]
}

STUDY = imagenet.study(
    "table3",
    "ImageNet-1K, ResNet-50 from diverse teachers: Top-1 (%)",
    published=imagenet.across("table3"),
    pairs=PAIRS,
    scales=imagenet.scales(PAIRS),
    layout=Pairs(
        line="teacher",
        facts=("teacher_parameters", "teacher_top1"),
        differences=imagenet.DIFFERENCES,
        mean=True,
        paper_means=imagenet.means("table3"),
    ),
    facts={
        name: Facts(paper_teacher_parameters=imagenet.count(line[0]), paper_teacher_top1=line[1])
        for name, line in published("table3")["rows"].items()
    },
)
