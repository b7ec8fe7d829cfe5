"""A study's figures through training: a panel a column of the study, in it a line a run, alike for a row's runs."""

from __future__ import annotations

from markupsafe import Markup

from pldistill.analysis.entries import Comparison
from pldistill.analysis.figures import Curve, panels_by_epoch, points_of
from pldistill.analysis.layouts import METRICS


def through_training(comparison: Comparison, metric: str) -> str | None:
    """A metric after every epoch as SVG, of finished and unfinished runs. None where no run has it."""
    columns = dict.fromkeys(each.column for each in comparison.entries)
    looks = {name: look for look, name in enumerate(dict.fromkeys(each.name for each in comparison.entries))}
    panels: dict[str, list[Curve]] = {column: [] for column in columns}
    for each in comparison.entries:
        series = tuple(points_of(record.epochs(), metric) for record in each.records)
        if any(series):
            panels[each.column].append(Curve(each.name, series, looks[each.name]))
    label = f", {comparison.mark}" if comparison.mark else ""
    title = f"{METRICS[metric].short} by epoch{label}"
    return panels_by_epoch(
        f"through-{metric}", title, [(column, curves) for column, curves in panels.items() if curves]
    )


def through_html(comparison: Comparison) -> list[Markup]:
    """A `<figure>` for each metric that the layout wants drawn and some run has."""
    drawn = [(metric, through_training(comparison, metric)) for metric in comparison.layout.through]
    label = f" {comparison.label}." if comparison.label else ""
    return [
        Markup(
            "<figure>{}<figcaption>{} by epoch: {}. A line is a run, the runs of a method look alike.{}"
            "</figcaption></figure>"
        ).format(Markup(svg), METRICS[metric].short, METRICS[metric].meaning, label)
        for metric, svg in drawn
        if svg
    ]
