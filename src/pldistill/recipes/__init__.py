"""Rows that are run together, one file a published table, and the demo. `STUDIES` are those that are tables of runs."""

from __future__ import annotations

from pldistill.recipes import cifar100_sgd, table1
from pldistill.study import Study
from pldistill.suggest import unknown

STUDIES: dict[str, Study] = {study.name: study for study in (table1.STUDY, cifar100_sgd.STUDY)}


def find_study(name: str) -> Study:
    """Give the study of this name.

    Raises:
        ValueError: naming the known ones.
    """
    if name not in STUDIES:
        raise ValueError(unknown("study", name, STUDIES))
    return STUDIES[name]
