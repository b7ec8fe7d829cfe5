"""Augmentation: whole-batch results equal the image-by-image definition, and its draws are fair."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from pldistill.data import Augment, Dataset, TensorSplit, default_augment
from pldistill.data.augment import (
    apply_augment,
    boxes,
    crop,
    evaluation_resize,
    flips,
    horizontal_flip,
    random_crop,
    resize_center_crop,
    shifts,
)

IDS = np.arange(20_000)


def noise(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (5, 9, 2), (4, 4, 7), (8, 8, 0)])
def test_shift_cuts_each_padded_image_at_its_corner(height, width, padding):
    images, span = noise(50, height, width), 2 * padding + 1
    top, left = torch.arange(50) % span, torch.arange(50) // 3 % span
    top[-1] = left[-1] = 2 * padding  # the last stretch reaches farthest
    made = random_crop(images, padding, top, left)
    for image, y, x, result in zip(images, top.tolist(), left.tolist(), made, strict=True):
        assert torch.equal(result, F.pad(image, (padding,) * 4)[:, y : y + height, x : x + width])


def test_mirror_turns_the_named_images_only():
    images = noise(5, 4, 6)
    made = horizontal_flip(images.clone(), torch.tensor([1, 4]))
    assert torch.equal(made[[1, 4]], images[[1, 4]].flip(-1))
    assert torch.equal(made[[0, 2, 3]], images[[0, 2, 3]])


def test_each_corner_and_side_is_drawn_equally_often():
    top, left = shifts(4, 0, 0, IDS)
    counts = np.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81
    assert ((counts - len(IDS) / 81) ** 2 / (len(IDS) / 81)).sum() < 140  # chi squared, 80 degrees: beyond 1 in 20,000
    assert abs(flips(0, 0, IDS).mean() - 0.5) < 0.015
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.03
    assert abs(np.corrcoef(top, flips(0, 0, IDS))[0, 1]) < 0.03


def test_boxes_lie_inside_and_have_the_stated_area_and_aspect():
    heights, widths = np.full(len(IDS), 200), np.full(len(IDS), 300)
    top, left, tall, wide = boxes(Augment("resized"), heights, widths, 0, 0, IDS).T
    assert min(top.min(), left.min()) == 0
    assert min(tall.min(), wide.min()) > 0
    assert (top + tall).max() <= 200
    assert (left + wide).max() <= 300
    share, aspect = tall * wide / 60_000, np.log(wide / tall)
    assert 0.07 < share.min() < 0.1
    assert share.max() > 0.8
    assert abs(aspect).max() < math.log(4 / 3) + 0.02


def test_boxes_are_distributed_as_torchvision_s():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [
            RandomResizedCrop.get_params(torch.empty(3, 200, 300), [0.08, 1], [3 / 4, 4 / 3]) for _ in range(5000)
        ]
    ours = boxes(Augment("resized"), np.full(len(IDS), 200), np.full(len(IDS), 300), 0, 0, IDS)
    theirs = np.array(theirs)
    for column in range(4):
        for quantile in (0.1, 0.5, 0.9):
            assert abs(np.quantile(ours[:, column], quantile) - np.quantile(theirs[:, column], quantile)) < 8


@pytest.mark.parametrize(("height", "width", "box"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_a_image_that_no_box_fits_gives_its_centre(height, width, box):
    augment = Augment("resized", scale=(0.9, 1.0))
    assert boxes(augment, np.array([height]), np.array([width]), 0, 0, np.array([0])).tolist() == [list(box)]


def test_a_image_of_one_pixel_has_a_box():
    assert boxes(Augment("resized"), np.array([1]), np.array([1]), 0, 0, np.array([0])).tolist() == [[0, 0, 1, 1]]


def test_cut_of_the_whole_image_at_its_own_size_changes_nothing():
    images = noise(3, 16, 16)
    assert torch.equal(crop(images, np.array([[0, 0, 16, 16]] * 3), 16), images)


@pytest.mark.parametrize(("size", "short"), [(32, 32), (64, 64), (65, 69), (224, 236)])
def test_the_short_side_before_the_central_crop(size, short):
    assert evaluation_resize(size) == short


def test_fit_leaves_a_small_image_of_the_right_size_alone_and_crops_the_long_side():
    images = noise(2, 32, 32)
    assert resize_center_crop(images, 32) is images
    wide = torch.cat([torch.zeros_like(images), images, torch.zeros_like(images)], dim=3)
    assert torch.equal(resize_center_crop(wide, 32), images)
    assert resize_center_crop(noise(1, 50, 20), 32).shape == (1, 3, 32, 32)
    assert resize_center_crop(noise(1, 300, 231), 224).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("augment", [Augment("pad"), Augment("resized"), Augment("none"), None])
def test_a_batch_is_its_images_one_by_one(augment):
    images, ids = noise(12, 20, 20), np.arange(40, 52)
    together = apply_augment(images.clone(), augment, 16, 1, 2, ids)
    alone = [apply_augment(images[i : i + 1].clone(), augment, 16, 1, 2, ids[i : i + 1]) for i in range(12)]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "random"}, "crop: expected none, pad or resized, got 'random'"),
        ({"crop": "pad", "padding": -1}, "padding: expected at least 0 pixels, got -1"),
        ({"crop": "resized", "scale": (0.0, 1.0)}, "scale: expected 0 < least <= most <= 1"),
        ({"crop": "resized", "scale": (0.5, 0.1)}, "scale"),
        ({"crop": "resized", "ratio": (2.0, 1.0)}, "ratio: expected 0 < least <= most"),
    ],
)
def test_an_impossible_augmentation_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


@pytest.mark.parametrize(
    ("size", "hflip", "expected"),
    [(64, True, Augment("pad")), (65, True, Augment("resized")), (32, False, Augment("pad", hflip=False))],
)
def test_the_default_follows_the_size_and_whether_a_mirror_keeps_the_class(size, hflip, expected):
    split = TensorSplit(noise(1, 4, 4), torch.tensor([0]))
    data = Dataset("x", ("a",), (0.5,) * 3, (0.5,) * 3, size, hflip, split, split)
    assert default_augment(data) == expected
