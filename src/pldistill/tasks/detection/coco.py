"""`coco:PATH`: images with boxes in COCO's form, as COCO and Roboflow lay it out.

What is odd but harmless is left out or put right, and counted; what would make labels or figures wrong is refused.
`write_coco` writes images with boxes in this form, for any program that reads it; `coco:PATH` reads them back equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from pldistill.data.sampling import uniform
from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, BoxData, BoxSplit, StoredBoxes
from pldistill.tasks.detection.instances import Category, Instances, positions, read_instances
from pldistill.tasks.detection.verify import verified

Part = Literal["train", "val"]
# What a part is called, by what is looked for first; a test split scores where there is none for validation.
NAMES: dict[Part, tuple[tuple[str, ...], ...]] = {
    "train": (("train", "train2017"),),
    "val": (("val", "val2017", "valid", "validation"), ("test", "test2017")),
}
_ROBOFLOW = "_annotations.coco.json"
_THINNEST = 1 / 64  # pixels; a thinner box can lose its area in float32
_ROUNDING = 0.05  # pixels beyond the edge that are no oddity: COCO writes hundredths of a pixel
_SHOWN = 5  # names in one message


class Read(NamedTuple):
    """The requested parts, their classes by rising id, and how often something odd was found.

    `skipped` has the reason for each image of a part that is left out.
    """

    categories: tuple[Category, ...]
    parts: dict[Part, StoredBoxes]
    data_warnings: dict[str, int]
    skipped: dict[str, tuple[str, ...]]


def coco(
    root: Path,
    train: int | None = None,
    *,
    parts: Sequence[Part] = ("train", "val"),
    exif: bool = True,
    on_bad_image: str = "stop",
) -> Read:
    """Read PATH: of each of `parts` its annotations and its images, and `train` of the training images.

    The annotations of `train` (`val`) are `instances_train.json` or `instances_train2017.json`, in PATH or its
    `annotations/`, or `train/_annotations.coco.json` (Roboflow's; its `val` is called `valid`). The images are in
    PATH, `images/`, or a folder of the part in either; both parts may have one folder. Where there is no `val` a
    `test` of the same form stands for it, and where `val` alone is read, PATH may itself be the folder with
    `_annotations.coco.json`. Which training images `train` keeps follows from their ids alone.

    Every image is read before it is used, and must have the width and height of its record; with `exif` those after its
    EXIF orientation is applied, as annotation tools show it. `on_bad_image` "skip" leaves out what cannot be read.

    Links are followed, also out of PATH: who may make one there may as well copy the image. A `file_name` that leaves
    PATH is refused. Boxes of no or negative width or height are left out, as torchvision's training does, and counted.

    Raises:
        ValueError: files that are missing or that `read_instances` refuses; images that are missing, cannot be read or
            have another size; other categories in `val` than in `train`; no boxes; `train` outside 1 ... the number of
            images.
    """
    if not root.is_dir():
        raise ValueError(f"coco: expected a folder, got {root}, which is not one")
    data_warnings: Counter[str] = Counter()
    places = {part: _place(root, part, alone=len(parts) == 1) for part in parts}
    read = {part: read_instances(place.file) for part, place in places.items()}
    categories = read[parts[0]].categories
    for part in parts[1:]:
        _agree(read[parts[0]], read[part])
    splits: dict[Part, StoredBoxes] = {}
    for part in parts:
        splits[part] = _split(part, places[part], read.pop(part), categories, data_warnings, exif=exif)
    if len(splits) == 2:
        both = len(set(splits["train"].paths) & set(splits["val"].paths))
        data_warnings["images that are in train and in val"] = both
    if train is not None and "train" in splits:
        splits["train"] = splits["train"].subset(_kept(len(splits["train"]), train))
    skipped: dict[str, tuple[str, ...]] = {}
    for part in parts:
        splits[part], bad = verified(splits[part], places[part].file, on_bad_image)
        if bad:
            skipped[part] = bad
    return Read(categories, splits, {what: n for what, n in data_warnings.items() if n}, skipped)


def _kept(count: int, train: int) -> list[int]:
    """The places of the `train` images that a hash of the ids puts first."""
    if not 1 <= train <= count:
        raise ValueError(f"coco: train: expected 1 to {count} images, got {train}")
    return np.sort(np.argsort(uniform(0, 0, np.arange(count), "part"), kind="stable")[:train]).tolist()


class _Place(NamedTuple):
    """A part's file of annotations, and the folders that may have its images."""

    file: Path
    folders: list[Path]


def _place(root: Path, part: Part, *, alone: bool) -> _Place:
    for names in NAMES[part]:
        files = [place / f"instances_{name}.json" for name in names for place in (root, root / "annotations")]
        files += [root / name / _ROBOFLOW for name in names]
        folders = [*(place / name for place in (root, root / "images") for name in names), root / "images", root]
        for file in files:
            if file.is_file():
                return _Place(file, [folder.resolve() for folder in folders if folder.is_dir()])
    if alone and (root / _ROBOFLOW).is_file():
        return _Place(root / _ROBOFLOW, [root.resolve()])
    known = f"instances_{part}.json, annotations/instances_{part}.json or {part}/{_ROBOFLOW}"
    raise ValueError(f"coco: expected {known} in {root}; there is none")


def _agree(train: Instances, val: Instances) -> None:
    """Refuse categories of val that are not train's; val may lack some."""
    known = dict(train.categories)
    for number, name in val.categories:
        if known.get(number) != name:
            there = f"{known[number]!r}" if number in known else "no such category"
            raise ValueError(
                f"coco: {val.file} and {train.file} must have the same categories; "
                f"{number} is {name!r} in the first and {there} in the second"
            )


def _split(
    part: Part,
    place: _Place,
    read: Instances,
    categories: Sequence[Category],
    data_warnings: Counter[str],
    *,
    exif: bool,
) -> StoredBoxes:
    sizes, names = torch.from_numpy(read.sizes), [image["file_name"] for image in read.images]
    found = _boxes(read, [category.id for category in categories])
    data_warnings.update({f"{what} in {part}": count for what, count in found.data_warnings.items()})
    data_warnings[f"images without boxes in {part}"] = int((found.counts == 0).sum())
    data_warnings[f"classes without boxes in {part}"] = len(categories) - len(found.objects.labels.unique())
    ids = tuple(image["id"] for image in read.images)
    annotations = Annotations(sizes, found.objects, found.counts, ids, tuple(names))
    return StoredBoxes(_paths(place, names), annotations, exif=exif)


class _Found(NamedTuple):
    objects: BoxAnnotations
    counts: torch.Tensor
    data_warnings: dict[str, int]


def _boxes(read: Instances, category_ids: Sequence[int]) -> _Found:
    """The objects image by image, those of an image in the file's order, with labels 1..C of these categories."""
    rows, places = read.annotations, read.places
    listed = places >= 0
    limits = read.sizes[places, ::-1]
    corners, sides = read.boxes[:, :2], read.boxes[:, 2:]
    with np.errstate(over="ignore"):  # the sum of two finite numbers may be infinite, and is then clipped
        boxes = np.concatenate([corners, corners + sides], axis=1)
    inside = np.concatenate([boxes[:, :2].clip(min=0), np.minimum(boxes[:, 2:], limits)], axis=1)
    sides = inside[:, 2:] - inside[:, :2]
    kept = listed & (sides >= _THINNEST).all(axis=1)
    clipped = kept & (np.abs(inside - boxes) > _ROUNDING).any(axis=1)
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool)
    area = np.array([row.get("area") or 0.0 for row in rows], dtype=np.float64)
    area = np.where(area > 0, area, sides.prod(axis=1))
    labels = 1 + positions([row["category_id"] for row in rows], category_ids)
    order = np.flatnonzero(kept)[np.argsort(places[kept], kind="stable")]
    if not len(order):
        raise ValueError(f"{read.file}: expected at least one box with an area in a listed image, got none")
    objects = BoxAnnotations(*(torch.from_numpy(column[order]) for column in (inside, labels, area, crowd)))
    counts = torch.from_numpy(np.bincount(places[kept], minlength=len(read.images)))
    data_warnings = {
        "annotations of images that are not listed, left out,": int((~listed).sum()),
        "boxes without area, left out,": int((listed & ~kept).sum()),
        "boxes out of bounds, clipped,": int(clipped.sum()),
        "crowds, not learned from,": int(crowd[kept].sum()),
    }
    return _Found(objects, counts, data_warnings)


def _paths(place: _Place, names: Sequence[str]) -> list[str]:
    """Where each image is; links of folders are resolved, so that an image of both parts has one path."""
    paths: list[str] = []
    missing: list[str] = []
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:  # a file of annotations may be anyone's
            raise ValueError(f"coco: {place.file}: expected file_name inside the data's folders, got {name!r}")
        path = next((path for folder in place.folders if (path := folder / name).is_file()), None)
        if path is None:
            missing.append(name)
        else:
            paths.append(str(path))
    if missing:
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(
            f"coco: {len(missing)} of the {len(names)} images of {place.file} are missing in "
            f"{', '.join(map(str, place.folders))}: {', '.join(missing[:_SHOWN])}{more}"
        )
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ValueError(f"coco: {place.file}: expected a file of its own for each image, got {twice[0]} for several")
    return paths


def write_coco(data: BoxData, root: Path) -> None:
    """Write `train/` and `val/` with a PNG for each image, `instances_train.json` and `instances_val.json`.

    Raises:
        ValueError: `root` exists and holds something.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"root: expected a new or an empty folder, got {root}")
    categories = [{"id": number, "name": name} for number, name in zip(data.category_ids, data.classes, strict=True)]
    for side, split in (("train", data.train), ("val", data.val)):
        (root / side).mkdir(parents=True)
        names = files_for(split.names, ".png")
        for place, name in enumerate(names):
            (root / side / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.image(place).permute(1, 2, 0).numpy()).save(root / side / name)
        content = {
            "info": {"description": f"{data.spec}, {side}"},
            "images": [
                {"id": number, "file_name": name, "height": height, "width": width}
                for number, name, (height, width) in zip(split.image_ids, names, split.sizes.tolist(), strict=True)
            ],
            "annotations": annotation_rows(split, data.category_ids),
            "categories": categories,
        }
        (root / f"instances_{side}.json").write_text(json.dumps(content), encoding="utf-8")


def files_for(names: Sequence[str], suffix: str) -> list[str]:
    """A file of its own for each image, with another suffix, under the folders that the image has.

    Where images differ by their suffix alone, all keep theirs before the new one.
    """
    files = [str(PurePath(name).with_suffix(suffix)) for name in names]
    return files if len(set(files)) == len(files) else [f"{PurePath(name)}{suffix}" for name in names]


def annotation_rows(split: BoxSplit, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Give the boxes of a split as COCO's annotations, numbered from 1."""
    objects, counts = split.annotations.objects, split.annotations.counts.tolist()
    images = [number for number, count in zip(split.image_ids, counts, strict=True) for _ in range(count)]
    columns = zip(images, *(column.tolist() for column in objects), strict=True)
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category_ids[label - 1],
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, (image, (left, top, right, bottom), label, area, crowd) in enumerate(columns, start=1)
    ]
