"""Does detection learn real images at all? python benchmarks/overfit.py --coco PATH [--out FOLDER]

The first images of a COCO folder that have boxes are learned by heart: the same ones are trained on and scored, so
AP50 shows that boxes, labels, losses and metric fit together, and nothing about new images. Minutes on two cores.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pldistill import make_recipe, train
from pldistill.training.progress import ProgressBar

SMALL = {"fpn_channels": 128, "head_width": 256, "anchor": 16, "rois_per_image": 64, "rpn_per_image": 128}
PROPOSALS = {"pre_nms": 400, "post_nms": 300, "pre_nms_eval": 400, "post_nms_eval": 200}


def first_images(coco: Path, count: int, out: Path) -> None:
    """A COCO folder whose train and val are the same `count` images, by links."""
    whole = json.loads((coco / "instances_train.json").read_text(encoding="utf-8"))
    objects = [box for box in whole["annotations"] if not box["iscrowd"]]
    boxed = {box["image_id"] for box in objects}
    images = [image for image in whole["images"] if image["id"] in boxed][:count]
    kept = {image["id"] for image in images}
    few = {**whole, "images": images, "annotations": [box for box in objects if box["image_id"] in kept]}
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        (out / f"instances_{split}.json").write_text(json.dumps(few), encoding="utf-8")
        if not (out / split).exists():
            (out / split).symlink_to((coco / "train").resolve(), target_is_directory=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn a few real images by heart.")
    parser.add_argument("--coco", type=Path, required=True, help="a folder with train/ and instances_train.json")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--image-size", type=int, default=192, help="short side in pixels")
    args = parser.parse_args()
    first_images(args.coco, args.images, args.out / "images")
    recipe = make_recipe(
        {
            "task": "detection",
            "data": f"coco:{args.out / 'images'}",
            "student": "fasterrcnn:resnet18",
            "method": "ce",
            "epochs": args.epochs,
            "batch_size": 4,
            "image_size": args.image_size,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "warmup_epochs": 2,
            "hflip": False,
            "task_options": {**SMALL, **PROPOSALS},
        }
    )
    folder = args.out / "run"
    train(recipe, out=folder, resume=(folder / "recipe.json").exists(), callback=ProgressBar(Console()))


if __name__ == "__main__":
    main()
