"""Every figure in the documents' sentences is computed again from the records; the tables are in test_documents.

A claim is a piece of a document with its figures taken out, and what computes them. The words of each stand in the
document with the figures as they come out here. Another test looks for decimals in the sentences of README and
docs/results.md that no claim has.
"""

import csv
import json
import re
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from places import ROOT
from pldistill.studies import SEARCHES
from pldistill.studies.paper import published
from pldistill.studies.search import lay_out

RECORDS = ROOT / "docs" / "records"
IMAGENET = "imagenet-short/cells/*"


@cache
def runs(pattern: str) -> list[tuple[dict[str, Any], dict[str, Any], Path]]:
    """Recipe, result and folder of every finished run whose folder matches."""
    folders = [path.parent for path in sorted(RECORDS.glob(f"{pattern}/result.json"))]
    return [
        (*(json.loads((folder / f"{name}.json").read_text()) for name in ("recipe", "result")), folder)
        for folder in folders
    ]


def one(pattern: str, key: str = "top1_last", wanted: Callable[[dict[str, Any]], bool] = lambda recipe: True) -> float:
    """A figure of the one run that matches."""
    (found,) = {result[key] for recipe, result, _ in runs(pattern) if wanted(recipe)}
    return found


def table1(method: str, **options: Any) -> float:
    return one("table1-short/cells/*/*", wanted=lambda recipe: recipe["method"] == method and _has(recipe, options))


def _has(recipe: dict[str, Any], options: dict[str, Any]) -> bool:
    return all(recipe["options"].get(name) == value for name, value in options.items())


def sgd(method: str, factor: float = 1, key: str = "top1_last") -> float:
    """A figure of the short study under SGD; the factor shows in the folder's name."""
    times = "" if factor == 1 else f"-x{factor:g}"
    return one(f"cifar100-sgd-short/cells/*/{method}{times}-seed0-*", key)


def ablation(method: str, optimizer: str = "lamb", epochs: int = 6, task: float | None = None, **options: Any) -> float:
    def wanted(recipe: dict[str, Any]) -> bool:
        alone = task is None or recipe["weights"]["task"] == task
        same = (recipe["method"], recipe["optimizer"], recipe["epochs"]) == (method, optimizer, epochs)
        return same and alone and _has(recipe, options)

    return one(f"{IMAGENET}/*", wanted=wanted)


def best(method: str, optimizer: str = "lamb", standardize: str = "none") -> float:
    """A method of the ablations as the paper found it best."""
    options = {
        "kd": {"temperature": 2.0, "tau_squared": True},
        "dist": {"temperature": 1.0, "beta": 0.45},
        "pld": {"temperature": 1.0},
    }
    task = {"kd": 0.1, "dist": 0.1, "pld": 0.0}[method]
    return ablation(method, optimizer, task=task, standardize=standardize, **options[method])


OPTIMIZERS = ("adabelief", "adamw", "adan", "lamb")


def spread(values: list[float], form: str = "{:.1f} to {:.1f}") -> str:
    return form.format(min(values), max(values))


def detection(method: str) -> tuple[float, float]:
    found = [
        result["AP"]
        for recipe, result, _ in runs("table7-short/cells/*/*")
        if recipe["method"] == method and recipe["weights"].get("loss_classifier") == 1
    ]
    return statistics.fmean(found), statistics.stdev(found)


def ap50_of_first_epoch(method: str) -> dict[int, float]:
    found = {}
    for recipe, _, folder in runs("table7-short/cells/*/*"):
        if recipe["method"] == method:
            found[recipe["seed"]] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["AP50"]
    return found


def first_lead() -> str:
    """How far dkd and pld are ahead of ce after the first epoch, in points of AP50, over seeds."""
    plain = ap50_of_first_epoch("ce")
    leads = [value - plain[seed] for method in ("dkd", "pld") for seed, value in ap50_of_first_epoch(method).items()]
    return spread(leads, "{:.0f} to {:.0f}")


def minutes_a_line() -> float:
    seconds = [result["seconds"] for _, result, _ in runs(f"{IMAGENET}/*")]
    return statistics.median(seconds) / 60


def hours(study: str) -> float:
    return (
        sum(result["seconds"] for kind in ("cells/*/*", "teachers/*") for _, result, _ in runs(f"{study}/{kind}"))
        / 3600
    )


NUMBERS = ("none", "one", "two", "three", "four", "five")
DIST = {line[0]: line[3] for line in published("table8")["dist_tau1_by_alpha_beta_gamma"] if sum(line[:3]) < 1.01}


def pld_over_kd(machine: str, capability: str) -> str:
    """PLD's time over eager KD's by shape: float32, one thread, every loss in turn; the last of each shape."""
    found = {}
    with (ROOT / "benchmarks" / "losses.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            same = (line["device_name"], line["cpu_capability"]) == (machine, capability)
            kind = (line["what"], line["dtype"], line["threads"], line["mode"])
            if same and kind == ("pld", "float32", "1", "eager") and int(line["rounds"]) in (9, 21) and line["to_kd"]:
                found[line["rows"], line["classes"]] = float(line["to_kd"])
    return spread(list(found.values()))


def small(row: str) -> float:
    """Mean top-1 of a method at its best on real CIFAR-100."""
    return searched("cifar100-small", row, "resnet20", "cifar100:PATH")


def quality(row: str, teacher: str) -> float:
    """Mean top-1 of a method at its best, from one teacher of drawn characters."""
    return searched("teacher-quality", row, teacher)


def searched(name: str, row: str, teacher: str, data: str | None = None) -> float:
    """Mean top-1 of a method at its best, from one teacher of a search."""
    job = lay_out(SEARCHES[name], out=RECORDS / name, data=data)
    point, ahead = job.searched(teacher, row)
    assert ahead is None
    cells = [job.cell(teacher, row, point[0], seed) for seed in range(job.seeds)]
    return statistics.fmean((cell.record.read_result() or {})["top1_last"] for cell in cells)


POOR, FAIR, GOOD = "3-epochs", "5-epochs", "20-epochs"
MENDED = ("ce+pld", "pld-floor", "decoupled-pld")
CLAIMS: list[tuple[str, str, Callable[[], tuple[Any, ...]]]] = [
    (
        "docs/log.md",
        "(docs/results.md; one seed, {} steps, a teacher at {:.0f} %): {:.2f} %, where KD has {:.2f}, DIST {:.2f}, DKD "
        "{:.2f}, FitNet {:.2f} and cross-entropy alone {:.2f}.",
        lambda: (
            10 * -(-10_000 // 128),
            one("table1-short/teachers/*"),
            *(table1(method) for method in ("pld", "kd", "dist", "dkd", "fitnet", "ce")),
        ),
    ),
    ("docs/log.md", "is the highest, {:.2f}.", lambda: (table1("plkl", stages="10"),)),
    ("docs/results.md", "how far each comes in {} steps", lambda: (10 * -(-10_000 // 128),)),
    (
        "docs/results.md",
        "so that two CPU cores do it in about {} hours.",
        lambda: (NUMBERS[round(hours("table1-short"))],),
    ),
    ("README.md", "one pair on two CPU cores in about {} hours", lambda: (NUMBERS[round(hours("table1-short"))],)),
    ("docs/studies.md", "in about {} minutes a line.", lambda: (NUMBERS[round(minutes_a_line())],)),
    (
        "docs/log.md",
        "KD and PLD gain {:.1f} points by it and DKD {:.1f}, while cross-entropy loses {:.1f} and DIST {:.1f}.",
        lambda: (
            *(sgd(method, 4) - sgd(method) for method in ("kd", "dkd")),
            *(sgd(method) - sgd(method, 4) for method in ("ce", "dist")),
        ),
    ),
    (
        "docs/log.md",
        "DKD's lead ({:.2f} %, {:.2f} chosen; PLD {:.2f}, {:.2f})",
        lambda: (sgd("dkd"), sgd("dkd", 4), sgd("pld"), sgd("pld", 4)),
    ),
    (
        "docs/log.md",
        "Under each of four optimizers DIST is ahead of PLD by {} points and KD by {}; the paper has PLD ahead by "
        "{:.3f} and {:.2f}.",
        lambda: (
            spread([best("dist", each) - best("pld", each) for each in OPTIMIZERS]),
            spread([best("kd", each) - best("pld", each) for each in OPTIMIZERS]),
            *(
                statistics.fmean(round(line[2] - line[at], 2) for line in published("table9")["rows"].values())
                for at in (0, 1)
            ),
        ),
    ),
    (
        "docs/log.md",
        "PLD is best at temperature 2 ({:.2f} %; {:.2f} at the paper's 1)",
        lambda: (ablation("pld", temperature=2.0), best("pld")),
    ),
    (
        "docs/log.md",
        "gain everything here: DIST {:.1f}, KD {:.1f}, PLD {:.1f}.",
        lambda: tuple(best(method, standardize="both") - best(method) for method in ("dist", "kd", "pld")),
    ),
    (
        "docs/log.md",
        "(PLD {:.1f} and {:.1f} % against {:.1f})",
        lambda: tuple(best("pld", each) for each in ("adamw", "adabelief", "lamb")),
    ),
    (
        "docs/log.md",
        "PLD's student ends at {:.2f} %, as every method does that trusts the teacher alone (KD {:.2f}, DIST {:.2f}), "
        "and cross-entropy alone at {:.2f}.",
        lambda: tuple(quality(row, POOR) for row in ("pld", "kd", "dist", "ce")),
    ),
    (
        "docs/log.md",
        "PLD beside cross-entropy {:.2f}, with a floor {:.2f}, decoupled {:.2f}. With a teacher at 67 % these have "
        "{:.2f}, {:.2f} and {:.2f}, PLD {:.2f}; with one at 87 % all are level: {:.2f}, {:.2f} and {:.2f}, PLD "
        "{:.2f} and DIST {:.2f}.",
        lambda: (
            *(quality(row, POOR) for row in MENDED),
            *(quality(row, FAIR) for row in (*MENDED, "pld")),
            *(quality(row, GOOD) for row in (*MENDED, "pld", "dist")),
        ),
    ),
    (
        "docs/log.md",
        "a teacher at {:.2f} %, four epochs, three seeds): {:.2f} % against {:.2f}. PLD has {:.2f}, plkl {:.2f}, CE + "
        "PLD {:.2f}, decoupled PLD {:.2f}, DKD {:.2f} and cross-entropy {:.2f};",
        lambda: (
            one("cifar100-small/teachers/*"),
            *(small(row) for row in ("dist", "kd", "pld", "plkl", "ce+pld", "decoupled-pld", "dkd", "ce")),
        ),
    ),
    (
        "docs/log.md",
        "at temperature 4 and scale 1, has {:.2f} % of the held-out images right, at temperature 1 {:.2f}, with four "
        "times the loss {:.2f}, with sixteen times {:.2f}:",
        lambda: tuple(
            one(f"cifar100-small/cells/*/pld-{setting}-seed0-*", "holdout_last")
            for setting in ("temperature4-scale1", "temperature1-scale1", "temperature1-scale4", "temperature1-scale16")
        ),
    ),
    (
        "docs/log.md",
        "{} times eager KD's time where the Intel machine had {},",
        lambda: (pld_over_kd("AMD EPYC", "AVX512, bf16"), pld_over_kd("Intel(R) Xeon(R) Processor", "")),
    ),
    ("docs/log.md", "reaches AP50 {:.0f} on them", lambda: (one("coco-overfit*", "AP50"),)),
    (
        "docs/log.md",
        "AP {:.2f} ± {:.2f} beside {:.2f} ± {:.2f} undistilled and {:.2f} ± {:.2f} for DKD.",
        lambda: (*detection("pld"), *detection("ce"), *detection("dkd")),
    ),
    ("docs/log.md", "both methods are {} points of AP50 ahead", lambda: (first_lead(),)),
    (
        "docs/log.md",
        "from {:.2f} % at none to {:.2f} at 0.9; the paper's rises from {:.2f} to {:.2f} at 0.1",
        lambda: (
            ablation("dist", task=0.0, beta=0.5),
            ablation("dist", task=0.9, beta=0.05),
            DIST[0.0],
            DIST[0.1],
        ),
    ),
]


def prose(document: str) -> str:
    """A document's sentences on one line: no tables, no code, nothing that is written from the records."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", " ", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", " ", text, flags=re.DOTALL)
    return " ".join(line.strip() for line in text.splitlines() if not line.startswith("|"))


@pytest.mark.parametrize(("document", "words", "figures"), CLAIMS, ids=[claim[1][:50] for claim in CLAIMS])
def test_a_claim_has_the_figures_of_the_records(document, words, figures):
    text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert words.format(*figures()) in text


# Decimals that measure nothing: settings, versions, licences, and what a program prints in an example.
SETTINGS = re.compile(
    r"Sections? \d+(\.\d+)+|SGD 0\.05|momentum 0\.9|rate 0\.01|weight decay 0\.05|IoU 0\.5"
    r"|Python 3\.10|Apache-2\.0|0\.004|0\.95"
)


@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_no_sentence_has_a_figure_that_nothing_computes(document):
    text = prose(document)
    for place, words, figures in CLAIMS:
        if place == document:
            text = text.replace(words.format(*figures()), " ")
    left = re.findall(r".{0,40}\d+\.\d+.{0,20}", SETTINGS.sub(" ", re.sub(r"`[^`]*`", " ", text)))
    assert not left


def test_benchmarks_name_the_kind_of_cpu_or_leave_it_empty():
    for path in (ROOT / "benchmarks").glob("*.csv"):
        with path.open(newline="") as file:
            assert all("cpu_capability" in line for line in csv.DictReader(file)), path.name
