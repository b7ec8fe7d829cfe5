"""Images with boxes like those that a specification names, without reading them: as many, of noise."""

from __future__ import annotations

from types import MappingProxyType

import torch

from pldistill.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from pldistill.data.registry import Sizes, read_spec
from pldistill.specs import split_spec
from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, BoxData, DrawnBoxes
from pldistill.tasks.detection.sources import BOX_SOURCES
from pldistill.tasks.detection.weights import coco_columns

_HEIGHT, _WIDTH = 480, 640  # pixels, COCO's commonest size
_OBJECTS = 7  # in an image, as COCO has them in the mean


def stand_in_boxes(spec: str, *, image_size: int | None, max_side: int) -> BoxData | None:
    """Data with the counts and the classes of what `spec` names, as `open_boxes` would give it; images of one noise.

    None for a source whose counts only its files tell (`Source.sizes`).

    Raises:
        ValueError: an unknown option, or more training images than there are.
    """
    name, _, _ = split_spec(spec)
    sizes = BOX_SOURCES[name].sizes if name in BOX_SOURCES else None
    if sizes is None:
        return None
    _, options = read_spec(spec, BOX_SOURCES[name])
    count = options.get("train", sizes.train)
    if not 1 <= count <= sizes.train:
        raise ValueError(f"{name}: train: expected 1 to {sizes.train} images, got {count}")
    ids, classes = _categories(sizes)
    return BoxData(
        spec=spec,
        classes=classes,
        category_ids=ids,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=image_size or sizes.image_size,
        max_side=max_side,
        hflip=True,
        train=_noise(count, len(classes)),
        val=_noise(sizes.val, len(classes)),
        data_warnings=MappingProxyType({}),
    )


def _categories(sizes: Sizes) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """COCO's ids and names."""
    columns = coco_columns()
    assert len(columns) == sizes.classes
    return tuple(columns.values()), tuple(columns)


def _noise(count: int, classes: int) -> DrawnBoxes:
    """One image of noise `count` times, each time with the same boxes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, _HEIGHT, _WIDTH), dtype=torch.uint8, generator=generator)
    size = torch.tensor([_WIDTH, _HEIGHT], dtype=torch.float64)
    corners = torch.rand(_OBJECTS, 2, generator=generator, dtype=torch.float64) * size / 2
    sides = (0.05 + 0.4 * torch.rand(_OBJECTS, 2, generator=generator, dtype=torch.float64)) * size
    boxes, total = torch.cat([corners, corners + sides], dim=1).repeat(count, 1), count * _OBJECTS
    objects = BoxAnnotations(
        boxes, 1 + torch.arange(total) % classes, sides.prod(1).repeat(count), torch.zeros(total, dtype=torch.bool)
    )
    shown, ids = torch.tensor([[_HEIGHT, _WIDTH]]).expand(count, 2), tuple(range(1, count + 1))
    names = tuple(f"{number:012d}.jpg" for number in ids)
    counts = torch.full((count,), _OBJECTS)
    return DrawnBoxes(image.expand(count, -1, -1, -1), Annotations(shown, objects, counts, ids, names))
