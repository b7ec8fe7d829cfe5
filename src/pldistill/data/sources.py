"""The sources by name, and the text that opens one: `glyphs`, `glyphs:train=10000,seed=1`, `cifar100:PATH`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pldistill.data import cifar as cifars
from pldistill.data import digits as digits_source
from pldistill.data import folder as folders
from pldistill.data import glyphs as glyphs_source
from pldistill.data.splits import IMAGENET_MEAN, IMAGENET_STD, Dataset


@dataclass(frozen=True)
class Source:
    """One kind of data.

    Attributes:
        grammar: how its spec is written.
        description: one line for `pldistill list data`.
        open: (spec, what follows the colon or None, image size or None, download) to a Dataset.
    """

    grammar: str
    description: str
    open: Callable[[str, str | None, int | None, bool], Dataset]


def open_data(spec: str, *, image_size: int | None = None, download: bool = False) -> Dataset:
    """The data set that `spec` names: `NAME`, `NAME:PATH` or `NAME:key=value,...`; see `SOURCES`.

    `image_size` is the side in pixels that nets see; None is the source's own. `download` fetches what is missing.

    Raises:
        ValueError: an unknown name or option, a path that is missing or holds something else, damaged files.
    """
    name, colon, rest = spec.partition(":")
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"data: expected one of {', '.join(SOURCES)}, got {name!r}{hint}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, got {image_size}")
    return SOURCES[name].open(spec, rest if colon else None, image_size, download)


def _options(name: str, text: str | None, known: tuple[str, ...]) -> dict[str, int]:
    """`key=value,...` as whole numbers."""
    options: dict[str, int] = {}
    for part in [] if text is None else text.split(","):
        option, equals, value = part.partition("=")
        if option not in known:
            takes = f"the options {', '.join(known)}" if known else "no options"
            raise ValueError(f"{name}: takes {takes}, got {part!r}")
        if not equals or not value.isdecimal() or option in options:
            raise ValueError(f"{name}: expected {option}=NUMBER once, got {part!r}")
        options[option] = int(value)
    return options


def _path(name: str, text: str | None) -> Path:
    if not text:
        raise ValueError(f"{name}: expected {name}:PATH, got no path")
    return Path(text).expanduser()


def _open_glyphs(spec: str, rest: str | None, image_size: int | None, download: bool) -> Dataset:
    train, val = glyphs_source.glyphs(**_options("glyphs", rest, ("train", "val", "seed")))
    return Dataset(
        spec=spec,
        classes=glyphs_source.CLASSES,
        mean=glyphs_source.MEAN,
        std=glyphs_source.STD,
        image_size=image_size or glyphs_source.SIZE,
        hflip=False,
        train=train,
        val=val,
    )


def _open_digits(spec: str, rest: str | None, image_size: int | None, download: bool) -> Dataset:
    _options("digits", rest, ())
    train, val = digits_source.digits()
    return Dataset(
        spec=spec,
        classes=tuple("0123456789"),
        mean=digits_source.MEAN,
        std=digits_source.STD,
        image_size=image_size or digits_source.SIZE,
        hflip=False,
        train=train,
        val=val,
    )


def _open_cifar(layout: cifars.Layout) -> Callable[[str, str | None, int | None, bool], Dataset]:
    def opened(spec: str, rest: str | None, image_size: int | None, download: bool) -> Dataset:
        classes, train, val = cifars.cifar(layout, _path(layout.name, rest), download=download)
        return Dataset(
            spec=spec,
            classes=classes,
            mean=layout.mean,
            std=layout.std,
            image_size=image_size or 32,
            hflip=True,
            train=train,
            val=val,
        )

    return opened


def _open_folder(spec: str, rest: str | None, image_size: int | None, download: bool) -> Dataset:
    classes, train, val, side = folders.folder(_path("folder", rest))
    return Dataset(
        spec=spec,
        classes=classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size or side,
        hflip=True,
        train=train,
        val=val,
    )


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "glyphs": Source(
            "glyphs[:train=20000,val=4000,seed=0]",
            "100 characters in 14 typefaces, 32 x 32, drawn here in seconds; no download",
            _open_glyphs,
        ),
        "digits": Source(
            "digits", "scikit-learn's 1,797 real handwritten digits, 10 classes, enlarged to 32 x 32", _open_digits
        ),
        "cifar100": Source(
            "cifar100:PATH", "CIFAR-100 (50,000 + 10,000, 32 x 32): its official files", _open_cifar(cifars.CIFAR100)
        ),
        "cifar10": Source(
            "cifar10:PATH", "CIFAR-10 (50,000 + 10,000, 32 x 32): its official files", _open_cifar(cifars.CIFAR10)
        ),
        "folder": Source(
            "folder:PATH", "your own pictures: train/ and val/ (or test/), a folder for each class", _open_folder
        ),
    }
)
