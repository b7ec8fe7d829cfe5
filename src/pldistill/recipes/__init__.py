"""Rows that are run together, one file a published table, and the demo.

`STUDIES` are those that are tables of runs; `READ_FROM` names tables without runs of their own, and whose they read.
"""

from __future__ import annotations

from pldistill.recipes import (
    cifar100_sgd,
    small,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
    table10,
    table11,
    table12,
)
from pldistill.search import Search
from pldistill.specs import unknown
from pldistill.study import Study

_FILES = (
    table1,
    cifar100_sgd,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
    table10,
    table11,
    table12,
)
STUDIES: dict[str, Study] = {file.STUDY.name: file.STUDY for file in _FILES}
SEARCHES: dict[str, Search] = {search.name: search for search in (small.CIFAR100, small.TEACHER_QUALITY)}
# Drawn, not run: `pldistill.drawings`.
FIGURES = ("figure1a", "figure1b", "figure2", "figure3", "figure4", "all")
READ_FROM: dict[str, str] = {"table13": "table1"}


def find_study(name: str) -> Study:
    """Give the study of this name, or the one whose runs it reads.

    Raises:
        ValueError: naming the known ones.
    """
    if name not in STUDIES and name not in READ_FROM:
        raise ValueError(unknown("study", name, [*STUDIES, *READ_FROM, *SEARCHES, *FIGURES]))
    return STUDIES[READ_FROM.get(name, name)]
