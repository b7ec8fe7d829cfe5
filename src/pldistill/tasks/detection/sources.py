"""The sources of images with boxes by name, and the text that opens one: `coco:PATH,train=1000`, `scenes:seed=1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pldistill.data.registry import ON_BAD_IMAGE, SOURCES, Request, Sizes, Source, read_spec
from pldistill.specs import split_spec, unknown

if TYPE_CHECKING:
    from pldistill.tasks.detection.dataset import BoxData


COCO_SIZE, MAX_SIDE = 800, 1333  # pixels, as torchvision's and detectron2's detectors are trained and scored


def open_boxes(
    spec: str,
    *,
    image_size: int | None = None,
    max_side: int | None = None,
    evaluation: bool = False,
    exif: bool = True,
    on_bad_image: str = "stop",
) -> BoxData:
    """The images with boxes that `spec` names; see `BOX_SOURCES`.

    `train=N` keeps N of COCO's training images; of scenes it is how many are drawn. `image_size` is the short side in
    pixels that models see in evaluation, and `max_side` what the long side may have at most; None are 800 and 1333, of
    scenes their own size. For `evaluation` the validation part alone is read, and the training split is empty.
    `exif` applies the EXIF orientation of images of files; `on_bad_image` skip leaves out those that cannot be read,
    where stop refuses them.

    Raises:
        ValueError: an unknown name or option, sides that are too small, and what `coco` and `scenes` refuse.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image: expected {' or '.join(ON_BAD_IMAGE)}, got {on_bad_image!r}")
    name, _, _ = split_spec(spec)
    if name in SOURCES:
        raise ValueError(f"data: {name} has labels and no boxes: it is for classification")
    if name not in BOX_SOURCES:
        raise ValueError(unknown("data with boxes", name, BOX_SOURCES))
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, got {image_size}")
    source = BOX_SOURCES[name]
    path, options = read_spec(spec, source)
    data = source.open(Request(spec, path, options, image_size, False, evaluation, exif, on_bad_image))
    data = replace(data, max_side=max(MAX_SIDE, data.image_size) if max_side is None else max_side)
    if data.max_side < data.image_size:
        raise ValueError(f"max_side: expected at least {data.image_size}, as the short side, got {max_side}")
    return data


def _open_coco(request: Request) -> BoxData:
    from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
    from pldistill.tasks.detection.coco import Part, coco
    from pldistill.tasks.detection.dataset import BoxData

    parts: tuple[Part, ...] = ("val",) if request.evaluation else ("train", "val")
    how = {"exif": request.exif, "on_bad_image": request.on_bad_image}
    found = coco(request.path, **request.options, parts=parts, **how)
    val = found.parts["val"]
    return BoxData(
        spec=request.spec,
        classes=tuple(category.name for category in found.categories),
        category_ids=tuple(category.id for category in found.categories),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=request.image_size or COCO_SIZE,
        max_side=MAX_SIDE,
        hflip=True,
        train=found.parts.get("train") or val.subset([]),
        val=val,
        data_warnings=MappingProxyType(found.data_warnings),
        skipped=MappingProxyType(found.skipped),
    )


def _open_scenes(request: Request) -> BoxData:
    from pldistill.tasks.detection import scenes as drawn
    from pldistill.tasks.detection.dataset import BoxData

    train, val = drawn.scenes(**request.options)
    return BoxData(
        spec=request.spec,
        classes=drawn.CLASSES,
        category_ids=tuple(range(1, len(drawn.CLASSES) + 1)),
        mean=drawn.MEAN,
        std=drawn.STD,
        image_size=request.image_size or drawn.SIZE,
        max_side=MAX_SIDE,
        hflip=False,
        train=train,
        val=val,
        data_warnings=MappingProxyType({}),
    )


BOX_SOURCES: Mapping[str, Source[BoxData]] = MappingProxyType(
    {
        "scenes": Source(
            "scenes[:train=3000,val=500,seed=0]",
            "characters of 12 classes scattered on textured canvases, 96 x 96, drawn here in seconds; no download",
            _open_scenes,
            has_path=False,
            options=("train", "val", "seed"),
            parts=(),
        ),
        "coco": Source(
            "coco:PATH[,train=N]",
            "images with boxes in COCO's form: train/ and val/ (or test/), instances_train.json and instances_val.json",
            _open_coco,
            options=("train",),
            parts=(),
            sizes=Sizes(train=118_287, val=5_000, classes=80, image_size=COCO_SIZE),
        ),
    }
)
