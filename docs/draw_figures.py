"""Draw the figures of docs/results.md from the committed records: `python docs/draw_figures.py`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from pldistill.studies.figures import measured, reproduce_figure

ROOT = Path(__file__).parents[1]
RECORDS, OUT = ROOT / "docs" / "records", ROOT / "docs" / "images"
SHOWN = {
    "figure1a": "figure1a.svg",
    "figure1b": "figure1b.svg",
    "figure2": "figure2.svg",
    "figure3": "figure3/pld-by-tau.png",
    "figure4": "figure4/methods-tau-1.png",
}


def main() -> None:
    points, label = measured(RECORDS / "imagenet-short", scale="short", data="cifar100:PATH")
    with tempfile.TemporaryDirectory() as folder:
        for name, file in SHOWN.items():
            reproduce_figure(name, Path(folder), measured=points, label=label, console=Console())
            shutil.copy(Path(folder) / file, OUT / f"{name}{Path(file).suffix}")


if __name__ == "__main__":
    main()
