"""Pictures with boxes written in COCO's form, for any program that reads it; `coco:PATH` reads them back equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pldistill.data.boxes import BoxData, BoxSplit


def write_coco(data: BoxData, root: Path) -> None:
    """Write `train/` and `val/` with a PNG for each picture, `instances_train.json` and `instances_val.json`.

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
            Image.fromarray(split.picture(place).permute(1, 2, 0).numpy()).save(root / side / name)
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
