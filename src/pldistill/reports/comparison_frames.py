"""A comparison's figures as frames: measured over seeds, beside published, by layout; what a CSV file of it holds.

Frames have a line an entry, or a line an entry and figure; `entry` is its place in the comparison.

Runs of the same seed share the order of the images, their crops and, of one network, the initial weights. So in a
search the difference to the reference is taken seed by seed, d_s, and its 95 % interval is Student's,

    mean d ± t(0.975, n - 1) sd(d) / sqrt(n)

which holds for more seeds of this setting, not for other settings. The verdict is "ahead" or "behind" where the
interval leaves 0 out, and "not decided" elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from scipy.stats import t as student_t

from pldistill.reports.comparison import TABLE_METRICS, Comparison, Entry, Pairs, Variants, Verdicts
from pldistill.reports.runs import RecordedRun, differing, figures_by, read_run, run_frame, wide_figures
from pldistill.specs import data_label

LEVEL = 0.95
# What the runs of one entry may differ in beside the seed: where the teacher lies, whose weights they are.
_FREE = {"teacher", "teacher_cache", "teacher_checkpoint", "teacher_sha256"}


def averaged(entry: Entry) -> list[RecordedRun]:
    """The finished runs of an entry; ValueError where they repeat a seed or differ in more than the seed."""
    runs = [read_run(record) for record in entry.finished]
    where = f"entry {entry.name} of {entry.column}: expected"
    seeds = [run.recipe.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{where} one run a seed, got seeds {seeds}")
    keys = differing([run.settings | {"data": data_label(run.recipe["data"])} for run in runs])
    if apart := [key for key in keys if key not in _FREE]:
        raise ValueError(f"{where} runs that differ in the seed alone, got others in {', '.join(apart)}")
    return runs


def entry_runs(comparison: Comparison) -> pd.DataFrame:
    """The frame of all finished runs (`run_frame`), with the column `entry`."""
    runs = [(at, run) for at, entry in enumerate(comparison.entries) for run in averaged(entry)]
    return run_frame(run for _, run in runs).assign(entry=[at for at, _ in runs])


def entry_frame(comparison: Comparison) -> pd.DataFrame:
    """A line an entry: where it stands, `n` finished of `planned` runs, whether it has `begun`, and what `failed`."""
    return pd.DataFrame(
        [
            {
                "entry": at,
                "row": entry.row,
                "column": entry.column,
                "variant": entry.variant,
                "name": entry.name,
                "label": comparison.label,
                "n": len(entry.finished),
                "planned": entry.planned,
                "begun": bool(entry.records),
                "failures": len(entry.failures),
                "failed": entry.reasons,
            }
            for at, entry in enumerate(comparison.entries)
        ]
    )


def figure_frame(comparison: Comparison, metrics: Sequence[str]) -> pd.DataFrame:
    """A line an entry and metric: `mean`, `std`, `count` after the last epoch, and published `paper` and `paper_std`.

    NaN where there is none: no finished run, or one of them without the figure.
    """
    names = [TABLE_METRICS[metric].in_result or f"{metric}_last" for metric in metrics]
    measured = figures_by(entry_runs(comparison), "entry", names)
    published = [
        (at, metric, *figure)
        for at, entry in enumerate(comparison.entries)
        for metric, figure in entry.published.items()
    ]
    paper = pd.DataFrame(published, columns=["entry", "metric", "paper", "paper_std"])
    lines = entry_frame(comparison).merge(pd.DataFrame({"metric": metrics, "figure": names}), how="cross")
    lines = lines.merge(measured, "left", ["entry", "figure"]).merge(paper, "left", ["entry", "metric"])
    return lines.astype({"paper": float, "paper_std": float})


def _wide_frame(comparison: Comparison, names: Mapping[str, str]) -> pd.DataFrame:
    """A line an entry: `NAME_mean` and `NAME_std` of each figure."""
    return entry_frame(comparison).join(wide_figures(entry_runs(comparison), "entry", names), on="entry")


def panel_frame(comparison: Comparison) -> pd.DataFrame:
    """A line an entry, top-1 after the `last` and the `best` epoch, `holdout_last` on held-out images, `published`.

    `seconds` are a whole run's, NaN also where its runs were made on different machines.
    """
    figures = {"last": "top1_last", "best": "top1_best", "holdout_last": "holdout_last", "seconds": "seconds"}
    lines = _wide_frame(comparison, figures)
    published = figure_frame(comparison, ["top1"])[["entry", "paper", "paper_std"]]
    published.columns = ["entry", "published_mean", "published_std"]
    machines = lines["entry"].map(entry_runs(comparison).groupby("entry")["machine"].nunique())
    lines["seconds_mean"] = lines["seconds_mean"].where(machines == 1)
    return lines.merge(published, "left", "entry")


def choose(candidates: pd.DataFrame) -> int | None:
    """Of one row's lines in `panel_frame`, the entry with the highest mean on held-out images: the test has no say.

    None as long as one of them has neither a finished run nor a failure. A lone variant of runs that held nothing out
    was chosen before. Raises ValueError for several such variants.
    """
    done = candidates[candidates["n"] > 0].set_index("entry")["holdout_last_mean"]
    if done.empty or ((candidates["n"] == 0) & (candidates["failures"] == 0)).any():
        return None
    if done.notna().all():
        return int(done.idxmax())
    variants = candidates[candidates["variant"] != ""]
    if len(variants) > 1:
        row, column = candidates[["row", "column"]].iloc[0]
        raise ValueError(
            f"entries {row} of {column}: expected runs with held-out images to choose among "
            f"{', '.join(variants['variant'])} by, got none held out"
        )
    return int(variants["entry"].iloc[0])


class Difference(NamedTuple):
    """A paired difference: its mean, half the width of its interval (None for a single pair), and what they decide."""

    mean: float
    half: float | None
    verdict: str


def paired(first: pd.Series, second: pd.Series) -> Difference | None:
    """The difference of two methods' figures by seed, over the seeds that both have; None where there is none."""
    gains = (first - second).dropna()
    if gains.empty:
        return None
    mean, half = float(gains.mean()), None
    if len(gains) > 1:
        half = float(student_t.ppf((1 + LEVEL) / 2, len(gains) - 1) * gains.std() / len(gains) ** 0.5)
    decided = half is not None and abs(mean) > half
    return Difference(mean, half, ("ahead" if mean > 0 else "behind") if decided else "not decided")


def verdict_frame(comparison: Comparison, layout: Verdicts) -> pd.DataFrame:
    """A line an entry: its figures, whether it is `chosen` and finished, and its paired difference to the reference.

    `first` is the top-1 of seed 0 on the held-out images.
    """
    figures = {"top1": "top1_last", "holdout": "holdout_last", "ece": "ece_last", "agreement": "agreement_last"}
    lines = _wide_frame(comparison, {**figures, "label_weight": "label_weight"})
    places = zip(lines["column"], lines["row"], lines["variant"], strict=True)
    lines["best"] = [layout.chosen.get((column, row)) == variant for column, row, variant in places]
    lines["chosen"] = lines["best"] & (lines["n"] > 0)
    runs = entry_runs(comparison).reindex(columns=["entry", "seed", "top1_last", "holdout_last"])
    lines["first"] = lines["entry"].map(runs[runs["seed"] == "0"].set_index("entry")["holdout_last"])
    top1 = runs.pivot(index="seed", columns="entry", values="top1_last")
    references = lines[lines["chosen"] & (lines["row"] == layout.reference)].set_index("column")["entry"]
    differences = []
    for line in lines.to_dict("records"):
        reference = references.get(line["column"])
        compared = line["chosen"] and reference not in (None, line["entry"])
        differences.append(paired(top1[line["entry"]], top1[reference]) if compared else None)
    decided = [difference or (None, None, None) for difference in differences]
    return lines.join(pd.DataFrame(decided, index=lines.index, columns=["difference", "half", "verdict"]))


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """In full precision for a CSV file, the label in every line; what is not known is NaN.

    Of `Panels` and `Verdicts` a line an entry, of the other layouts a line for each entry and metric.
    """
    layout, place, counts = comparison.layout, ["row", "column", "variant"], ["label", "n", "planned"]
    if isinstance(layout, Pairs | Variants):
        lines = figure_frame(comparison, layout.metrics)
        lines["n"] = lines["count"].fillna(0).astype(int)
        return lines[[*place, "metric", "mean", "std", "n", "planned", "paper", "paper_std", "label", "failed"]]
    if isinstance(layout, Verdicts):
        names = ("top1", "holdout", "ece", "agreement", "label_weight")
        columns = [*place, "chosen", *counts, *_spread(names), "difference", "half", "verdict", "failed"]
        return verdict_frame(comparison, layout)[columns]
    names = ("last", "best", "holdout_last", "published")
    return panel_frame(comparison)[[*place, *counts, *_spread(names), "seconds_mean", "failed"]]


def _spread(names: Sequence[str]) -> list[str]:
    return [f"{name}_{part}" for name in names for part in ("mean", "std")]
