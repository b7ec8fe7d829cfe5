"""The sources by name, and the text that opens one: `glyphs:train=10000,seed=1`, `cifar100:PATH,validation=5000`.

The names are data: what a source needs is imported when it is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pldistill.specs import split_spec, unknown

if TYPE_CHECKING:
    from pldistill.data.dataset import Dataset, LazySplit

Opened = TypeVar("Opened")

LARGE_SIZE = 224  # pixels of a side at which photographs are seen
ON_BAD_IMAGE = ("stop", "skip")


_INSTEAD = "images in an order of its own, which cannot be replayed; expected hfds/NAME, wds/PATH or folder:PATH"
NOT_REPLAYABLE: Mapping[str, str] = {
    "tfds": f"tfds: timm's reader of TensorFlow Datasets streams {_INSTEAD}",
    "hfids": f"hfids: timm's reader of streamed Hugging Face datasets gives {_INSTEAD}",
}


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
        spec: the text as it was written.
        path: where the data is; empty for a source that takes no path.
        options: those of the source's own options that were given.
        image_size: the side in pixels that models see; None is the source's own.
        download: fetch what is missing.
        evaluation: only the images that score a model are wanted; the training split may be empty.
        exif: turn the images of files as their EXIF orientation says.
        on_bad_image: stop at images that cannot be read, or skip them.
    """

    spec: str
    path: Path
    options: dict[str, int]
    image_size: int | None
    download: bool
    evaluation: bool = False
    exif: bool = True
    on_bad_image: str = "stop"


class Sizes(NamedTuple):
    """What a source holds that is the same wherever it lies.

    Attributes:
        train: training images.
        val: validation images.
        classes: how many classes they are of.
        image_size: the side in pixels that models see, in detection the short one.
    """

    train: int
    val: int
    classes: int
    image_size: int


@dataclass(frozen=True)
class Source(Generic[Opened]):
    """One kind of data, which opens as a `Dataset` or as `BoxData`.

    Attributes:
        grammar: how its spec is written.
        description: one line for `pldistill list data`.
        open: a request to the whole of it.
        has_path: whether a path follows the colon.
        options: numbers that decide what there is.
        parts: numbers that divide what there is; see `pldistill.data.dataset`.
        sizes: what it holds, None where only the files tell.
    """

    grammar: str
    description: str
    open: Callable[[Request], Opened]
    has_path: bool = True
    options: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("train", "validation")
    sizes: Sizes | None = None


def open_data(
    spec: str,
    *,
    image_size: int | None = None,
    download: bool = False,
    evaluation: bool = False,
    exif: bool = True,
    on_bad_image: str = "stop",
) -> Dataset:
    """The data set that `spec` names: `NAME`, `NAME:PATH`, either with `key=NUMBER,...` behind it; see `SOURCES`.

    `train=N` keeps N of the training images and `validation=N` holds N out, as many of each class; of glyphs `train`
    is how many are drawn. `image_size` is the side in pixels that models see; None is the source's own. `download`
    fetches what is missing. For `evaluation` a source of files needs no training part; its training split is then
    empty, and its parts are not taken.

    Every image of a file is looked at here, once, before it is used: those of `folder:` are decoded, of other sources
    the headers are read. `on_bad_image` skip decodes the images of every source, and leaves out those that cannot be
    read, which `Dataset.skipped` names. With `exif` images are turned as their EXIF orientation says.

    Raises:
        ValueError: an unknown name or option, a path that is missing or holds something else, damaged files, a part
            that is too small or larger than what there is.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image: expected {' or '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")
    name, _, _ = split_spec(spec)
    if name in NOT_REPLAYABLE:
        raise ValueError(NOT_REPLAYABLE[name])
    if name not in SOURCES:
        raise ValueError(unknown("data", name, SOURCES))
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, got {image_size}")
    from pldistill.data.dataset import divide

    source = SOURCES[name]
    path, numbers = read_spec(spec, source)
    options, parts = ({key: numbers[key] for key in keys if key in numbers} for keys in (source.options, source.parts))
    data = source.open(Request(spec, path, options, image_size, download, evaluation, exif, on_bad_image))
    return data if evaluation else divide(data, **parts)


def read_spec(spec: str, source: Source) -> tuple[Path, dict[str, int]]:
    """The path and the options of a spec that begins with this source's name.

    Raises:
        ValueError: no path where there must be one, an unknown option or one that is no number.
    """
    known = (*source.options, *source.parts)
    if not source.has_path:
        name, colon, rest = spec.partition(":")
        return Path(), _numbers(name, rest.split(",") if colon else [], known)
    name, text, options = split_spec(spec, known)
    if not text:
        raise ValueError(f"{name}: expected {source.grammar.partition('[')[0]}, got no path")
    path = Path(text).expanduser()
    tail = re.search(r",(\w+)=([^,/]*)$", text)
    if tail and (tail[1] in known or tail[2].isdecimal()) and not path.exists():
        _numbers(name, [tail[0][1:]], known)  # says what is wrong with it
    return path, _numbers(name, options, known)


def _numbers(name: str, parts: Iterable[str], known: tuple[str, ...]) -> dict[str, int]:
    """`key=NUMBER` parts as whole numbers."""
    numbers: dict[str, int] = {}
    for part in parts:
        option, _, value = part.partition("=")
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
        if not (value.isascii() and value.isdecimal()) or option in numbers:
            raise ValueError(f"{name}: expected {option}=NUMBER once, got {part!r}")
        numbers[option] = int(value)
    return numbers


def _open_glyphs(request: Request) -> Dataset:
    from pldistill.data import embedded
    from pldistill.data.dataset import Dataset

    train, val = embedded.glyphs(**request.options)
    return Dataset(
        spec=request.spec,
        classes=embedded.CLASSES,
        mean=embedded.GLYPHS_MEAN,
        std=embedded.GLYPHS_STD,
        image_size=request.image_size or embedded.GLYPHS_SIZE,
        hflip=False,
        train=train,
        val=val,
    )


def _open_digits(request: Request) -> Dataset:
    from pldistill.data import embedded
    from pldistill.data.dataset import Dataset

    train, val = embedded.digits()
    return Dataset(
        spec=request.spec,
        classes=tuple("0123456789"),
        mean=embedded.DIGITS_MEAN,
        std=embedded.DIGITS_STD,
        image_size=request.image_size or embedded.DIGITS_SIZE,
        hflip=False,
        train=train,
        val=val,
    )


def _open_cifar(name: str, request: Request) -> Dataset:
    from pldistill.data import cifar as cifars
    from pldistill.data.dataset import Dataset

    layout: cifars.Layout = getattr(cifars, name)
    classes, train, val = cifars.cifar(layout, request.path, download=request.download)
    return Dataset(
        spec=request.spec,
        classes=classes,
        mean=layout.mean,
        std=layout.std,
        image_size=request.image_size or 32,
        hflip=True,
        train=train,
        val=val,
    )


def _open_folder(request: Request) -> Dataset:
    """Images of any size, every one of which is decoded once: seen at theirs if all are alike and small, else 224."""
    from pldistill.data.folder import folder

    classes, train, val, ignored = folder(request.path, evaluation=request.evaluation)
    return replace(_photographs(request, classes, train, val, decode=True), ignored=ignored)


def _open_large(module: str, name: str, request: Request) -> Dataset:
    """A source of photographs of any size, seen at 224 pixels.

    They are too many to be decoded beforehand, unless bad ones are to be skipped: their headers are read.
    """
    read: Callable[..., tuple[tuple[str, ...], LazySplit, LazySplit]]
    read = getattr(import_module(f"pldistill.data.{module}"), name)
    classes, train, val = read(request.path, evaluation=request.evaluation)
    data = _photographs(request, classes, train, val, decode=request.on_bad_image == "skip")
    return replace(data, image_size=request.image_size or LARGE_SIZE)


def _photographs(
    request: Request, classes: tuple[str, ...], train: LazySplit, val: LazySplit, *, decode: bool
) -> Dataset:
    from pldistill.data.augment import SMALL
    from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
    from pldistill.data.verify import verify, without_bad

    train.exif = val.exif = request.exif
    verified = {name: (split, verify(split, decode=decode)) for name, split in (("train", train), ("val", val))}
    good = without_bad(split_spec(request.spec)[0], verified, request.on_bad_image)
    sizes = {found.size for split, found in verified.values() if len(split)}
    size = sizes.pop() if len(sizes) == 1 else None
    small = size is not None and size[0] == size[1] <= SMALL
    return Dataset(
        spec=request.spec,
        classes=classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=request.image_size or (size[0] if size is not None and small else LARGE_SIZE),
        hflip=True,
        train=good["train"],
        val=good["val"],
        skipped={name: tuple(found.bad.values()) for name, (_, found) in verified.items() if found.bad},
    )


SOURCES: Mapping[str, Source[Dataset]] = MappingProxyType(
    {
        "glyphs": Source(
            "glyphs[:train=20000,val=4000,seed=0,validation=N]",
            "100 characters in 14 typefaces, 32 x 32, drawn here in seconds; no download",
            _open_glyphs,
            has_path=False,
            options=("train", "val", "seed"),
            parts=("validation",),
        ),
        "digits": Source(
            "digits[:validation=N]",
            "scikit-learn's 1,797 real handwritten digits, 10 classes, enlarged to 32 x 32",
            _open_digits,
            has_path=False,
            parts=("validation",),
        ),
        "cifar100": Source(
            "cifar100:PATH[,train=N,validation=N]",
            "CIFAR-100 (50,000 + 10,000, 32 x 32): its official files",
            partial(_open_cifar, "CIFAR100"),
            sizes=Sizes(train=50_000, val=10_000, classes=100, image_size=32),
        ),
        "cifar10": Source(
            "cifar10:PATH[,train=N,validation=N]",
            "CIFAR-10 (50,000 + 10,000, 32 x 32): its official files",
            partial(_open_cifar, "CIFAR10"),
            sizes=Sizes(train=50_000, val=10_000, classes=10, image_size=32),
        ),
        "folder": Source(
            "folder:PATH[,train=N,validation=N]",
            "your own images: train/ and val/ (or valid/, test/), a folder for each class",
            _open_folder,
        ),
        "imagenet": Source(
            "imagenet:PATH[,train=N,validation=N]",
            "ImageNet-1k at 224 x 224: train/ and val/, a folder for each of the 1,000 synsets",
            partial(_open_large, "folder", "imagenet"),
            sizes=Sizes(train=1_281_167, val=50_000, classes=1_000, image_size=224),
        ),
        "hfds": Source(
            "hfds/NAME[,train=N,validation=N]",
            "Hugging Face `datasets` by timm's reader at 224 x 224: a Hub name or a folder",
            partial(_open_large, "huggingface", "hfds"),
        ),
        "wds": Source(
            "wds/PATH[,train=N,validation=N]",
            "webdataset's tar shards at 224 x 224, *train*.tar and *val*.tar, read at random",
            partial(_open_large, "webdataset", "wds"),
        ),
    }
)
