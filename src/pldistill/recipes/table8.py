"""Table 8 of the PLD paper: the weights of KD and DIST, ResNet-50 from ResNet-152.

Published: `results.yaml`, table8; Figure 1a is drawn from it. Command: `pldistill reproduce table8 --data
imagenet:PATH`. Cost: 23 runs of about 6 hours on eight A100s, by the paper; six of them are Table 5's, the two without
a teacher among them. DIST's beta and gamma fall as alpha grows, so its lines move two things at once.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Variants
from pldistill.recipes import imagenet, table5
from pldistill.recipes.published import published
from pldistill.study import Figures

_KD = published("table8")["kd_tau2_by_alpha"]
_DIST = {tuple(line[:3]): line[3:] for line in published("table8")["dist_tau1_by_alpha_beta_gamma"]}
# The lines without a teacher, whose runs and figures are Table 5's.
ALONE = {row: table5.ROWS[row] for row in ("ce", "label_smoothing_0.1")}
KD_ROWS = {f"kd_alpha{alpha}": alpha for alpha in _KD}
DIST_ROWS = {f"dist_a{alpha}_b{beta}_g{gamma}": (alpha, beta, gamma) for alpha, beta, gamma in _DIST}


def swept(alpha: float, beta: float, gamma: float) -> bool:
    """Whether DIST's weights lie on the sweep β = γ = (1 - α) / 2; the published (1, 2, 2) do not."""
    return abs(alpha + beta + gamma - 1) < 1e-9


def figures(row: str, column: str) -> Figures:
    """The paper's Top-1 and Top-5."""
    if row in ALONE:
        return imagenet.down("table5")(row, column)
    top1, top5 = _KD[KD_ROWS[row]] if row in KD_ROWS else _DIST[DIST_ROWS[row]]
    return {"top1": (top1, None), "top5": (top5, None)}


STUDY = imagenet.study(
    "table8",
    "ImageNet-1K, ResNet-50 from ResNet-152, weights of KD and DIST: Top-1 and Top-5 (%)",
    published=figures,
    pairs=imagenet.RESNETS,
    rows={
        **ALONE,
        **{row: imagenet.kd(alpha) for row, alpha in KD_ROWS.items()},
        **{row: imagenet.dist(*weights) for row, weights in DIST_ROWS.items()},
    },
    scales=imagenet.scales(imagenet.RESNETS, short=True, shown="dist_a0.1_b0.45_g0.45"),
    layout=Variants(),
)
