"""What models found in the same images, side by side: ground truth, teacher, students, from the runs' detections."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from pldistill.record import RunRecord
from pldistill.reports.plots import PALETTE, clean
from pldistill.reports.runs import Group, RecordedRun

# Detections below this score are not drawn; they are in the files all the same.
LEAST_SCORE = 0.5
_LEAST, _GAP, _ABREAST = 360, 10, 4
_DARK, _LIGHT = "#14171b", "#ffffff"


@dataclass(frozen=True)
class Panel:
    """A title and the boxes that are drawn under it.

    A box is a dict as in `detections.json`: `box` (left, top, right, bottom in pixels), `class`, and `score` of one
    that was found.
    """

    title: str
    boxes: Sequence[Mapping[str, Any]]


def draw_boxes(image: Image.Image, boxes: Sequence[Mapping[str, Any]], least: float = LEAST_SCORE) -> Image.Image:
    """The image, its short side no less than 360 pixels, with every box that has a score from `least`, or none.

    A class has its color, the lower scores lie below the higher.
    """
    factor = max(1.0, _LEAST / min(image.size))
    size = [round(side * factor) for side in image.size]
    drawn = image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    shown = [each for each in boxes if each.get("score", 1.0) >= least]
    for each in sorted(shown, key=lambda each: each.get("score", 1.0)):
        _draw(pen, drawn.size, [edge * factor for edge in each["box"]], each)
    return drawn


def side_by_side(image: Image.Image, panels: Sequence[Panel], least: float = LEAST_SCORE) -> Image.Image:
    """A panel's image beside the other's, four abreast, each under its title."""
    drawn = [draw_boxes(image, panel.boxes, least) for panel in panels]
    wide, high = drawn[0].size
    font, bar = _font(15), 26
    across = min(len(panels), _ABREAST)
    lines = -(-len(panels) // across)
    sheet = Image.new("RGB", (across * (wide + _GAP) - _GAP, lines * (high + bar + _GAP) - _GAP), _LIGHT)
    pen = ImageDraw.Draw(sheet)
    for place, (panel, with_boxes) in enumerate(zip(panels, drawn, strict=True)):
        left, top = place % across * (wide + _GAP), place // across * (high + bar + _GAP)
        pen.text((left, top + bar // 2), _fitted(clean(panel.title), font, wide), fill=_DARK, font=font, anchor="lm")
        sheet.paste(with_boxes, (left, top + bar))
    return sheet


def jpeg(image: Image.Image) -> bytes:
    """The image as a JPEG file: the same pixels give the same bytes."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, optimize=True)
    return out.getvalue()


def _draw(pen: ImageDraw.ImageDraw, size: tuple[int, int], box: Sequence[float], found: Mapping[str, Any]) -> None:
    left, top, right, bottom = box
    right, bottom = max(right, left), max(bottom, top)
    color = PALETTE[_look(found["class"])][1]
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=4)
    pen.rectangle((left, top, right, bottom), outline=color, width=2)
    font = _font(12)
    score = f" {found['score']:.2f}" if "score" in found else ""
    name = _fitted(clean(found["class"]), font, size[0] - 60) + score
    wide, high = font.getlength(name) + 6, 15
    at = min(max(left, 0), max(size[0] - wide, 0)), top - high if top >= high else top
    pen.rectangle((*at, at[0] + wide, at[1] + high), fill=color)
    pen.text((at[0] + 3, at[1] + high / 2), name, fill=_DARK, font=font, anchor="lm")


def _look(name: str) -> int:
    """A class's color, the same in every image of every run."""
    return sum(name.encode(errors="replace")) % len(PALETTE)


def _fitted(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, cut with an ellipsis where it is longer than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


@dataclass(frozen=True)
class Sheet:
    """One image with its panels: a name for a file, what is to be seen, a JPEG."""

    name: str
    caption: str
    content: bytes


@dataclass(frozen=True)
class _Seen:
    """A group's first run that left detections."""

    group: Group
    run: RecordedRun
    images: Mapping[str, Mapping[str, Any]]


def detection_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """For each set of data a sheet an image: the truth, what each teacher found, then each group's first run.

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
            return _Seen(group, run, {each["file"]: each for each in left["images"]})
    return None


def _sheets(number: int, seen: Sequence[_Seen]) -> Iterable[Sheet]:
    """A sheet for every image that all of these runs saw."""
    for place, file in enumerate(seen[0].images, start=1):
        if not all(file in each.images for each in seen):
            continue
        panels = [Panel("ground truth", seen[0].images[file]["truth"]), *_teachers(seen, file)]
        students = [each for each in seen if not (each.group.teaches and len(panels) > 1)]
        panels += [Panel(each.group.run_name(each.run), each.images[file]["student"]) for each in students]
        with Image.open(seen[0].run.folder / file) as image:
            sheet = side_by_side(image, panels)
        titles = ", ".join(panel.title for panel in panels)
        # Images of several folders may have one name, and the sheets are files of one folder.
        inside = Path(file).relative_to("images")
        yield Sheet(f"{number}-{place}-{inside.stem}", f"{inside.as_posix()}: {titles}", jpeg(sheet))


def _teachers(seen: Sequence[_Seen], file: str) -> list[Panel]:
    """What each teacher found, once."""
    panels: dict[str, Panel] = {}
    for each in seen:
        if (boxes := each.images[file]["teacher"]) is not None:
            who = str(each.run.env.get("teacher_sha256") or each.group.teacher)
            panels.setdefault(who, Panel(f"teacher {each.group.teacher}", boxes))
    return list(panels.values())
