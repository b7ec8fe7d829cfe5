"""What nets found in the same pictures, side by side: ground truth, teacher, students, from the runs' detections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pldistill.analysis.boxes import Panel, jpeg, side_by_side
from pldistill.analysis.groups import Group, Run
from pldistill.record import RunRecord


@dataclass(frozen=True)
class Sighting:
    """One picture with its panels: a name for a file, what is to be seen, a JPEG."""

    name: str
    caption: str
    content: bytes


@dataclass(frozen=True)
class _Seen:
    """A group's first run that left detections."""

    group: Group
    run: Run
    pictures: Mapping[str, Mapping[str, Any]]


def sightings(groups: Sequence[Group]) -> list[Sighting]:
    """For each set of data a sheet a picture: the truth, what each teacher found, then each group's first run.

    None where no run left detections. A teacher's own run has no panel where a student's run holds its answers.
    """
    found: dict[str, list[_Seen]] = {}
    for group in groups:
        if (seen := _seen(group)) is not None:
            found.setdefault(group.data, []).append(seen)
    return [sheet for number, seen in enumerate(found.values(), start=1) for sheet in _sheets(number, seen)]


def _seen(group: Group) -> _Seen | None:
    for run in group.runs:
        if (left := RunRecord(run.folder).read_detections()) is not None:
            return _Seen(group, run, {each["file"]: each for each in left["pictures"]})
    return None


def _sheets(number: int, seen: Sequence[_Seen]) -> Iterable[Sighting]:
    """A sheet for every picture that all of these runs saw."""
    for file in seen[0].pictures:
        if not all(file in each.pictures for each in seen):
            continue
        panels = [Panel("ground truth", seen[0].pictures[file]["truth"]), *_teachers(seen, file)]
        students = [each for each in seen if not (each.group.teaches and len(panels) > 1)]
        panels += [Panel(each.group.run_name(each.run), each.pictures[file]["student"]) for each in students]
        with Image.open(seen[0].run.folder / file) as picture:
            sheet = side_by_side(picture, panels)
        titles = ", ".join(panel.title for panel in panels)
        yield Sighting(f"{number}-{Path(file).stem}", f"{Path(file).name}: {titles}", jpeg(sheet))


def _teachers(seen: Sequence[_Seen], file: str) -> list[Panel]:
    """What each teacher found, once."""
    panels: dict[str, Panel] = {}
    for each in seen:
        if (boxes := each.pictures[file]["teacher"]) is not None:
            who = str(each.run.env.get("teacher_sha256") or each.group.teacher)
            panels.setdefault(who, Panel(f"teacher {each.group.teacher}", boxes))
    return list(panels.values())
