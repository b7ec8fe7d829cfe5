"""A run's folder is a timm model with our own preprocessing: timm's transform shows it what `predict` does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from pldistill.data.augment import evaluation_resize
from pldistill.models import build, load_folder, save_folder
from pldistill.models.folder import crop_part
from pldistill.tasks.classification.task import Classification

SIZES = [(90, 120), (300, 200), (257, 257), (640, 480), (224, 500), (64, 64), (48, 31)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Smooth images of many sizes."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = []
    for number in range(42):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        files.append(folder / f"{number}.png")
        coarse.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC).save(files[-1])
    return files


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@pytest.mark.parametrize("name", ["test_resnet", "resnet8"])
def test_timms_own_transform_gives_the_classes_that_we_predict(tmp_path, images, size, name):
    torch.manual_seed(1)
    model = build(name, num_classes=20, image_size=size).eval()
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    about = {"classes": list("abcdefghijklmnopqrst"), "image_size": size, "resized_to": evaluation_resize(size)}
    save_folder(model, tmp_path, **about, **statistics)
    ours = Classification().predict(tmp_path, images)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model=theirs))
    batch = torch.stack([transform(Image.open(file).convert("RGB")) for file in images])
    with torch.no_grad():
        logits = theirs(batch)
    agreed = [
        "abcdefghijklmnopqrst"[place] == answer[0]["class"]
        for place, answer in zip(logits.argmax(1).tolist(), ours, strict=True)
    ]
    assert np.mean(agreed) >= 0.97


@pytest.mark.parametrize("size", range(16, 400, 7))
def test_the_crop_part_is_the_one_that_timm_rounds_to_our_size(size):
    short = evaluation_resize(size)
    assert int(np.floor(size / crop_part(size, short))) == short
    assert 0.9 < crop_part(size, short) <= 1


def test_the_folder_of_a_timm_model_loads_without_this_package_and_one_of_ours_says_what_it_wants(tmp_path):
    for name in ("test_resnet", "resnet8"):
        model = build(name, num_classes=3, image_size=32)
        save_folder(model, tmp_path / name, classes="abc", mean=(0.5,) * 3, std=(0.5,) * 3, image_size=32)
    line = f"timm.create_model('local-dir:{tmp_path / 'test_resnet'}', pretrained=True)"
    code = f"import sys, timm; {line}; print('pldistill' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    config = json.loads((tmp_path / "resnet8" / "config.json").read_text())
    assert config["note"] == "resnet8 is known to timm once pldistill.models is imported"
    assert "note" not in json.loads((tmp_path / "test_resnet" / "config.json").read_text())
    assert load_folder(tmp_path / "resnet8").architecture == "resnet8"
