"""How a study's entries lie in tables: a table a column, a line a column, or a line a row. Data alone, no drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from pldistill.record import METRICS
from pldistill.specs import unknown


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


FACTS = tuple(each.name for each in fields(Facts) if not each.name.startswith("paper_"))


@dataclass(frozen=True)
class Panels:
    """A table for each column (a pair of models), in it a line a row (a method): last, best and n beside the paper's.

    Attributes:
        through: of `METRICS`, drawn epoch by epoch on the page.

    Raises ValueError for a name that is not of these.
    """

    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.through)


@dataclass(frozen=True)
class Pairs:
    """A line for each column (a pair of models, a number of epochs, an optimizer), the rows (methods) across.

    Attributes:
        line: what a line is, the title of the first column.
        metrics: a table each, of `METRICS`.
        facts: of `FACTS`, as columns of the first table.
        differences: (row, row): the first less the second, as columns.
        mean: whether a last line holds the means of the differences.
        paper_means: (row, row) to the mean that the paper states for `metrics[0]`; without one, its lines' mean.
        steps: (column, column): the first less the second, as lines.
        through: of `METRICS`, drawn epoch by epoch on the page.

    Raises ValueError for a name that is not of these, or no metric.
    """

    line: str = "pair"
    metrics: tuple[str, ...] = ("top1",)
    facts: tuple[str, ...] = ()
    differences: tuple[tuple[str, str], ...] = ()
    mean: bool = False
    paper_means: Mapping[tuple[str, str], float] = field(default_factory=dict, hash=False)
    steps: tuple[tuple[str, str], ...] = ()
    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check((*self.metrics, *self.through))
        _expect_some(self.metrics)
        for name in self.facts:
            if name not in FACTS:
                raise ValueError(unknown("fact", name, FACTS))
        for difference in self.paper_means:
            if difference not in self.differences:
                raise ValueError(f"paper_means: expected pairs of rows from differences, got {difference!r}")


@dataclass(frozen=True)
class Variants:
    """A table for each column, in it a line for each row (a variant of a method), the metrics across.

    Attributes:
        metrics: of `METRICS`.
        reference: a row; its figure of `metrics[0]` less every other row's stands as a column.
        differences: (row, row): the first less the second, of every metric, as lines.
        through: of `METRICS`, drawn epoch by epoch on the page.

    Raises ValueError for a name that is not of these, or no metric.
    """

    metrics: tuple[str, ...] = ("top1", "top5")
    reference: str | None = None
    differences: tuple[tuple[str, str], ...] = ()
    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check((*self.metrics, *self.through))
        _expect_some(self.metrics)


@dataclass(frozen=True)
class Verdicts:
    """A table for each column, in it a line for each row at its best, with its paired difference to a reference.

    Attributes:
        reference: a row.
        chosen: (column, row) to the variant that was chosen; a row that is not there is still searched.
        through: of `METRICS`, drawn epoch by epoch on the page.
    """

    reference: str
    chosen: Mapping[tuple[str, str], str] = field(default_factory=dict, hash=False)
    through: tuple[str, ...] = ()


Layout = Panels | Pairs | Variants | Verdicts


def _check(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))


def _expect_some(metrics: tuple[str, ...]) -> None:
    if not metrics:
        raise ValueError(f"metrics: expected some of {', '.join(METRICS)}, got none")
