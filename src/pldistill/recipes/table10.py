"""Table 10 of the PLD paper: logit standardization, MobileNetV4 conv-small from hybrid-large.

Published: `results.yaml`, table10, and PLD without it, which is Table 9's line of LAMB. Command: `pldistill reproduce
table10 --data imagenet:PATH`. Cost: four runs of about 6 hours on eight A100s, by the paper, and PLD's of Table 9. The
paper gives neither the temperature nor the small number in the denominator: here those of the method that standardizes
(1e-7) and of the rows without it.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Variants
from pldistill.recipes import imagenet

ROWS = {
    "pld": imagenet.pld(),
    "dist_std": imagenet.dist(0.1, 0.45, 0.45, standardize="both"),
    "kd_std": imagenet.kd(0.1, standardize="both"),
    "pld_std": imagenet.pld(standardize="both"),
    "pld_std_teacher_only": imagenet.pld(standardize="teacher"),
}


STUDY = imagenet.study(
    "table10",
    "ImageNet-1K, MobileNetV4 conv-small from hybrid-large, logit standardization: Top-1 (%)",
    published=imagenet.beside_pld("table10"),
    pairs=imagenet.MOBILENETS,
    rows=ROWS,
    scales=imagenet.scales(imagenet.MOBILENETS, short=True),
    layout=Variants(metrics=("top1",), reference="pld"),
)
