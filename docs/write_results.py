"""Write the tables of README.md and docs/results.md from the committed records: `python docs/write_results.py`.

A test runs it and expects no change, so that no document shows a figure that a record does not.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from pldistill.analysis.comparison import Comparison, comparison_markdown, measured
from pldistill.analysis.tables import Row, Stat, markdown_table, summarise
from pldistill.plan import plan
from pldistill.recipes import find_study
from pldistill.record import find_runs
from pldistill.reproduce import compare

sys.path.insert(0, str(Path(__file__).parent))

import benchmark_tables

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records"
NAMES = {"ce": "CE", "kd": "KD", "dist": "DIST", "pld": "PLD"}


def rows(name: str) -> list[Row]:
    """The rows of one folder of records, in the order of its folders' names.

    Read from within the records: a record names its teacher by a path, and a checkout may have runs of its own there.
    """
    before = Path.cwd()
    os.chdir(RECORDS)
    try:
        return summarise(find_runs([RECORDS / name]))
    finally:
        os.chdir(before)


def students(name: str, student: str) -> dict[str, Row]:
    """One student's rows by method, in the order of the documents."""
    found = {row.method: row for row in rows(name) if row.student == student}
    return {method: found[method] for method in NAMES}


def demo_table() -> str:
    """What `pldistill demo` prints, in short."""
    (teacher,) = [row for row in rows("demo") if row.student == "resnet20"]
    lines = ["| | top-1 (%) | KL to the teacher (nats) | seconds | n |", "|---|---|---|---|---|"]
    assert teacher.top1_last is not None
    assert teacher.seconds is not None
    lines.append(f"| teacher resnet20 | {teacher.top1_last.show(2)} | | {teacher.seconds.show(0)} | {teacher.n} |")
    for method, row in students("demo", "resnet8").items():
        assert row.top1_last is not None
        assert row.seconds is not None
        kl = "" if row.kl_last is None else row.kl_last.show(3)
        lines.append(f"| resnet8, {NAMES[method]} | {row.top1_last.show(2)} | {kl} | {row.seconds.show(0)} | {row.n} |")
    return "\n".join(lines)


def study() -> Comparison:
    """The short study of Table 1, from its records."""
    folder = RECORDS / "table1-short"
    return compare(plan(find_study("table1"), out=folder, scale="short", data="cifar100:PATH"), folder)


SWEPT = ("ce", "kd", "dist", "dkd", "pld")


def sweep() -> Comparison:
    """Some methods of the short study under SGD, at once and four times their scale."""
    folder, study = RECORDS / "cifar100-sgd-short", find_study("cifar100-sgd")
    given = {"scale": "short", "data": "cifar100:PATH", "validation": 5000, "sweep": (4.0,)}
    return compare(plan(study, out=folder, rows=SWEPT, **given), folder)


ABLATIONS = ("table4", "table5", "table6", "table8", "table9", "table10", "table11")


def ablation(name: str) -> Comparison:
    """One of the ImageNet tables, its axis shown with small nets."""
    folder = RECORDS / "imagenet-short"
    return compare(plan(find_study(name), out=folder, scale="short", data="cifar100:PATH"), folder)


def detection() -> Comparison:
    """The short study of Table 7."""
    folder = RECORDS / "table7-short"
    return compare(plan(find_study("table7"), out=folder, scale="short"), folder)


def lowered(markdown: str) -> str:
    """The same with its headings one level lower."""
    return re.sub("^#", "##", markdown.strip(), flags=re.MULTILINE)


def cifar_table() -> str:
    """Every method of the study beside the paper's column, in the order of the measured figure."""
    found = study()
    lines = [
        "| method | paper: 250 epochs, n = 3 | measured, **short: 10 epochs, 10,000 pictures** | n |",
        "|---|---|---|---|",
    ]
    figures = {entry: last for entry in found.entries if (last := measured(entry)[0])}
    for entry, last in sorted(figures.items(), key=lambda item: -item[1].mean):
        paper = Stat(*entry.published["top1"], 3).show(2) if entry.published else "not in the paper"
        lines.append(f"| {entry.row} | {paper} | {last.show(2)} | {last.n} |")
    return "\n".join(lines)


def filled(text: str, name: str, content: str) -> str:
    """`text` with what stands between the marks of `name` replaced."""
    opening, closing = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, _, rest = text.partition(opening)
    _, found, after = rest.partition(closing)
    assert found, f"{name}: the marks are missing"
    return f"{before}{opening}{content}{closing}{after}"


def documents() -> dict[Path, str]:
    """Every document with its tables as the records have them."""
    readme, results = ROOT / "README.md", ROOT / "docs" / "results.md"
    shown, detailed = readme.read_text(encoding="utf-8"), results.read_text(encoding="utf-8")
    for name, table in (("demo", demo_table()), ("cifar", cifar_table()), ("cost", benchmark_tables.cost_table())):
        shown = filled(shown, name, table)
    for name in ("demo", "demo-again", "glyphs-difficulty", "cifar100-short", "folder", "coco-overfit"):
        detailed = filled(detailed, name, markdown_table(rows(name)).strip())
    compared = {"table1-short": study(), "cifar100-sgd-short": sweep()}
    compared |= {f"{name}-short": ablation(name) for name in ABLATIONS} | {"table7-short": detection()}
    for name, comparison in compared.items():
        detailed = filled(detailed, name, lowered(comparison_markdown(comparison)))
    detailed = filled(detailed, "steps", lowered(benchmark_tables.steps_table()))
    for name, table in (
        ("losses", benchmark_tables.losses_table()),
        ("losses-memory", benchmark_tables.memory_table()),
        ("step", benchmark_tables.step_table()),
        ("cache", benchmark_tables.cache_table()),
        ("store", benchmark_tables.store_table()),
        ("detection-steps", benchmark_tables.detection_steps_table()),
        ("loader", benchmark_tables.loader_table()),
        ("full", benchmark_tables.full_table()),
    ):
        detailed = filled(detailed, name, table)
    return {readme: shown, results: detailed}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
