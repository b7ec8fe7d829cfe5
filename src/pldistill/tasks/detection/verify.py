"""Every image file of a split is looked at before it is used: can it be read, and has it the size of its record?"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pldistill.data.dataset import first_few
from pldistill.data.images import check_header, open_image
from pldistill.tasks.detection.dataset import StoredBoxes

_CHUNK = 64
_MANY = 5_000  # from here on the check takes long enough for a progress bar


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
    bad: dict[int, str] = {}
    wrong: dict[int, str] = {}
    size_of: Callable[[str], tuple[int, int]]
    if decode:
        size_of = lambda path: open_image(path, exif=split.exif).size  # noqa: E731
    else:
        size_of = lambda path: check_header(path, exif=split.exif)  # noqa: E731

    def look(places: range) -> None:
        for place in places:
            try:
                found = split.wrong_size(place, size_of(split.paths[place]))
            except ValueError as error:
                bad[place] = str(error)
            else:
                if found is not None:
                    wrong[place] = f"{split.names[place]}: {found}"

    total = len(split)
    chunks = [range(first, min(first + _CHUNK, total)) for first in range(0, total, _CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        done = pool.map(look, chunks)
        for _ in track(done, "Checking images", len(chunks), console=Console(stderr=True), disable=total < _MANY):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all files
    return dict(sorted(bad.items())), dict(sorted(wrong.items()))
