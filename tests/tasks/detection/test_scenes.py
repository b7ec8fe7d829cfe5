"""`scenes`: the same images for the same seed, boxes around what is drawn, and COCO's form of it."""

import json

import pytest
import torch

from pldistill.tasks.detection import scenes as module
from pldistill.tasks.detection.coco import write_coco
from pldistill.tasks.detection.scenes import CLASSES, OTHERS, SIZE, draw
from pldistill.tasks.detection.sources import open_boxes

SMALL = "scenes:train=12,val=5,seed=3"


@pytest.fixture(scope="module")
def drawn():
    return draw(40, 0, "train")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scenes"


def test_images_follow_from_the_seed(drawn):
    again, other, val = draw(10, 0, "train"), draw(10, 1, "train"), draw(10, 0, "val")
    assert torch.equal(again.images, drawn.images[:10])  # a larger set begins with the smaller one
    for place in range(10):
        for one, two in zip(again.objects(place), drawn.objects(place), strict=True):
            assert torch.equal(one, two)
        assert not any(torch.equal(again.image(place), split.image(place)) for split in (other, val))


def test_every_image_has_characters_within_it(drawn):
    assert drawn.images.shape == (40, 3, SIZE, SIZE)
    counts = drawn.annotations.counts
    assert (int(counts.min()), int(counts.max())) == (1, 5)
    objects = drawn.annotations.objects
    assert set(objects.labels.tolist()) == set(range(1, len(CLASSES) + 1))
    boxes = objects.boxes
    assert boxes.min() >= 0
    assert boxes.max() <= SIZE
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert 16 <= longest.min() < 20
    assert 40 < longest.max() <= 46
    assert not objects.crowd.any()
    assert not set(CLASSES) & set(OTHERS)


def test_characters_hide_little_of_one_another(drawn):
    for place in range(len(drawn)):
        boxes = drawn.objects(place).boxes
        for k, one in enumerate(boxes):
            for other in boxes[k + 1 :]:
                width, height = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
                smaller = min(float((box[2:] - box[:2]).prod()) for box in (one, other))
                assert width * height <= 0.08 * smaller


def test_a_box_is_what_its_character_changed(monkeypatch):
    """On the canvas alone, without noise, the pixels that a character changes reach to the edges of its box."""
    sheet = module._Sheet(torch.arange(12).numpy(), 5, "train")
    sheet.noise[:] = 0
    for place in range(12):
        one = next(one for one in sheet.layout(place) if one.label)
        with_it, without = (torch.from_numpy(sheet.image(place, placed)).int() for placed in ([one], []))
        down, across = torch.nonzero((with_it - without).abs().amax(-1) > 2, as_tuple=True)
        left, top, right, bottom = one.box
        assert left <= across.min() <= left + 1
        assert right - 2 <= across.max() < right
        assert top <= down.min() <= top + 1
        assert bottom - 2 <= down.max() < bottom


def test_the_stated_statistics_are_those_of_the_images(drawn):
    pixels = drawn.images.double() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(module.MEAN).double(), rtol=0, atol=0.04)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(module.STD).double(), rtol=0, atol=0.04)


def test_the_second_time_they_come_from_the_cache(cache, monkeypatch):
    first = open_boxes(SMALL)
    names = {f"v{module.VERSION}-train12-seed3.safetensors", f"v{module.VERSION}-val5-seed3.safetensors"}
    assert {file.name for file in cache.iterdir()} == names
    monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("drawn again"))
    second = open_boxes(SMALL)
    assert torch.equal(second.train.image(11), first.train.image(11))
    assert torch.equal(second.train.annotations.objects.boxes, first.train.annotations.objects.boxes)
    (cache / min(names)).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"train12-seed3.safetensors: damaged .* delete it"):
        open_boxes(SMALL)


def test_they_open_as_data():
    data = open_boxes(SMALL, image_size=128)
    assert (len(data.train), len(data.val), data.classes) == (12, 5, CLASSES)
    assert data.category_ids == tuple(range(1, 13))
    assert (data.image_size, data.max_side, data.hflip, data.data_warnings) == (128, 1333, False, {})
    assert open_boxes(SMALL).image_size == SIZE


def test_written_in_coco_s_form_they_are_read_back_equal(tmp_path):
    data = open_boxes(SMALL)
    write_coco(data, tmp_path / "coco")
    read = open_boxes(f"coco:{tmp_path / 'coco'}")
    assert (read.classes, read.category_ids) == (data.classes, data.category_ids)
    # So few images do not show every character.
    assert set(read.data_warnings) == {"classes without boxes in train", "classes without boxes in val"}
    for ours, theirs in ((data.train, read.train), (data.val, read.val)):
        assert (ours.image_ids, ours.names) == (theirs.image_ids, theirs.names)
        assert torch.equal(ours.sizes, theirs.sizes)
        assert torch.equal(ours.annotations.counts, theirs.annotations.counts)
        for one, other in zip(ours.annotations.objects, theirs.annotations.objects, strict=True):
            assert torch.equal(one, other)
        assert all(torch.equal(ours.image(place), theirs.image(place)) for place in range(len(ours)))
    rows = json.loads((tmp_path / "coco" / "instances_val.json").read_text())["annotations"]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    with pytest.raises(ValueError, match="root: expected a new or an empty folder"):
        write_coco(data, tmp_path / "coco")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:train=0", "scenes: train: expected at least 1, got 0"),
        ("scenes:val=0", "scenes: val: expected at least 1, got 0"),
        ("scenes:train=x", "scenes: expected train=NUMBER once, got 'train=x'"),
    ],
)
def test_bad_numbers(spec, message):
    with pytest.raises(ValueError, match=message):
        open_boxes(spec)


def test_the_images_are_those_of_every_earlier_version():
    """Means of the first two, to less than what another processor's rounding moves: a renamed draw would move them."""
    train = open_boxes("scenes:train=5,val=2").train
    means = torch.stack([train.image(index).float().mean((1, 2)) for index in range(2)])
    expected = torch.tensor([[86.758, 66.888, 123.466], [139.641, 168.977, 197.395]])
    torch.testing.assert_close(means, expected, rtol=0, atol=0.1)
