"""The sources of images with masks by name, and the text that opens one: `masks:PATH,train=100`, `shapes:seed=1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pldistill.data.registry import ON_BAD_IMAGE, SOURCES, Request, Source, read_spec
from pldistill.specs import split_spec, unknown

if TYPE_CHECKING:
    from pldistill.tasks.segmentation.dataset import MaskData

SQUARE = 256  # pixels of a side where images are of several sizes and none is asked for


def open_masks(
    spec: str,
    *,
    image_size: int | None = None,
    evaluation: bool = False,
    exif: bool = True,
    on_bad_image: str = "stop",
) -> MaskData:
    """The images with masks that `spec` names; see `MASK_SOURCES`.

    `train=N` keeps N of the training images, evenly taken, of shapes it is how many are drawn; `validation=N` holds
    the last N out first. Images that are all of one size are seen as they are where `image_size` is their short side,
    or None. Others are resized to a short side of `image_size`, by default 256, and a square is cut from the center.
    For `evaluation` the validation part alone is read, and the training split is empty. `exif` applies the EXIF
    orientation of images; `on_bad_image` skip leaves out those that cannot be read, where stop refuses them.

    Raises:
        ValueError: an unknown name or option, what `masks` and `shapes` refuse, and more images than there are.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image: expected {' or '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")
    name, _, _ = split_spec(spec)
    if name in SOURCES:
        raise ValueError(f"data: {name} has labels and no masks: it is for classification")
    if name not in MASK_SOURCES:
        raise ValueError(unknown("data with masks", name, MASK_SOURCES))
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, got {image_size}")
    source = MASK_SOURCES[name]
    path, numbers = read_spec(spec, source)
    options, parts = ({key: numbers[key] for key in keys if key in numbers} for keys in (source.options, source.parts))
    data = source.open(Request(spec, path, options, image_size, False, evaluation, exif, on_bad_image))
    return data if evaluation else _divided(data, **parts)


def _divided(data: MaskData, train: int | None = None, validation: int | None = None) -> MaskData:
    """Hold the last `validation` training images out, and keep `train` of the others, evenly taken."""
    if validation is not None:
        most = len(data.train) - 1
        if not 1 <= validation <= most:
            raise ValueError(f"{data.spec}: validation: expected 1 to {most} images, got {validation}")
        rest = len(data.train) - validation
        data = replace(
            data, train=data.train.subset(range(rest)), holdout=data.train.subset(range(rest, rest + validation))
        )
    if train is not None:
        count = len(data.train)
        if not 1 <= train <= count:
            raise ValueError(f"{data.spec}: train: expected 1 to {count} images, got {train}")
        data = replace(data, train=data.train.subset([place * count // train for place in range(train)]))
    return data


def frame_of(sizes: set[tuple[int, int]], image_size: int | None) -> tuple[int, tuple[int, int]]:
    """The short side, and height and width, that models see of images of these heights and widths."""
    alone = next(iter(sizes)) if len(sizes) == 1 else None
    side = image_size or (SQUARE if alone is None else min(alone))
    return (side, alone) if alone is not None and min(alone) == side else (side, (side, side))


def _open_shapes(request: Request) -> MaskData:
    from pldistill.tasks.segmentation import shapes as drawn
    from pldistill.tasks.segmentation.dataset import MaskData

    train, val = drawn.shapes(**request.options)
    side, frame = frame_of({(drawn.SIZE, drawn.SIZE)}, request.image_size)
    return MaskData(
        spec=request.spec,
        classes=drawn.CLASSES,
        mean=drawn.MEAN,
        std=drawn.STD,
        image_size=side,
        frame=frame,
        hflip=True,
        train=train,
        val=val,
    )


def _open_folder(request: Request) -> MaskData:
    from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
    from pldistill.tasks.segmentation.dataset import MaskData
    from pldistill.tasks.segmentation.folder import read_folder

    how = {"exif": request.exif, "on_bad_image": request.on_bad_image}
    read = read_folder(request.path, evaluation=request.evaluation, **how)
    side, frame = frame_of(read.sizes, request.image_size)
    return MaskData(
        spec=request.spec,
        classes=read.classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=side,
        frame=frame,
        hflip=True,
        train=read.train,
        val=read.val,
        skipped=read.skipped,
        unseen=read.unseen,
    )


MASK_SOURCES: Mapping[str, Source[MaskData]] = MappingProxyType(
    {
        "shapes": Source(
            "shapes[:train=600,val=150,seed=0,validation=N]",
            "disks, squares, triangles and crosses on textured canvases, 64 x 64, drawn here in seconds; no download",
            _open_shapes,
            has_path=False,
            options=("train", "val", "seed"),
            parts=("validation",),
        ),
        "masks": Source(
            "masks:PATH[,train=N,validation=N]",
            "your own images: train/images, train/masks, val/images, val/masks; a mask is a PNG of class indices, 255 "
            "of no class, with its image's name; classes.txt has a name a line",
            _open_folder,
        ),
    }
)
