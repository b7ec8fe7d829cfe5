"""Images are looked at before they are used: those that cannot be read, of another size, or turned by EXIF."""

import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from coco_files import box, content, image, write
from pldistill.tasks.detection.dataset import make_box_loader
from pldistill.tasks.detection.faster_rcnn import Detector
from pldistill.tasks.detection.predict import detect
from pldistill.tasks.detection.sources import open_boxes
from pldistill.tasks.detection.weights import save_detector
from tiny_detectors import NET, SMALL, DetectionOptions, detector

BOX = [6, 4, 16, 10]  # left, top, width, height in the image of 40 x 30 as it is shown


def bright():
    """A dark image with a bright rectangle where BOX is, as it is shown."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[4:14, 6:22] = 255
    return Image.fromarray(pixels)


def turned(orientation, file):
    """Store `bright` so that this EXIF orientation shows it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    back = {6: 8, 8: 6}.get(orientation, orientation)  # every other one is its own inverse
    carrier = bright()
    carrier.getexif()[ExifTags.Base.Orientation] = back
    ImageOps.exif_transpose(carrier).save(file, exif=exif, **({"quality": 100} if file.suffix == ".jpg" else {}))


def turned_data(folder, suffix, orientation, size=(40, 30)):
    name = f"1{suffix}"
    part = content([image(1, *size, name=name)], [box(1, 1, BOX)])
    write(folder, part, part)
    for part in ("train", "val"):
        turned(orientation, folder / part / name)
    return f"coco:{folder}"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_on_images_as_they_are_shown(tmp_path, suffix, orientation):
    data = open_boxes(turned_data(tmp_path, suffix, orientation), image_size=30)
    for split in (data.train, data.val.subset([0]), data.among(("a", *data.classes), [1, 2, 3]).val):
        shown = split.image(0)
        assert shown.shape == (3, 30, 40)
        rows, columns = np.nonzero(shown[0].numpy() > 127)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (6, 4, 22, 14)
    shown = {"short_side": 30, "max_side": 40, "hflip": False, "seed": 0, "shuffle": False, "batch_size": 1}
    (batch,) = make_box_loader(data.val, device=torch.device("cpu"), **shown).epoch(0)
    assert batch.images[0].shape == (3, 30, 40)
    assert batch.targets[0].boxes.tolist() == [[6, 4, 22, 14]]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_record_of_the_size_before_turning_is_named(tmp_path, suffix):
    spec = turned_data(tmp_path, suffix, 6, size=(30, 40))
    said = (
        r"1 of 1 images of .*instances_train.json have another size than their record: 1\..*: expected 30x40 pixels, "
    )
    with pytest.raises(ValueError, match=said) as caught:
        open_boxes(spec)
    assert "before its EXIF orientation is applied (exif=false reads it so)" in str(caught.value)
    assert open_boxes(spec, exif=False).val.image(0).shape == (3, 40, 30)
    spec = turned_data(tmp_path, suffix, 6)
    with pytest.raises(ValueError, match=r"after its EXIF orientation is applied \(exif=true reads it so\)"):
        open_boxes(spec, exif=False)


def test_predict_sees_an_image_as_it_is_shown(tmp_path):
    """The same boxes whatever the orientation that shows the image; and others where it is not applied."""
    about = {"architecture": NET, "classes": ("a", "b", "c"), "category_ids": (1, 2, 3)}
    options = DetectionOptions(**{**SMALL, "score_threshold": 0.0})
    model: Detector = detector(0, options={"score_threshold": 0.0})
    save_detector(model, tmp_path / "run", **about, image_size=64, max_side=100, options=options)
    files = [tmp_path / f"{orientation}.png" for orientation in (1, 6)]
    for orientation, file in zip((1, 6), files, strict=True):
        turned(orientation, file)
    upright, other = detect(tmp_path / "run", files)
    assert upright == other
    assert len(upright) > 0
    stored, _ = detect(tmp_path / "run", files[::-1], exif=False)
    assert stored != upright


def test_images_of_another_size_are_named_before_they_are_used(tmp_path):
    """All of them are counted, the first five named; of a part of the images those that are kept alone."""
    rows = [image(number) for number in range(20)]
    write(tmp_path, content(rows, [box(1, 3, [0, 0, 9, 9])]))
    few = open_boxes(f"coco:{tmp_path},train=5").train
    wrong = [number for number in range(20) if number not in few.image_ids][:7]
    for number in wrong:
        Image.new("RGB", (30, 41)).save(tmp_path / "train" / f"{number}.png")
    assert len(open_boxes(f"coco:{tmp_path},train=5").train) == 5
    with pytest.raises(ValueError, match="another size") as caught:
        open_boxes(f"coco:{tmp_path}")
    said = str(caught.value)
    assert f"7 of 20 images of {tmp_path / 'instances_train.json'} have another size than their record: " in said
    assert f"{wrong[0]}.png: expected 40x30 pixels, as in its record, got 30x41; {wrong[1]}.png: " in said
    assert said.endswith("; and 2 more")


def test_images_that_cannot_be_read_are_named_or_left_out(tmp_path):
    rows = [image(number) for number in range(1, 7)]
    write(tmp_path, content(rows, [box(number, number, [0, 0, 9, 9]) for number in (1, 2, 4)]))
    folder = tmp_path / "train"
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:20])
    (folder / "5.png").write_text("no image")
    with pytest.raises(ValueError, match=r"coco: 3 of 6 images of .*instances_train.json are bad: ") as caught:
        open_boxes(f"coco:{tmp_path}")
    assert all(f"{folder / name}.png: cannot be read as an image" in str(caught.value) for name in "235")
    assert str(caught.value).endswith("on_bad_image=skip leaves them out")
    data = open_boxes(f"coco:{tmp_path}", on_bad_image="skip")
    assert data.train.image_ids == (1, 4, 6)
    assert data.train.ids.tolist() == [0, 3, 5]
    assert [len(data.train.objects(place).labels) for place in range(3)] == [1, 1, 0]
    assert [len(bad) for bad in data.skipped.values()] == [3]
    assert any("3 images of train are left out, which cannot be read: " in note for note in data.notes())
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:-30])  # damaged behind its header
    assert open_boxes(f"coco:{tmp_path}", on_bad_image="skip").train.image_ids == (1, 6)
    for number in range(1, 7):
        (folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 6 images of .* can be read"):
        open_boxes(f"coco:{tmp_path}", on_bad_image="skip")
    with pytest.raises(ValueError, match="on_bad_image: expected stop or skip, got 'no'"):
        open_boxes(f"coco:{tmp_path}", on_bad_image="no")


def test_a_wrong_size_is_refused_where_bad_images_are_skipped_too(tmp_path):
    write(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "11.png")
    file = tmp_path / "instances_val.json"
    assert json.loads(file.read_text())["images"][0]["id"] == 11
    with pytest.raises(ValueError, match=r"1 of 2 images of .*instances_val.json have another size"):
        open_boxes(f"coco:{tmp_path}", on_bad_image="skip")
