"""Every image file of a split is looked at before it is used: can it be read, and has it the size of its record?"""

from __future__ import annotations

from pathlib import Path

from pldistill.data.dataset import Encoded, first_few
from pldistill.data.verify import over_all, size_of
from pldistill.tasks.detection.dataset import StoredBoxes


def verified(split: StoredBoxes, file: Path, on_bad_image: str) -> tuple[StoredBoxes, tuple[str, ...]]:
    """The split, and what is wrong with each image that is left out of it, by its annotations' `file`.

    With `stop` the header of every image is read, by as many threads as there are cores; with `skip` every image is
    decoded, and those that cannot be read are left out. A wrong size is a wrong record, and refused with both.

    Raises:
        ValueError: for images of another size than their record's; with `stop` for images that cannot be read; for a
            split of which none can be.
    """
    bad, wrong = _look(split, decode=on_bad_image == "skip")
    total = len(split)
    if bad and on_bad_image == "stop":
        raise ValueError(
            f"coco: {len(bad)} of {total} images of {file} are bad: {first_few([*bad.values()])}; "
            "on_bad_image=skip leaves them out"
        )
    if wrong:
        raise ValueError(
            f"coco: {len(wrong)} of {total} images of {file} have another size than their record: "
            f"{first_few([*wrong.values()])}"
        )
    if not bad:
        return split, ()
    if len(bad) == total:
        raise ValueError(f"coco: none of the {total} images of {file} can be read: {first_few([*bad.values()])}")
    return split.subset([place for place in range(total) if place not in bad]), tuple(bad.values())


def _look(split: StoredBoxes, *, decode: bool) -> tuple[dict[int, str], dict[int, str]]:
    """By position: what is wrong with images that cannot be read, and with those of another size."""

    def look(places: range) -> tuple[dict[int, str], dict[int, str]]:
        bad: dict[int, str] = {}
        wrong: dict[int, str] = {}
        for place in places:
            image = Encoded(split.paths[place], exif=split.exif)
            try:
                found = split.wrong_size(place, size_of(image, decode=decode))
            except ValueError as error:
                bad[place] = str(error)
            else:
                if found is not None:
                    wrong[place] = f"{split.names[place]}: {found}"
        return bad, wrong

    bad: dict[int, str] = {}
    wrong: dict[int, str] = {}
    for unreadable, sized in over_all(len(split), look):
        bad |= unreadable
        wrong |= sized
    return bad, wrong
