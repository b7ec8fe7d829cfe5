"""Small data sets in COCO's form, made for a test."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "axe"}]


def image(number, width=40, height=30, name=None):
    return {"id": number, "file_name": name or f"{number}.png", "width": width, "height": height}


def box(number, image, bbox, category=3, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def content(images, annotations, categories=CATEGORIES):
    return {"images": images, "annotations": annotations, "categories": categories}


TRAIN = content([image(5), image(2), image(9, 20, 50)], [box(1, 9, [1, 2, 10, 20], 90), box(2, 5, [0, 0, 8, 6])])
VAL = content([image(11), image(12)], [box(1, 11, [3, 4, 10, 20], 7)])


def write(root: Path, train=TRAIN, val=VAL, images=("train", "val"), files="instances_{}.json") -> Path:
    """Write both splits, their images into the folders named `images`; all gray, of a shade by number."""
    for side, split, folder in zip(("train", "val"), (train, val), images, strict=True):
        for row in split["images"]:
            path = root / folder / row["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            shade = np.full((int(row["height"]), int(row["width"]), 3), row["id"] * 10 % 256, np.uint8)
            Image.fromarray(shade).save(path)
        file = root / files.format(side)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(split))
    return root
