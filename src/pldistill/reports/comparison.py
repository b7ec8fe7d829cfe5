"""A study's runs beside what was published, and how they lie in tables: data alone, without pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from pldistill.record import METRICS, RunRecord
from pldistill.specs import unknown
from pldistill.tasks.spec import Metric

# What a table may have of a run: its metrics after the last epoch, and Table 13's time.
TABLE_METRICS: Mapping[str, Metric] = {
    **METRICS,
    "minutes": Metric(
        "minutes",
        "of a whole run: training and validation of all epochs, images included",
        lower=True,
        unit="min",
        in_result="minutes",
    ),
}


@dataclass(frozen=True)
class Facts:
    """What is known of a column's models before any figure of a student; None where it is not.

    Parameters are counts, top-1 is in percent. The `paper_` ones are as the paper prints them.
    """

    student_parameters: int | None = None
    teacher_parameters: int | None = None
    teacher_top1: float | None = None
    paper_teacher_top1: float | None = None
    paper_student_parameters: int | None = None
    paper_teacher_parameters: int | None = None


FACTS = tuple(fact.name for fact in fields(Facts) if not fact.name.startswith("paper_"))


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """How entries lie in tables.

    Attributes:
        through: of `METRICS`, drawn epoch by epoch on the page.

    Raises ValueError for a name that is not of those that an attribute may hold, or no metric.
    """

    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("metric", self.through, METRICS)


@dataclass(frozen=True)
class Panels(TableLayout):
    """A table for each column (a pair of models), in it a line a row (a method): the paper's, last, best and n."""


@dataclass(frozen=True)
class Pairs(TableLayout):
    """A line for each column (a pair of models, a number of epochs, an optimizer), the rows (methods) across.

    Attributes:
        line: what a line is, the title of the first column.
        metrics: a table each, of `TABLE_METRICS`.
        facts: of `FACTS`, as columns of the first table.
        differences: (row, row): the first less the second, as columns.
        mean: whether a last line holds the means of the differences.
        paper_means: (row, row) to the mean that the paper states for `metrics[0]`; without one, its lines' mean.
        steps: (column, column): the first less the second, as lines.
    """

    line: str = "pair"
    metrics: tuple[str, ...] = ("top1",)
    facts: tuple[str, ...] = ()
    differences: tuple[tuple[str, str], ...] = ()
    mean: bool = False
    paper_means: Mapping[tuple[str, str], float] = field(default_factory=dict, hash=False)
    steps: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("metric", self.metrics, TABLE_METRICS, least=1)
        _check("fact", self.facts, FACTS)
        for difference in self.paper_means:
            if difference not in self.differences:
                raise ValueError(f"paper_means: expected pairs of rows from differences, got {difference!r}")


@dataclass(frozen=True)
class Variants(TableLayout):
    """A table for each column, in it a line for each row (a variant of a method), the metrics across.

    Attributes:
        metrics: of `TABLE_METRICS`.
        reference: a row; its figure of `metrics[0]` less every other row's stands as a column.
        differences: (row, row): the first less the second, of every metric, as lines.
        ranked: whether the best of a metric is bold.
    """

    metrics: tuple[str, ...] = ("top1", "top5")
    reference: str | None = None
    differences: tuple[tuple[str, str], ...] = ()
    ranked: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("metric", self.metrics, TABLE_METRICS, least=1)


@dataclass(frozen=True)
class Verdicts(TableLayout):
    """A table for each column, in it a line for each row at its best, with its paired difference to a reference.

    Attributes:
        reference: a row.
        chosen: (column, row) to the variant that was chosen; a row that is not there is still searched.
    """

    reference: str
    chosen: Mapping[tuple[str, str], str] = field(default_factory=dict, hash=False)


def _check(kind: str, names: tuple[str, ...], allowed: Iterable[str], least: int = 0) -> None:
    if len(names) < least:
        raise ValueError(f"{kind}s: expected some of {', '.join(allowed)}, got none")
    for name in names:
        if name not in allowed:
            raise ValueError(unknown(kind, name, list(allowed)))


@dataclass(frozen=True)
class Entry:
    """One cell of the table: a row (`kd`) in a column (a pair, `resnet56-resnet20`), its runs over seeds.

    `records` holds the runs that exist, finished or not, of `planned` seeds; `failures` a reason for each seed that
    failed; `published` the paper's mean and deviation by name of `TABLE_METRICS` (`top1`, in percent), empty where it
    has none. A `variant` (`scale 4`) stands beside the default.
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

    @property
    def finished(self) -> list[RunRecord]:
        """The runs that came to their end: all figures are theirs."""
        return [record for record in self.records if record.finished]

    @property
    def reasons(self) -> str:
        """Each reason of a failure once, on one line."""
        return "; ".join(dict.fromkeys(" ".join(reason.split()) for reason in self.failures))


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
    layout: TableLayout = field(default_factory=Panels)
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """The label up to its colon, `short` say: what headers hold."""
        return self.label.partition(":")[0]

    @property
    def columns(self) -> list[str]:
        """Each column once."""
        return list(dict.fromkeys(entry.column for entry in self.entries))

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("entries: expected at least one, got none")
        places = [(entry.column, entry.name) for entry in self.entries]
        twice = [f"{column}: {name}" for column, name in dict.fromkeys(places) if places.count((column, name)) > 1]
        if twice:
            raise ValueError(f"entries: expected each row, column and variant once, got several of {'; '.join(twice)}")
        for entry in self.entries:
            _check("published metric", tuple(entry.published), TABLE_METRICS)
