"""The points of the paper's figures, read from the runs of the studies that have them; and the verbs that draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis_runs import make_run
from pldistill.studies import STUDIES
from pldistill.studies.figures import HOMOGENEOUS, measured
from pldistill.studies.study import plan


def finish(out: Path, name: str, row: str, column: str, top1: float, scale: str = "full") -> None:
    """A hand-made run where the study looks for this cell's."""
    data = {"full": "imagenet:.", "short": "cifar100:."}[scale]
    layout = plan(STUDIES[name], out=out, scale=scale, data=data)
    (cell,) = (cell for cell in layout.cells if (cell.row, cell.column) == (row, column))
    make_run(cell.folder, top1=[top1], method=cell.recipe.method, epochs=cell.recipe.epochs, data=data)


def test_nothing_ran() -> None:
    assert measured(Path("nowhere")) == ({}, "")


def test_points_stand_where_the_axes_have_them(tmp_path: Path) -> None:
    pair = "resnet50 < resnet152"
    finish(tmp_path, "table8", "kd_alpha0.3", pair, 31.0)
    finish(tmp_path, "table8", "dist_a1.0_b2.0_g2.0", pair, 32.0)
    finish(tmp_path, "table8", "dist_a0.1_b0.45_g0.45", pair, 33.0)
    finish(tmp_path, "table4", "ce", "300", 34.0)
    found, label = measured(tmp_path)
    assert label == ""
    assert {method: {at: stat.mean for at, stat in line.items()} for method, line in found["figure1a"].items()} == {
        "kd": {0.3: 31.0},
        "dist": {0.1: 33.0},  # (1, 2, 2) is on no line
    }
    assert found["figure1b"]["ce"][300].mean == 34.0
    # Table 2 shares DIST's best row with Table 8.
    assert found["figure2"][HOMOGENEOUS]["dist"][pair].mean == 33.0


def test_another_protocol_is_labelled(tmp_path: Path) -> None:
    finish(tmp_path, "table4", "pld", "300", 20.0, scale="short")
    found, label = measured(tmp_path, scale="short")
    assert found["figure1b"]["pld"][18].mean == 20.0
    assert label.startswith("short: ")
    assert "figure2" not in found


def test_a_scale_that_no_study_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown scale 'shrot'"):
        measured(tmp_path, scale="shrot")
