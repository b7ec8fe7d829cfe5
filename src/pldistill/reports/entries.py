"""The cells of a study: runs over seeds, what they measured, and which of a method's variants is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pldistill.precision import of_record
from pldistill.recipe import completed
from pldistill.record import METRICS, RunRecord, last_of
from pldistill.reports.groups import differing, flatten
from pldistill.reports.layouts import Facts, Layout, Panels
from pldistill.reports.tables import Stat, stat
from pldistill.specs import data_label, unknown

# What the paper may give: what is measured after the last epoch, and Table 13's times.
_PUBLISHED = (*METRICS, "minutes")
# What the runs of one entry may differ in: the seed, and where the teacher and the results lie.
_FREE = {"seed", "teacher", "teacher_cache", "teacher_checkpoint", "out", "device", "workers", "resume", "download"}


@dataclass(frozen=True)
class Entry:
    """One cell of the table: a row (`kd`) in a column (a pair, `resnet56-resnet20`), its runs over seeds.

    `records` holds the runs that exist, finished or not, of `planned` seeds; `failures` a reason for each seed that
    failed; `published` the paper's mean and deviation by metric (`top1`, in percent; `minutes`), empty where it has
    none. A `variant` (`scale 4`) stands beside the default.
    """

    row: str
    column: str
    records: tuple[RunRecord, ...]
    planned: int
    failures: tuple[str, ...] = ()
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict, hash=False)
    variant: str = ""

    @property
    def name(self) -> str:
        """The row, with the variant where it is not the default."""
        return f"{self.row}, {self.variant}" if self.variant else self.row

    def paper(self, metric: str) -> Stat | None:
        """The paper's figure, None where it has none."""
        return Stat(*self.published[metric], 0) if metric in self.published else None

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that came to their end: all figures are theirs."""
        return [record for record in self.records if record.finished]

    @property
    def reasons(self) -> list[str]:
        """Each reason of a failure once, on one line."""
        return list(dict.fromkeys(" ".join(reason.split()) for reason in self.failures))


@dataclass(frozen=True)
class Comparison:
    """All entries of a study, in the order in which rows and columns are shown.

    `teachers` gives each column's teacher, None where it has no run yet. `label` names a protocol that is not the
    published one (`short: 10 epochs`); then it stands above the tables and its `mark` at every measured figure. `notes`
    are said under the tables. `layout` says how the entries lie; `facts` of a column go before what its records say.
    Raises ValueError for no entry, one that stands twice, or a published figure of no known metric.
    """

    title: str
    entries: tuple[Entry, ...]
    teachers: Mapping[str, RunRecord | None]
    label: str
    protocol: str
    published_source: str
    notes: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Panels)
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """The label up to its colon, `short` say: what headers hold."""
        return self.label.partition(":")[0]

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("entries: expected at least one, got none")
        places = [(each.column, each.name) for each in self.entries]
        twice = [f"{column}: {name}" for column, name in dict.fromkeys(places) if places.count((column, name)) > 1]
        if twice:
            raise ValueError(f"entries: expected each row, column and variant once, got several of {'; '.join(twice)}")
        for name in (name for each in self.entries for name in each.published):
            if name not in _PUBLISHED:
                raise ValueError(unknown("published metric", name, _PUBLISHED))


def measured(entry: Entry) -> tuple[Stat | None, Stat | None]:
    """Top-1 in percent over the finished runs: after the last epoch, and at the best one. None where there is none.

    Raises ValueError where the finished runs repeat a seed or differ in more than the seed.
    """
    found = results(entry)
    return stat([each.get("top1_last") for each in found]), stat([each.get("top1_best") for each in found])


def figure(entry: Entry, metric: str) -> Stat | None:
    """A metric after the last epoch over the finished runs; None unless there are some and every one has it.

    Raises ValueError where the finished runs repeat a seed or differ in more than the seed.
    """
    return stat([last_of(each, metric) for each in results(entry)])


def held_out(entry: Entry) -> Stat | None:
    """Top-1 in percent on the held-out training images after the last epoch, None where none were held out."""
    return stat([each.get("holdout_last") for each in results(entry)])


def seconds(entry: Entry) -> float | None:
    """The mean of whole runs, None where there is none or they were made on different machines."""
    environments = [record.read_environment() for record in entry.finished]
    if len({(env.get("device_name"), env.get("world_size")) for env in environments}) != 1:
        return None
    over_seeds = stat([each.get("seconds") for each in results(entry)])
    return over_seeds.mean if over_seeds else None


def results(entry: Entry) -> list[dict[str, Any]]:
    """The results of the finished runs, once it is sure that they may be averaged."""
    recipes = [completed(record.read_recipe()) for record in entry.finished]
    seeds = [recipe.get("seed") for recipe in recipes]
    where = f"entry {entry.name} of {entry.column}: expected"
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{where} one run a seed, got seeds {seeds}")
    precisions = [
        of_record(recipe, record.read_environment()) for recipe, record in zip(recipes, entry.finished, strict=True)
    ]
    settings = [
        flatten(recipe | {"data": data_label(recipe["data"]), "amp": amp})
        for recipe, amp in zip(recipes, precisions, strict=True)
    ]
    keys = [key for key in differing(settings) if key not in _FREE]
    if keys:
        raise ValueError(f"{where} runs that differ in the seed alone, got others in {', '.join(keys)}")
    return [result for record in entry.finished if (result := record.read_result()) is not None]


def choose(candidates: Sequence[Entry]) -> Entry | None:
    """Of one row's default and variants, the one with the highest mean on held-out images: the test has no say.

    None as long as one of them has neither a finished run nor a failure. A lone variant of runs that held nothing out
    was chosen before. Raises ValueError for several such variants.
    """
    if any(not each.finished and not each.failures for each in candidates):
        return None
    done = [each for each in candidates if each.finished]
    scores = {each: score.mean for each in done if (score := held_out(each))}
    if len(scores) == len(done):
        return max(done, key=lambda each: scores[each], default=None)
    variants = [each for each in candidates if each.variant]
    if len(variants) > 1:
        names = ", ".join(each.variant for each in variants)
        where = f"entries {variants[0].row} of {variants[0].column}"
        raise ValueError(f"{where}: expected runs with held-out images to choose among {names} by, got none held out")
    return variants[0] if variants else None
