"""`coco:PATH`: the usual layouts, what is odd and counted, what is wrong and refused."""

import json

import pytest
import torch
from PIL import Image

from coco_files import CATEGORIES, TRAIN, VAL, box, content, image, write
from places import SHARED
from pldistill.data import open_data
from pldistill.recipe import make_recipe
from pldistill.tasks.detection.coco import files_for, write_coco
from pldistill.tasks.detection.sources import BOX_SOURCES, open_boxes


def opened(root, **options):
    return open_boxes(f"coco:{root}", **options)


def test_classes_follow_the_ids_and_labels_have_no_gaps(tmp_path):
    data = opened(write(tmp_path))
    assert (data.classes, data.category_ids) == (("cat", "dog", "axe"), (3, 7, 90))
    assert (data.image_size, data.max_side, data.hflip) == (800, 1333, True)
    train = data.train
    assert (train.image_ids, train.names, train.ids.tolist()) == ((2, 5, 9), ("2.png", "5.png", "9.png"), [0, 1, 2])
    assert train.sizes.tolist() == [[30, 40], [30, 40], [50, 20]]
    assert [train.objects(place).labels.tolist() for place in range(3)] == [[], [1], [3]]
    assert train.objects(2).boxes.tolist() == [[1, 2, 11, 22]]
    assert train.objects(2).areas.tolist() == [200]
    assert train.image(2).shape == (3, 50, 20)
    assert train.image(2).unique().tolist() == [90]
    assert data.data_warnings == {
        "images without boxes in train": 1,
        "classes without boxes in train": 1,
        "images without boxes in val": 1,
        "classes without boxes in val": 2,
    }


@pytest.mark.parametrize(
    ("images", "files"),
    [
        (("train", "val"), "annotations/instances_{}.json"),
        (("train2017", "val2017"), "annotations/instances_{}2017.json"),
        (("images/train2017", "images/val2017"), "annotations/instances_{}2017.json"),
        (("images", "images"), "instances_{}.json"),
        ((".", "."), "instances_{}.json"),
    ],
)
def test_the_usual_layouts(tmp_path, images, files):
    data = opened(write(tmp_path, images=images, files=files))
    assert [int(split.image(0)[0, 0, 0]) for split in (data.train, data.val)] == [20, 110]


def test_roboflow_s_layout(tmp_path):
    write(tmp_path, images=("train", "valid"))
    for side, folder in (("train", "train"), ("val", "valid")):
        (tmp_path / f"instances_{side}.json").rename(tmp_path / folder / "_annotations.coco.json")
    assert opened(tmp_path).val.image_ids == (11, 12)


@pytest.mark.parametrize("layout", ["test/_annotations.coco.json", "instances_test.json", "_annotations.coco.json"])
def test_a_test_split_alone_is_scored_on(tmp_path, layout):
    write(tmp_path, images=("train", "test"))
    (tmp_path / "instances_train.json").unlink()
    folder = "." if layout == "_annotations.coco.json" else "test"
    (tmp_path / "test").rename(tmp_path / "all")
    (tmp_path / "test").mkdir()
    for name in ("11.png", "12.png"):
        (tmp_path / "all" / name).rename(tmp_path / folder / name)
    (tmp_path / "instances_val.json").rename(tmp_path / layout)
    data = opened(tmp_path, evaluation=True)
    assert (data.val.image_ids, len(data.train)) == ((11, 12), 0)
    assert data.val.image(0).unique().tolist() == [110]
    assert data.data_warnings == {"images without boxes in val": 1, "classes without boxes in val": 2}
    with pytest.raises(ValueError, match=r"coco: expected instances_train.json, "):
        opened(tmp_path)


def test_validation_images_come_before_test_images(tmp_path):
    write(tmp_path, images=("train", "test"))
    (tmp_path / "val").mkdir()
    for number in (11, 12):
        Image.new("RGB", (40, 30)).save(tmp_path / "val" / f"{number}.png")
    assert opened(tmp_path, evaluation=True).val.image(0).unique().tolist() == [0]
    (tmp_path / "val" / "11.png").unlink()
    with pytest.raises(ValueError, match=r"1 of the 2 images of .* are missing in .*: 11.png"):  # not test's
        opened(tmp_path, evaluation=True)


def test_a_link_to_an_image_elsewhere_is_followed_and_a_broken_one_is_missing(tmp_path):
    root = write(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere.png"
    (root / "val" / "11.png").rename(elsewhere)
    (root / "val" / "11.png").symlink_to(elsewhere)
    assert opened(root).val.image(0).unique().tolist() == [110]
    elsewhere.unlink()
    with pytest.raises(ValueError, match=r"1 of the 2 images of .* are missing in .*: 11.png"):
        opened(root)


def test_images_of_one_name_in_several_folders_keep_their_own_files(tmp_path):
    names = ["a/1.jpg", "b/1.jpg"]
    rows = [image(number, name=name) for number, name in enumerate(names, start=1)]
    data = opened(write(tmp_path / "read", val=content(rows, [box(1, 1, [3, 4, 10, 20])])))
    write_coco(data, tmp_path / "written")
    again = opened(tmp_path / "written")
    assert again.val.names == ("a/1.png", "b/1.png")
    assert [int(again.val.image(place).median()) for place in (0, 1)] == [10, 20]
    assert files_for(["a/1.png", "a/1.jpg", "2.bmp"], ".png") == ["a/1.png.png", "a/1.jpg.png", "2.bmp.png"]


def test_a_file_name_may_have_a_folder(tmp_path):
    train = content([image(1, name="train/deep/1.png")], [box(1, 1, [0, 0, 9, 9])])
    data = opened(write(tmp_path, train, images=(".", "val")))
    assert data.train.paths == (str((tmp_path / "train/deep/1.png").resolve()),)


def test_one_file_under_two_names_is_refused(tmp_path):
    rows = [image(1, name="1.png"), image(2, name="train/1.png"), image(3)]
    write(tmp_path, content(rows, [box(1, 1, [0, 0, 9, 9])]))
    (tmp_path / "train" / "train" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"expected a file of its own for each image, got .*train/1.png for several"):
        opened(tmp_path)


def test_links_are_followed_and_shared_images_counted(tmp_path):
    train = content([image(1), image(2)], [box(1, 1, [0, 0, 9, 9])])
    val = content([image(2), image(3)], [box(1, 2, [0, 0, 9, 9])])
    write(tmp_path / "there", train, val, images=("all", "all"))
    root = tmp_path / "here"
    root.mkdir()
    for name in ("train", "val"):
        (root / name).symlink_to(tmp_path / "there" / "all")
        (root / f"instances_{name}.json").symlink_to(tmp_path / "there" / f"instances_{name}.json")
    data = opened(root)
    assert data.train.image(1).unique().tolist() == data.val.image(0).unique().tolist() == [20]
    assert data.data_warnings["images that are in train and in val"] == 1


def test_what_is_odd_is_counted(tmp_path):
    rows = [
        box(1, 1, [-5, -5, 15, 15]),  # to 0 0 10 10
        box(2, 1, [30, 20, 20, 20], 7, area=50.5),  # to 30 20 40 30
        box(3, 1, [5, 5, 0, 10]),
        box(8, 1, [50, 5, 10, 10]),  # outside
        box(4, 1, [5, 5, 10, -3]),
        box(5, 1, [30.001, 5, 10, 10]),  # COCO's rounding
        box(6, 1, [2, 2, 20, 20], iscrowd=1, segmentation={"counts": [1, 2], "size": [30, 40]}),
        box(7, 4, [1, 1, 2, 2]),  # of no image
    ]
    data = opened(write(tmp_path, content([image(1), image(2)], rows)))
    assert data.data_warnings == {
        "boxes out of bounds, clipped, in train": 2,
        "boxes without area, left out, in train": 3,
        "crowds, not learned from, in train": 1,
        "annotations of images that are not listed, left out, in train": 1,
        "images without boxes in train": 1,
        "classes without boxes in train": 1,
        "images without boxes in val": 1,
        "classes without boxes in val": 2,
    }
    found = data.train.objects(0)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [30, 20, 40, 30], [30.001, 5, 40, 15], [2, 2, 22, 22]]
    assert found.areas.tolist() == pytest.approx([100, 50.5, 99.99, 400])
    assert found.crowd.tolist() == [False, False, False, True]
    assert found.labels.tolist() == [1, 2, 1, 1]
    assert [len(column) for column in data.train.objects(1)] == [0, 0, 0, 0]


def test_part_of_the_training_images_is_the_same_for_ever(tmp_path):
    many = content([image(number) for number in range(20)], [box(1, 3, [0, 0, 9, 9])])
    write(tmp_path, many)
    few, more = opened(f"{tmp_path},train=5").train, opened(f"{tmp_path},train=11").train
    whole = opened(tmp_path).train
    assert (len(few), len(more)) == (5, 11)
    assert set(few.image_ids) < set(more.image_ids)
    assert few.ids.tolist() == sorted(few.ids.tolist()) == list(few.image_ids) != list(range(5))
    assert len(opened(f"{tmp_path},train=5").val) == 2
    for place, number in enumerate(more.ids.tolist()):
        assert more.names[place] == whole.names[number]
        assert torch.equal(more.image(place), whole.image(number))
        assert torch.equal(more.objects(place).boxes, whole.objects(number).boxes)
    for count in (0, 21):
        with pytest.raises(ValueError, match=f"coco: train: expected 1 to 20 images, got {count}"):
            opened(f"{tmp_path},train={count}")


def test_a_file_of_annotations_without_boxes_is_refused(tmp_path):
    write(tmp_path, TRAIN | {"annotations": [box(1, 5, [0, 0, 8, 0]), box(2, 77, [0, 0, 8, 8])]})
    with pytest.raises(ValueError, match=r"instances_train.json: expected at least one box with an area in a l"):
        opened(tmp_path)


def test_missing_images_are_named(tmp_path):
    write(tmp_path)
    for number in (2, 9):
        (tmp_path / "train" / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"2 of the 3 images of .*instances_train.json are missing in .*: 2.png, 9"):
        opened(tmp_path)
    many = content([image(number) for number in range(9)], [box(1, 3, [0, 0, 9, 9])])
    (tmp_path / "instances_train.json").write_text(json.dumps(many))
    with pytest.raises(ValueError, match=r"8 of the 9 .*: 0.png, 1.png, 2.png, 3.png, 4.png, and 3 more"):
        opened(tmp_path)


def test_an_image_of_another_size_is_named_when_it_is_read(tmp_path):
    data = opened(write(tmp_path))
    (tmp_path / "train" / "9.png").write_bytes((tmp_path / "train" / "2.png").read_bytes())
    with pytest.raises(ValueError, match=r"9.png: expected 20x50 pixels, as in its record, got 40x30"):
        data.train.image(2)


def test_categories_of_val_must_be_those_of_train(tmp_path):
    write(tmp_path, val=VAL | {"categories": CATEGORIES[:2]})
    assert opened(tmp_path).classes == ("cat", "dog", "axe")  # val may lack some
    write(tmp_path, val=VAL | {"categories": [*CATEGORIES, {"id": 91, "name": "bee"}]})
    with pytest.raises(ValueError, match="91 is 'bee' in the first and no such category in the second"):
        opened(tmp_path)
    write(tmp_path, val=VAL | {"categories": [{"id": 7, "name": "cow"}]})
    with pytest.raises(ValueError, match="7 is 'cow' in the first and 'dog' in the second"):
        opened(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"coco: expected a folder, got .*nowhere, which is not one"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"coco: expected instances_train.json, .* in .*; there is none"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="coco: expected coco:PATH, got no path"):
        open_boxes("coco")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("glyphs", {}, "data: glyphs has labels and no boxes: it is for classification"),
        ("cocoa:x", {}, "unknown data with boxes 'cocoa'; did you mean coco"),
        ("scenes:size=3", {}, "unknown option of scenes 'size'"),
        ("scenes", {"image_size": 0}, "image_size: expected at least 1 pixel, got 0"),
        ("scenes:train=2,val=2", {"max_side": 95}, "max_side: expected at least 96, as the short side, got 95"),
    ],
)
def test_bad_requests(spec, options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        open_boxes(spec, **options)


@pytest.mark.parametrize("name", BOX_SOURCES)
def test_boxes_are_no_labels(name):
    with pytest.raises(ValueError, match=f"unknown data '{name}'"):
        open_data(f"{name}:x")
    with pytest.raises(ValueError, match=f"^data: expected data for classification, got '{name}', which is for "):
        make_recipe({"data": f"{name}:x", "student": "resnet8", "method": "ce"})


def test_real_images():
    folder = SHARED / "coco_tiny"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is absent; PLDISTILL_TEST_DATA names the folder that holds it")
    data = open_boxes(f"coco:{folder}")
    assert (len(data.train), len(data.val), len(data.classes)) == (258, 128, 80)
    assert (data.category_ids[0], data.category_ids[11], data.category_ids[-1]) == (1, 13, 90)
    assert data.data_warnings == {
        "crowds, not learned from, in train": 23,
        "images without boxes in train": 3,
        "crowds, not learned from, in val": 10,
        "images without boxes in val": 2,
        "classes without boxes in val": 2,
    }
    assert len(data.train.annotations.objects.labels) == 2148


@pytest.mark.parametrize("name", ["../secret.png", "deep/../../secret.png", "ABSOLUTE"])
def test_a_file_name_may_not_leave_the_folder(tmp_path, name):
    root = write(tmp_path / "data")
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    name = str(tmp_path / "secret.png") if name == "ABSOLUTE" else name
    file = root / "instances_val.json"
    file.write_text(json.dumps(content([image(11, name=name), image(12)], [box(1, 11, [3, 4, 10, 20], 7)])))
    with pytest.raises(ValueError, match=r"instances_val.json: expected file_name inside the data's folders, got '"):
        open_boxes(f"coco:{root}")
