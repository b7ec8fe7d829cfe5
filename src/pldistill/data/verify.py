"""Every image of a split is looked at before the first step, and what was found is remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from pydantic import ConfigDict
from rich.console import Console
from rich.progress import track

from pldistill.data.dataset import Encoded, LazySplit, first_few
from pldistill.data.images import check_header, open_image
from pldistill.files import cache_folder, write_whole
from pldistill.json_files import Count, JsonFile, read_json

Images = TypeVar("Images", bound=LazySplit)
Found = TypeVar("Found")
_CHUNK = 64
_MANY = 5_000  # from here on the check takes long enough for a progress bar


class VerifiedFile(JsonFile):
    """What is remembered of a split in the cache folder."""

    model_config = ConfigDict(strict=False)

    images: Count
    size: tuple[Count, Count] | None
    bad: dict[int, str]


@dataclass(frozen=True)
class Verified:
    """What was found in a split.

    Attributes:
        size: width and height in pixels if all that can be read have the same, else None.
        bad: the position of each image that cannot be read, and what is wrong with it.
    """

    size: tuple[int, int] | None
    bad: Mapping[int, str]


def verify(split: LazySplit, *, decode: bool) -> Verified:
    """Look at every image: decode it whole, or read its header alone, which finds files that are empty or no images.

    Remembered until a file's path, size or time of change is another.
    """
    if not len(split):
        return Verified(None, {})
    record = cache_folder() / "folders" / f"{_fingerprint(split, decode)}.json"
    look = partial(_look, split, decode)
    with suppress(ValueError):  # what is not there or not sound is made anew
        known = read_json(record, VerifiedFile)
        if look(known.bad)[1] == known.bad:  # a disk that failed once may be well by now
            return Verified(known.size, known.bad)
    sizes: set[tuple[int, int]] = set()
    bad: dict[int, str] = {}
    for found, failed in over_all(len(split), look):
        sizes |= found
        bad |= failed
    verified = Verified(sizes.pop() if len(sizes) == 1 else None, bad)
    content = json.dumps({"images": len(split), "size": verified.size, "bad": bad})
    write_whole(record, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return verified


def over_all(count: int, look: Callable[[range], Found]) -> Iterator[Found]:
    """What `look` finds in stretches of the places from 0 to `count` - 1, in order; as many threads as cores look."""
    chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results, console = pool.map(look, chunks), Console(stderr=True)
        yield from track(results, "Checking images", len(chunks), console=console, disable=count < _MANY)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for a million files


def size_of(image: Encoded, *, decode: bool) -> tuple[int, int]:
    """Width and height of an image that is decoded whole, or as its header gives them.

    Raises:
        ValueError: it cannot be read.
    """
    return open_image(*image).size if decode else check_header(*image)


def without_bad(source: str, splits: Mapping[str, tuple[Images, Verified]], on_bad_image: str) -> dict[str, Images]:
    """The splits, by name, as they are, or with `skip` without the images that cannot be read; ids stay what they were.

    Raises:
        ValueError: for images that cannot be read, with `stop`; for a split of which no image is left, or a class of
            which none is left in it. The message begins with `source`.
    """
    bad = [why for _, verified in splits.values() for why in verified.bad.values()]
    if bad and on_bad_image == "stop":
        total = sum(len(split) for split, _ in splits.values())
        raise ValueError(
            f"{source}: {len(bad)} of {total} files are bad: {first_few(bad)}; on_bad_image=skip leaves them out"
        )
    return {name: _left(source, name, split, verified) for name, (split, verified) in splits.items()}


def _left(source: str, name: str, split: Images, verified: Verified) -> Images:
    if not verified.bad:
        return split
    good = torch.ones(len(split), dtype=torch.bool)
    good[list(verified.bad)] = False
    left = split.subset(good.nonzero()[:, 0])
    lost = set(split.labels.tolist()) - set(left.labels.tolist())
    if lost:
        raise ValueError(
            f"{source}: no image of {len(lost)} {'class' if len(lost) == 1 else 'classes'} of {name} can be read: "
            f"{first_few([*verified.bad.values()])}"
        )
    assert isinstance(left, type(split))
    return left


def _look(split: LazySplit, decode: bool, places: Iterable[int]) -> tuple[set[tuple[int, int]], dict[int, str]]:
    """The sizes of the images that can be read, and a sentence for each that cannot."""
    sizes: set[tuple[int, int]] = set()
    bad: dict[int, str] = {}
    for place in places:
        try:
            sizes.add(size_of(split.encoded(place), decode=decode))
        except ValueError as error:
            bad[place] = str(error)
    return sizes, bad


def _fingerprint(split: LazySplit, decode: bool) -> str:
    """A sum over what changes when one of the images does, and what the check was."""
    total = hashlib.sha256(f"decode={decode} exif={split.exif}\n".encode())
    for mark in split.stamps():
        total.update(mark)
    return total.hexdigest()
