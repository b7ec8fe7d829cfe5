"""A search's table: each method at its best, its difference to a reference run by run, and whether that is decided.

Runs of the same seed share the order of the images, their crops and, of one network, the initial weights. So the
difference to the reference is taken seed by seed, d_s, and its 95 % interval is Student's,

    mean d ± t(0.975, n - 1) sd(d) / sqrt(n)

which holds for more seeds of this setting, not for other settings. The verdict is "ahead" or "behind" where the
interval leaves 0 out, and "not decided" elsewhere.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

from pldistill.record import METRICS, percent
from pldistill.reports.entries import Comparison, Entry, figure, held_out, results
from pldistill.reports.grids import Grid
from pldistill.reports.layouts import Verdicts
from pldistill.reports.sheets import Sheet, counted, failure_marks, footnotes, signed, teacher_line
from pldistill.reports.tables import Stat, stat

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean and half the width of its interval, None for a single pair."""

    mean: float
    half: float | None
    n: int

    @property
    def verdict(self) -> str:
        if self.half is None or abs(self.mean) <= self.half:
            return "not decided"
        return "ahead" if self.mean > 0 else "behind"


def paired(first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> Difference | None:
    """The difference of two methods' (seed, figure) over the seeds that both have; None where there is none."""
    others = dict(second)
    pairs = [value - others[seed] for seed, value in first if seed in others]
    if not pairs:
        return None
    mean = statistics.fmean(pairs)
    if len(pairs) == 1:
        return Difference(mean, None, 1)
    width = student_t.ppf((1 + LEVEL) / 2, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return Difference(mean, float(width), len(pairs))


def verdicts_sheets(comparison: Comparison, layout: Verdicts) -> list[Sheet]:
    """A sheet a column: its teacher, the methods at their best, and what was tried to find it."""
    sheets = []
    for column in dict.fromkeys(each.column for each in comparison.entries):
        entries = [each for each in comparison.entries if each.column == column]
        marks = failure_marks(entries, "({})")
        title = column if len({each.column for each in comparison.entries}) > 1 else ""
        grids = (best_grid(comparison, layout, column), _tried(entries, layout))
        sheets.append(Sheet(title, sheet_teacher(comparison, column), grids, footnotes(marks)))
    return sheets


def chosen_of(comparison: Comparison, layout: Verdicts, column: str) -> dict[str, Entry]:
    """Each row's chosen entry in a column; rows whose search is not at its end have none."""
    return {
        each.row: each
        for each in comparison.entries
        if each.column == column and layout.chosen.get((column, each.row)) == each.variant and each.finished
    }


def _top1(entry: Entry) -> list[tuple[int, float]]:
    return [(result["seed"], result["top1_last"]) for result in results(entry)]


def label_weight(entry: Entry) -> Stat | None:
    """The mean part of the weight that the label has; None for a method that weights no ranks."""
    found = [record.read_environment().get("preflight") or {} for record in entry.finished]
    return stat([each.get("weights", {}).get("label") for each in found])


def difference_of(entry: Entry, chosen: dict[str, Entry], layout: Verdicts) -> Difference | None:
    """A chosen entry's difference to the reference, in points of top-1; None for the reference itself."""
    reference = chosen.get(layout.reference)
    if reference is None or entry is reference:
        return None
    return paired(_top1(entry), _top1(reference))


def shown(difference: Difference | None) -> str:
    """`+1.20 ± 0.40`, the half width of the interval behind."""
    if difference is None:
        return ""
    width = "" if difference.half is None else f" ± {difference.half:.2f}"
    return signed(difference.mean, 2) + width


def best_grid(comparison: Comparison, layout: Verdicts, column: str) -> Grid:
    """The methods at their best."""
    chosen = chosen_of(comparison, layout, column)
    header = [
        ("", "method"),
        ("chosen", "variant"),
        ("", "top-1"),
        ("", f"over {layout.reference} (95 %)"),
        ("", "verdict"),
    ]
    header += [("", METRICS[name].short) for name in ("ece", "agreement")] + [("", "label's weight"), ("", "n")]
    means = {row: figure(entry, "top1") for row, entry in chosen.items()}
    best = max((each.mean for each in means.values() if each), default=None)
    lines = []
    for row, entry in chosen.items():
        difference, own, top1 = difference_of(entry, chosen, layout), label_weight(entry), means[row]
        verdict = difference.verdict if difference else "reference" if row == layout.reference else ""
        cells = [row, entry.variant, top1.show(2) if top1 else "", shown(difference), verdict]
        for name in ("ece", "agreement"):
            value = figure(entry, name)
            cells.append(value.show(METRICS[name].digits) if value else "")
        cells += [f"{own.mean:.3f}" if own else "", counted(entry, "")]
        lines.append(tuple((text, at == 2 and top1 is not None and top1.mean == best) for at, text in enumerate(cells)))
    return Grid(tuple(header), tuple(lines))


def _tried(entries: Sequence[Entry], layout: Verdicts) -> Grid:
    """Every setting that was tried, with seed 0's top-1 on the held-out images; what was chosen is bold."""
    lines = []
    for each in entries:  # a row's stand together
        first = [result.get("holdout_last") for result in results(each) if result["seed"] == 0]
        score = f"{first[0]:.2f}" if first and first[0] is not None else "failed" if each.failures else ""
        bold = layout.chosen.get((each.column, each.row)) == each.variant
        lines.append(((each.row, False), (each.variant, False), (score, bold)))
    return Grid((("", "method"), ("tried", "variant"), ("", "held out, seed 0")), tuple(lines))


def sheet_teacher(comparison: Comparison, column: str) -> str:
    """The teacher's run, with how much of its training images it has right as they were augmented."""
    record = comparison.teachers.get(column)
    line = teacher_line(record)
    rows = record.epochs() if record is not None and record.finished else []
    return f"{line} Of its training images, augmented: {percent(rows[-1]['train_top1'])}." if rows else line


def verdicts_notes(comparison: Comparison, layout: Verdicts) -> list[str]:
    """How to read the tables."""
    return [
        "top-1 after the last epoch on the test images, mean ± sample standard deviation over n seeds; the highest "
        "is bold.",
        f"over {layout.reference}: the difference to it seed by seed, mean ± half the width of Student's 95 % "
        "interval; ahead or behind where that leaves 0 out, else not decided.",
        "variant: of what was tried, the best on held-out training images with seed 0 (x: the factor on the whole "
        "loss, term x: on the distillation term alone); the test images had no say.",
        f"ECE: {METRICS['ece'].meaning}.",
        f"agreement: {METRICS['agreement'].meaning}.",
        "label's weight: the part of all weight that the loss gives the label, mean over training images.",
        *comparison.notes,
    ]


def verdicts_csv(comparison: Comparison, layout: Verdicts) -> str:
    """A line for each setting that was tried, in full precision; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ("top1", "holdout", "ece", "agreement", "label_weight")
    spread = [f"{name}_{part}" for name in figures for part in ("mean", "std")]
    writer.writerow(
        [
            "row",
            "column",
            "variant",
            "chosen",
            "label",
            "n",
            "planned",
            *spread,
            "difference",
            "half",
            "verdict",
            "failed",
        ]
    )
    for each in comparison.entries:
        chosen = chosen_of(comparison, layout, each.column)
        stats = [
            figure(each, "top1"),
            held_out(each),
            figure(each, "ece"),
            figure(each, "agreement"),
            label_weight(each),
        ]
        numbers = [part for value in stats for part in ((value.mean, value.std) if value else (None, None))]
        own = chosen.get(each.row) is each
        difference = difference_of(each, chosen, layout) if own else None
        decided = [difference.mean, difference.half, difference.verdict] if difference else [None, None, None]
        about = [each.row, each.column, each.variant, own, comparison.label, len(each.finished), each.planned]
        writer.writerow([*about, *numbers, *decided, "; ".join(each.reasons)])
    return out.getvalue()
