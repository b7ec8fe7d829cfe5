"""Table 5 of the PLD paper: the baselines with and without cross-entropy, ResNet-50 from ResNet-152.

Published: `results.yaml`, table5. Command: `pldistill reproduce table5 --data imagenet:PATH`. Cost: six runs of about
6 hours on eight A100s, by the paper; four of them are Table 8's and one Table 2's.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Variants
from pldistill.recipes import imagenet

ROWS = {
    "ce": {"method": "ce"},
    "label_smoothing_0.1": {"method": "ls", "options": {"epsilon": 0.1}},
    "kd_alpha0.0_tau2": imagenet.kd(0.0),
    "kd_alpha0.1_tau2": imagenet.kd(0.1),
    "dist_a0.0_b0.5_g0.5": imagenet.dist(0.0, 0.5, 0.5),
    "dist_a0.1_b0.45_g0.45": imagenet.dist(0.1, 0.45, 0.45),
}

STUDY = imagenet.study(
    "table5",
    "ImageNet-1K, ResNet-50 from ResNet-152, baselines: Top-1 and Top-5 (%)",
    published=imagenet.down("table5"),
    pairs=imagenet.RESNETS,
    rows=ROWS,
    scales=imagenet.scales(imagenet.RESNETS, short=True, shown="kd_alpha0.1_tau2"),
    layout=Variants(),
)
