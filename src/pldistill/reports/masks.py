"""What segmentation models say of the first validation images, from the overlays that runs leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from pldistill.record import RunRecord
from pldistill.reports.boxes import Sheet, jpeg
from pldistill.reports.runs import Group


def mask_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """A sheet for each image of each group's first run that left overlays; none where no run did.

    Raises:
        ValueError: for an overlay that cannot be read.
    """
    return [sheet for number, group in enumerate(groups, start=1) for sheet in _of(number, group)]


def _of(number: int, group: Group) -> Iterator[Sheet]:
    for run in group.runs:
        if files := RunRecord(run.folder).overlays():
            for file in files:
                panels = ["image", "ground truth", *(["teacher"] if group.teacher else []), group.run_name(run)]
                try:
                    with Image.open(file) as image:
                        content = jpeg(image.convert("RGB"))
                except (OSError, SyntaxError, ValueError) as error:
                    raise ValueError(f"{file}: cannot be read as an image ({error})") from error
                yield Sheet(f"masks-{number}-{file.stem}", f"{file.stem}: {', '.join(panels)}", content)
            return
