"""Rows that are run together, one file a published table, and the demo.

`STUDIES` are those that are tables of runs; `READ_FROM` names tables without runs of their own, and whose they read.
"""

from __future__ import annotations

from pldistill.specs import unknown
from pldistill.studies import small
from pldistill.studies.cifar import CIFAR100_SGD, TABLE1
from pldistill.studies.coco import TABLE7
from pldistill.studies.imagenet_tables import (
    TABLE2,
    TABLE3,
    TABLE4,
    TABLE5,
    TABLE6,
    TABLE8,
    TABLE9,
    TABLE10,
    TABLE11,
    TABLE12,
)
from pldistill.studies.search import Search
from pldistill.studies.study import Study

_ALL = (TABLE1, CIFAR100_SGD, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6, TABLE7, TABLE8, TABLE9, TABLE10, TABLE11, TABLE12)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
SEARCHES: dict[str, Search] = {search.name: search for search in (small.CIFAR100, small.TEACHER_QUALITY)}
# Drawn, not run: `pldistill.studies.figures`.
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
