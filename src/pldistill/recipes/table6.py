"""Table 6 of the PLD paper: PLD's temperature, and its weights replaced, ResNet-50 from ResNet-152.

Published: `results.yaml`, table6. Command: `pldistill reproduce table6 --data imagenet:PATH`. Cost: eight runs of about
6 hours on eight A100s, by the paper; PLD at temperature 1 is Table 2's.

The paper says two things of p-ListMLE. By Section 4.2 the weights are 2^(C-k) - 1; at 1000 classes they overflow, so
here they are divided by their sum (`plistmle`). By Section 5.2.2 they are the teacher's probabilities, and that is PLD
itself at temperature 1 (`plistmle_teacher`, which shares its run): so the two figures of the paper, 76.60 and 77.30,
cannot both be of that reading. The published figure stands beside both.
"""

from __future__ import annotations

from pldistill.analysis.layouts import Variants
from pldistill.recipes import imagenet
from pldistill.study import Figures

TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 4.0)
ROWS = {
    **{f"pld_tau{temperature}": imagenet.pld(temperature) for temperature in TEMPERATURES},
    "listmle": {"method": "listmle", "options": {"weights": "uniform"}},
    "plistmle": {"method": "plistmle", "options": {"normalize": True}},
    "plistmle_teacher": imagenet.pld(1.0),
}


def figures(row: str, column: str) -> Figures:
    """The paper's figure; its one of p-ListMLE beside both readings."""
    return imagenet.down("table6")(row.removesuffix("_teacher"), column)


STUDY = imagenet.study(
    "table6",
    "ImageNet-1K, ResNet-50 from ResNet-152, variants of PLD: Top-1 and Top-5 (%)",
    published=figures,
    pairs=imagenet.RESNETS,
    rows=ROWS,
    scales=imagenet.scales(imagenet.RESNETS, short=True, shown="pld_tau1.0"),
    layout=Variants(),
    notes=("plistmle_teacher: p-ListMLE by Section 5.2.2, which is PLD at temperature 1: one run, two rows.",),
)
