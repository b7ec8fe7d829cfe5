"""Write the tables of README.md and docs/results.md from the committed records: `python docs/write_results.py`.

A test runs it and expects no change, so that no document shows a figure that a record does not.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pldistill.precision import NAMES, of_record
from pldistill.record import RunRecord, find_runs
from pldistill.reports.comparison import Comparison, Verdicts
from pldistill.reports.comparison_frames import verdict_frame
from pldistill.reports.comparison_tables import comparison_document, comparison_sections
from pldistill.reports.render import Table, markdown, markdown_table, plus_minus
from pldistill.reports.runs import group_runs, machine_name
from pldistill.reports.summary import summarize, summary_document
from pldistill.studies import SEARCHES, find_study, language_demo, segmentation_demo
from pldistill.studies.demo import demo_table
from pldistill.studies.runner import compare
from pldistill.studies.search import compare as compare_search
from pldistill.studies.search import lay_out
from pldistill.studies.study import plan

sys.path.insert(0, str(Path(__file__).parent))

import benchmark_tables

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records"
TOP1 = ["top1_mean", "top1_std"]


def runs_table(name: str) -> str:
    """The runs of one folder of records, in the order of its folders' names.

    Read from within the records: a record names its teacher by a path, and a checkout may have runs of its own there.
    """
    before = Path.cwd()
    os.chdir(RECORDS)
    try:
        return markdown(summary_document(summarize(group_runs(find_runs([RECORDS / name]))))).strip()
    finally:
        os.chdir(before)


def demo_part(name: str, table: Callable[[Path], Table] = demo_table) -> str:
    """What `pldistill demo` printed, from one folder of records, and on which machine."""
    env = RunRecord(RECORDS / name / "teacher").read_environment()
    precision = NAMES[of_record({}, env)]
    where = f"{machine_name(env)}; {precision}; torch {env['torch']}"
    return f"{where}\n\n{markdown_table(table(RECORDS / name))}"


def searched(name: str) -> Comparison:
    """A search, from its records."""
    search = SEARCHES[name]
    spec = "cifar100:PATH" if search.data == "cifar100" else None
    return compare_search(lay_out(search, out=RECORDS / name, data=spec))


def small_table() -> str:
    """The methods on real CIFAR-100, each at its best, as README shows it."""
    (section,) = comparison_sections(searched("cifar100-small"))
    return f"{section.said}\n\n{markdown_table(section.tables[0])}"


def quality_table() -> str:
    """Top-1 of every method by teacher, as README shows it."""
    comparison = searched("teacher-quality")
    assert isinstance(comparison.layout, Verdicts)
    lines = verdict_frame(comparison, comparison.layout)
    rows, chosen = lines["row"].unique(), lines[lines["chosen"]]
    chosen = chosen.assign(text=[plus_minus(*figure, 2) for figure in chosen[TOP1].to_numpy()])
    texts, means = (
        chosen.pivot(index="row", columns="column", values=values).reindex(rows, columns=comparison.columns)
        for values in ("text", TOP1[0])
    )
    bold = means.eq(means.max())
    results = [record.read_result() if record else None for record in comparison.teachers.values()]
    heads = ["teacher at ?" if result is None else f"teacher at {result['top1_last']:.1f} %" for result in results]
    frame = texts.fillna("").set_axis(heads, axis=1).reset_index(names="method")
    return markdown_table(Table.of(frame, bold.set_axis(heads, axis=1).reset_index(drop=True)))


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
    """One of the ImageNet tables, its axis shown with small models."""
    folder = RECORDS / "imagenet-short"
    return compare(plan(find_study(name), out=folder, scale="short", data="cifar100:PATH"), folder)


def detection() -> Comparison:
    """The short study of Table 7."""
    folder = RECORDS / "table7-short"
    return compare(plan(find_study("table7"), out=folder, scale="short"), folder)


def lowered(markdown: str) -> str:
    """The same with its headings one level lower."""
    return re.sub("^#", "##", markdown.strip(), flags=re.MULTILINE)


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
    for name, table in (
        ("demo", demo_part("demo")),
        ("cifar100-small", small_table()),
        ("teacher-quality", quality_table()),
        ("cost", benchmark_tables.cost_table()),
    ):
        shown = filled(shown, name, table)
    for name in ("demo", "demo-avx2"):
        detailed = filled(detailed, name, demo_part(name))
    for name in ("cifar100-small", "teacher-quality"):
        detailed = filled(detailed, name, lowered(markdown(comparison_document(searched(name)))))
    for name in ("glyphs-difficulty", "cifar100-short", "folder", "coco-overfit"):
        detailed = filled(detailed, name, runs_table(name))
    compared = {"table1-short": study(), "cifar100-sgd-short": sweep()}
    compared |= {f"{name}-short": ablation(name) for name in ABLATIONS} | {"table7-short": detection()}
    for name, comparison in compared.items():
        detailed = filled(detailed, name, lowered(markdown(comparison_document(comparison))))
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
    language = ROOT / "docs" / "language.md"
    spoken = filled(
        language.read_text(encoding="utf-8"), "demo-language", demo_part("demo-language", language_demo.demo_table)
    )
    segmentation = ROOT / "docs" / "segmentation.md"
    pixels = segmentation.read_text(encoding="utf-8")
    for name, seeds in (("demo-segmentation", 2), ("segmentation-atlas", 3), ("segmentation-nuclei", 3)):
        pixels = filled(pixels, name, demo_part(name, partial(segmentation_demo.demo_table, seeds=seeds)))
    return {readme: shown, results: detailed, language: spoken, segmentation: pixels}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
