"""`coco:PATH`: images with boxes in COCO's form, as COCO and Roboflow lay it out.

What is odd but harmless is left out or put right, and counted; what would make labels or figures wrong is refused.
`write_coco` writes images with boxes in this form, for any program that reads it; `coco:PATH` reads them back equal.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from pldistill.data.sampling import uniform
from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, BoxData, BoxSplit, StoredBoxes

SIDES = {"train": ("train", "train2017"), "val": ("val", "val2017", "valid")}
_THINNEST = 1 / 64  # pixels; a thinner box can lose its area in float32
_ROUNDING = 0.05  # pixels beyond the edge that are no oddity: COCO writes hundredths of a pixel
_SHOWN = 5  # names in one message


class Category(NamedTuple):
    """A class as COCO knows it."""

    id: int
    name: str


class Read(NamedTuple):
    """Both splits, their classes by rising id, and how often something odd was found."""

    categories: tuple[Category, ...]
    train: StoredBoxes
    val: StoredBoxes
    data_warnings: dict[str, int]


def coco(root: Path, train: int | None = None) -> Read:
    """Read PATH: for each split its annotations and its images, and `train` of the training images.

    The annotations of `train` (`val`) are `instances_train.json` or `instances_train2017.json`, in PATH or its
    `annotations/`, or `train/_annotations.coco.json` (Roboflow's; its `val` is called `valid`). The images are in
    PATH, `images/`, or a folder of the split in either; both splits may have one folder. Which training images
    `train` keeps follows from their ids alone.

    Raises:
        ValueError: files that are missing or no such JSON; images that are missing or listed twice; boxes that are no
            four numbers; categories that are listed twice or unknown, or other ones in `val` than in `train`; no boxes;
            `train` outside 1 ... the number of images.
    """
    if not root.is_dir():
        raise ValueError(f"coco: expected a folder, got {root}, which is not one")
    data_warnings: Counter[str] = Counter()
    files = {side: _annotation_file(root, side) for side in SIDES}
    contents = {side: _content(file) for side, file in files.items()}
    categories = _categories(files["train"], contents["train"])
    _agree(files, categories, _categories(files["val"], contents["val"]))
    splits = {
        side: _split(
            root, side, files[side], contents.pop(side), [category.id for category in categories], data_warnings
        )
        for side in SIDES
    }
    both = len(set(splits["train"].paths) & set(splits["val"].paths))
    data_warnings["images that are in train and in val"] = both
    if train is not None:
        splits["train"] = splits["train"].subset(_kept(len(splits["train"]), train))
    return Read(categories, splits["train"], splits["val"], {what: n for what, n in data_warnings.items() if n})


def _kept(count: int, train: int) -> list[int]:
    """The places of the `train` images that a hash of the ids puts first."""
    if not 1 <= train <= count:
        raise ValueError(f"coco: train: expected 1 to {count} images, got {train}")
    return np.sort(np.argsort(uniform(0, 0, np.arange(count), "part"), kind="stable")[:train]).tolist()


def _annotation_file(root: Path, side: str) -> Path:
    places = [place / f"instances_{name}.json" for name in SIDES[side] for place in (root, root / "annotations")]
    places += [root / name / "_annotations.coco.json" for name in SIDES[side]]
    for place in places:
        if place.is_file():
            return place
    known = f"instances_{side}.json, annotations/instances_{side}.json or {side}/_annotations.coco.json"
    raise ValueError(f"coco: expected {known} in {root}; there is none")


def _content(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as text:
            content = json.load(text, object_hook=_without_mask)
    except ValueError as error:  # of JSON and of UTF-8
        raise ValueError(f"{file}: not JSON ({error})") from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{file}: expected a list of objects under {key!r}, as COCO's instances files have")
    return content


def _without_mask(row: dict[str, Any]) -> dict[str, Any]:
    row.pop("segmentation", None)  # nine tenths of the file
    return row


def _whole(file: Path, row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{file}: expected a whole number as {key!r} of {_shown(row)}, got {value!r}")
    return value


def _shown(row: dict[str, Any]) -> str:
    text = json.dumps(row)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _categories(file: Path, content: dict[str, Any]) -> tuple[Category, ...]:
    rows = [Category(_whole(file, row, "id"), str(row.get("name", row["id"]))) for row in content["categories"]]
    twice = [number for number, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{file}: category {twice[0]} is listed twice")
    if not rows:
        raise ValueError(f"{file}: expected at least one category, got none")
    return tuple(sorted(rows))


def _agree(files: dict[str, Path], train: Sequence[Category], val: Sequence[Category]) -> None:
    """Refuse categories of val that are not train's; val may lack some."""
    known = dict(train)
    for number, name in val:
        if known.get(number) != name:
            there = f"{known[number]!r}" if number in known else "no such category"
            raise ValueError(
                f"coco: {files['val']} and {files['train']} must have the same categories; "
                f"{number} is {name!r} in the first and {there} in the second"
            )


def _split(
    root: Path, side: str, file: Path, content: dict[str, Any], category_ids: list[int], data_warnings: Counter[str]
) -> StoredBoxes:
    rows = {_whole(file, row, "id"): row for row in content["images"]}
    if len(rows) < len(content["images"]):
        twice = [number for number, count in Counter(row["id"] for row in content["images"]).items() if count > 1]
        raise ValueError(f"{file}: image {twice[0]} is listed twice")
    if not rows:
        raise ValueError(f"{file}: expected at least one image, got none")
    images = sorted(rows)
    sizes = [(_whole(file, rows[image], "height"), _whole(file, rows[image], "width")) for image in images]
    names = [str(rows[image].get("file_name")) for image in images]
    found = _boxes(file, content["annotations"], dict(zip(images, sizes, strict=True)), category_ids)
    data_warnings.update({f"{what} in {side}": count for what, count in found.data_warnings.items()})
    data_warnings[f"images without boxes in {side}"] = int((found.counts == 0).sum())
    data_warnings[f"classes without boxes in {side}"] = len(category_ids) - len(found.objects.labels.unique())
    annotations = Annotations(torch.tensor(sizes), found.objects, found.counts, tuple(images), tuple(names))
    return StoredBoxes(_paths(root, side, file, names), annotations)


class _Found(NamedTuple):
    objects: BoxAnnotations
    counts: torch.Tensor
    data_warnings: Counter[str]


def _boxes(
    file: Path, rows: list[dict[str, Any]], sizes: dict[int, tuple[int, int]], category_ids: list[int]
) -> _Found:
    """The annotations of the images of these sizes, image by image in that order, as the file has them within."""
    labels = {number: label for label, number in enumerate(category_ids, start=1)}
    places = {image: place for place, image in enumerate(sizes)}
    data_warnings: Counter[str] = Counter()
    data_warnings["annotation ids that are used again"] = len(rows) - len({str(row.get("id")) for row in rows})
    kept: list[tuple[int, list[float], int, float, bool]] = []
    for row in rows:
        box, area = _box(file, row), row.get("area")
        label = labels.get(_whole(file, row, "category_id"))
        if label is None:
            raise ValueError(f"{file}: category {row['category_id']} of {_shown(row)} is not among its categories")
        place = places.get(_whole(file, row, "image_id"))
        if place is None:
            data_warnings["annotations of images that are not listed, left out,"] += 1
            continue
        inside = _within(box, *sizes[row["image_id"]])
        if min(inside[2] - inside[0], inside[3] - inside[1]) < _THINNEST:
            data_warnings["boxes without area, left out,"] += 1
            continue
        if inside != box and max(abs(one - other) for one, other in zip(inside, box, strict=True)) > _ROUNDING:
            data_warnings["boxes out of bounds, clipped,"] += 1
        crowd = bool(row.get("iscrowd", 0))
        data_warnings["crowds, not learned from,"] += crowd
        area = float(area) if isinstance(area, (int, float)) and area > 0 else _area(inside)
        kept.append((place, inside, label, area, crowd))
    kept.sort(key=lambda row: row[0])
    if not kept:
        raise ValueError(f"{file}: expected at least one box with an area in a listed image, got none")
    at, boxes, label_of, areas, crowds = zip(*kept, strict=True)
    objects = BoxAnnotations(
        torch.tensor(boxes, dtype=torch.float64),
        torch.tensor(label_of),
        torch.tensor(areas, dtype=torch.float64),
        torch.tensor(crowds),
    )
    return _Found(objects, torch.bincount(torch.tensor(at), minlength=len(sizes)), data_warnings)


def _box(file: Path, row: dict[str, Any]) -> list[float]:
    """Left, top, right, bottom, from COCO's left, top, width, height."""
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, (int, float)) for x in box):
        raise ValueError(f"{file}: expected four numbers as 'bbox' of {_shown(row)}, got {box!r}")
    if not all(map(math.isfinite, box)):
        raise ValueError(f"{file}: expected finite numbers as 'bbox' of {_shown(row)}, got {box!r}")
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height]


def _within(box: list[float], height: int, width: int) -> list[float]:
    left, top, right, bottom = box
    return [max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)]


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _paths(root: Path, side: str, file: Path, names: list[str]) -> list[str]:
    """Where each image is; links are resolved, so that an image of both splits has one path."""
    folders = [place / name for place in (root, root / "images") for name in SIDES[side]]
    folders = [folder.resolve() for folder in (*folders, root / "images", root) if folder.is_dir()]
    paths: list[str] = []
    missing: list[str] = []
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:  # a file of annotations may be anyone's
            raise ValueError(f"coco: {file}: expected file_name inside the data's folders, got {name!r}")
        path = next((path for folder in folders if (path := folder / name).is_file()), None)
        if path is None:
            missing.append(name)
        else:
            paths.append(str(path))
    if missing:
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(
            f"coco: {len(missing)} of the {len(names)} images of {file} are missing in "
            f"{', '.join(map(str, folders))}: {', '.join(missing[:_SHOWN])}{more}"
        )
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
        names = [str(Path(name).with_suffix(".png")) for name in split.names]
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
