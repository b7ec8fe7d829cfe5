"""What the runs of studies measured, as the points of the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pldistill.analysis.entries import Comparison, Entry, figure
from pldistill.analysis.tables import Stat
from pldistill.drawings import HETEROGENEOUS, HOMOGENEOUS
from pldistill.plan import plan
from pldistill.recipes import STUDIES, table8
from pldistill.reproduce import compare
from pldistill.specs import unknown

Points = dict[str, dict[Any, Stat]]


def measured(out: Path, *, scale: str = "full", data: str | None = None) -> tuple[dict[str, dict[str, Any]], str]:
    """Read the points of Figures 1 and 2 from the runs in `out`; and the label of their protocol.

    Args:
        out: the folder of the ImageNet studies.
        scale: theirs; a study without it has no points.
        data: the pictures they were made on; None is the study's own.

    Raises:
        ValueError: for an unknown scale.
    """
    if scale not in STUDIES["table4"].scales:
        raise ValueError(unknown("scale", scale, STUDIES["table4"].scales))
    weights, lengths, homogeneous, heterogeneous = (
        _comparison(name, out, scale, data) for name in ("table8", "table4", "table2", "table3")
    )
    found: dict[str, dict[str, Any]] = {
        "figure1a": _points(weights, _weight),
        "figure1b": _points(lengths, lambda entry: (entry.row, entry.finished[0].read_recipe()["epochs"])),
        "figure2": {
            heading: points
            for heading, comparison in ((HOMOGENEOUS, homogeneous), (HETEROGENEOUS, heterogeneous))
            if (points := _points(comparison, lambda entry: (entry.row, entry.column)))
        },
    }
    labels = {each.label for each in (weights, lengths, homogeneous, heterogeneous) if each is not None}
    return {name: points for name, points in found.items() if points}, "; ".join(sorted(labels))


def _comparison(name: str, out: Path, scale: str, data: str | None) -> Comparison | None:
    study = STUDIES[name]
    if scale not in study.scales:
        return None
    known = study.scales[scale].data or ("imagenet:." if scale == "full" else "cifar100:.")
    return compare(plan(study, out=out, scale=scale, data=data or known), out)


def _points(comparison: Comparison | None, place: Callable[[Entry], tuple[str, Any] | None]) -> Points:
    """Top-1 by method and place on the axis, of the entries that have finished runs and a place."""
    points: Points = {}
    for entry in comparison.entries if comparison is not None else ():
        top1 = figure(entry, "top1")
        at = place(entry) if top1 is not None else None
        if top1 is not None and at is not None:
            points.setdefault(at[0], {})[at[1]] = top1
    return points


def _weight(entry: Entry) -> tuple[str, float] | None:
    """The weight of the cross-entropy; DIST's (1, 2, 2) lies on no line with the others."""
    if entry.row in table8.KD_ROWS:
        return "kd", table8.KD_ROWS[entry.row]
    weights = table8.DIST_ROWS[entry.row]
    return ("dist", weights[0]) if table8.swept(*weights) else None
