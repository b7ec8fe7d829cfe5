"""`glyphs`: complete, balanced, and the same images for the same seed."""

import hashlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont

from pldistill.data import embedded as module
from pldistill.data import open_data
from pldistill.data.embedded import CLASSES, FACES, draw, render_masks

SMALL = "glyphs:train=300,val=100"


@pytest.fixture(scope="module")
def masks():
    return render_masks()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "glyphs"


def test_there_are_a_hundred_different_characters_and_every_face_has_them():
    assert len(set(CLASSES)) == len(CLASSES) == 100
    for face in FACES:
        font = TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf")
        assert [character for character in CLASSES if ord(character) not in font.getBestCmap()] == [], face


def test_upright_characters_differ_between_classes_in_every_face(masks):
    for face in masks.transpose(0, 1):
        flat = face.flatten(1)
        distance = torch.cdist(flat, flat) + 1e6 * torch.eye(len(flat))
        assert distance.min() > 1.5


def test_masks_fill_their_place(masks):
    assert masks.shape == (100, 14, 32, 32)
    assert masks.amax((2, 3)).min() > 0.5
    border = torch.cat([masks[..., :3, :].flatten(2), masks[..., -3:, :].flatten(2)], 2)
    assert border.max() == 0


def test_the_images_follow_from_the_seed(masks):
    one, again, other = draw(masks, 120, 0, "train"), draw(masks, 120, 0, "train"), draw(masks, 120, 1, "train")
    assert hashlib.sha256(one.numpy().tobytes()).digest() == hashlib.sha256(again.numpy().tobytes()).digest()
    assert (one == other).flatten(1).all(1).sum() == 0
    assert torch.equal(draw(masks, 1150, 0, "train")[:120], one)  # a larger set begins with the smaller one
    assert (one == draw(masks, 120, 0, "val")).flatten(1).all(1).sum() == 0


def test_the_number_of_threads_changes_no_pixel(masks):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(masks, 200, 0, "train")
        torch.set_num_threads(3)
        assert torch.equal(draw(masks, 200, 0, "train"), one)
    finally:
        torch.set_num_threads(threads)


def test_classes_are_balanced_and_splits_share_no_image():
    data = open_data("glyphs:train=350,val=200,seed=3")
    assert (data.classes, data.image_size, data.hflip) == (CLASSES, 32, False)
    assert torch.bincount(data.train.labels).unique().tolist() == [3, 4]
    assert torch.bincount(data.val.labels).tolist() == [2] * 100
    seen = {image.numpy().tobytes() for image in data.train.images}
    assert len(seen) == 350
    assert not any(image.numpy().tobytes() in seen for image in data.val.images)


def test_the_stated_statistics_are_those_of_the_images(masks):
    pixels = draw(masks, 2000, 0, "train").double() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(module.GLYPHS_MEAN).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(module.GLYPHS_STD).double(), rtol=0, atol=0.02)


def test_a_nearest_upright_mask_does_not_solve_it_but_beats_chance(masks):
    """Neither noise nor a table look-up: matching gray images with masks stays far below what small models learn."""
    images = draw(masks, 1000, 0, "val").float().mean(1).flatten(1)
    images = torch.nn.functional.normalize(images - images.mean(1, keepdim=True))
    templates = masks.flatten(0, 1).flatten(1)
    templates = torch.nn.functional.normalize(templates - templates.mean(1, keepdim=True))
    guess = (images @ templates.T).abs().argmax(1) // len(FACES)
    right = (guess == torch.arange(1000) % 100).float().mean()
    assert 0.2 < right < 0.75


def test_the_second_time_they_come_from_the_cache(cache, monkeypatch):
    first = open_data(SMALL)
    (file,) = cache.iterdir()
    assert file.name == f"v{module.GLYPHS_VERSION}-train300-val100-seed0.safetensors"
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("drawn again"))
    assert torch.equal(open_data(SMALL).train.images, first.train.images)


def test_a_damaged_cache_file_is_named(cache):
    open_data(SMALL)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{file.name}: damaged .* delete it"):
        open_data(SMALL)


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match=r"cannot write there .* set PLDISTILL_CACHE"):
        open_data(SMALL)


def test_labels_name_what_is_drawn(masks, monkeypatch):
    """Without pose, clutter and noise, each image is its class's mask."""
    flat = {"angle": 0.0, "shear": 0.0, "stretch": 0.0, " x": 0.0, " y": 0.0}
    chunk = module._Chunk(masks, np.arange(100), 0, "train")
    monkeypatch.setattr(
        chunk, "between", lambda low, high, name: torch.full((100,), flat.get(name.split()[-1], (low + high) / 2))
    )
    drawn = chunk._character().flatten(1)
    upright = masks[:, len(FACES) // 2].flatten(1)
    scores = torch.nn.functional.normalize(drawn) @ torch.nn.functional.normalize(upright).T
    assert scores.argmax(1).tolist() == list(range(100))


def test_the_images_are_those_of_every_earlier_version():
    """Means of the first two, to less than what another processor's rounding moves: a renamed draw would move them."""
    images = open_data("glyphs:train=100,val=100").train.images[:2].float()
    means = torch.tensor([[221.133, 125.252, 72.770], [63.891, 46.293, 44.765]])
    torch.testing.assert_close(images.mean((2, 3)), means, rtol=0, atol=0.1)
