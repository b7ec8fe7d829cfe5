"""`folder:`: every layout that works, and every one that does not named before training starts."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from pldistill.data import default_augment, make_loader, open_data, verify
from pldistill.data.augment import read_image
from pldistill.data.images import open_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def draw_image(width=40, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two classes with three images to train on and one to validate."""
    for part, count in (("train", 3), ("val", 1)):
        for name in ("cat", "ant"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                draw_image(seed=i).save(tmp_path / "set" / part / name / f"{i}.png")
    return tmp_path / "set"


def test_classes_labels_and_sizes(root):
    data = open_data(f"folder:{root}")
    assert (data.classes, data.image_size, data.hflip) == (("ant", "cat"), 40, True)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val.labels.tolist() == [0, 1]
    assert [os.path.relpath(path, root) for path in data.val.paths] == ["val/ant/0.png", "val/cat/0.png"]
    assert open_data(f"folder:{root}", image_size=24).image_size == 24


@pytest.mark.parametrize("size", [(41, 40), (65, 65), (20, 20)])
def test_images_that_are_not_all_small_squares_of_one_size_are_seen_at_224(root, size):
    if size == (65, 65):
        for path in root.rglob("*.png"):
            draw_image(*size).save(path)
    else:
        draw_image(*size).save(root / "val" / "cat" / "0.png")
    assert open_data(f"folder:{root}").image_size == 224


def test_test_stands_in_for_val_and_val_goes_first(root):
    (root / "val").rename(root / "test")
    assert "test" in open_data(f"folder:{root}").val.paths[0]
    (root / "val").mkdir()
    for name in ("ant", "cat"):
        (root / "val" / name).mkdir()
        draw_image().save(root / "val" / name / "x.jpg")
    assert all("/val/" in path for path in open_data(f"folder:{root}").val.paths)


def test_links_to_images_classes_and_splits_are_followed(root, tmp_path):
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "ant" / "9.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    (root / "val").rename(tmp_path / "valid")
    (root / "val").symlink_to(tmp_path / "valid")
    assert len(open_data(f"folder:{root}").train) == 7


def test_folders_inside_a_class_are_read_and_a_circle_of_links_ends(root):
    (root / "train" / "cat" / "more").mkdir()
    draw_image().save(root / "train" / "cat" / "more" / "z.jpeg")
    (root / "train" / "cat" / "more" / "up").symlink_to(root / "train" / "cat")
    assert len(open_data(f"folder:{root}").train) == 7


def test_hidden_files_and_other_suffixes_are_passed_over(root):
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "._0.png").write_bytes(b"no image")
    (root / "train" / ".cache").mkdir()
    assert len(open_data(f"folder:{root}").train) == 6


MODES = {
    "gray.png": ("L", 90),
    "bits.png": ("1", 1),
    "palette.png": ("P", 3),
    "alpha.png": ("RGBA", (10, 20, 30, 0)),
    "gray_alpha.png": ("LA", (90, 10)),
    "cmyk.jpg": ("CMYK", (0, 0, 0, 100)),
    "sixteen.png": ("I;16", 0x5A12),
    "sixteen.tif": ("I;16", 0x5A12),
    "ycbcr.jpg": ("YCbCr", (90, 128, 128)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(root, name):
    mode, color = MODES[name]
    path = root / "train" / "cat" / name
    Image.new(mode, (40, 40), color).save(path)
    seen = read_image(str(path), 40)
    assert (seen.dtype, tuple(seen.shape)) == (torch.uint8, (3, 40, 40))
    if "16" in mode or mode in ("L", "LA"):
        assert seen.unique().tolist() == [90]
    if mode == "RGBA":
        assert seen[:, 0, 0].tolist() == [10, 20, 30]
    assert len(open_data(f"folder:{root}").train) == 7


def test_a_palette_with_transparency(root):
    path = root / "train" / "cat" / "p.png"
    Image.new("P", (40, 40), 3).save(path, transparency=bytes([0, 10, 20, 30]))
    assert open_image(str(path)).mode == "RGB"


def test_evaluation_above_64_pixels_sees_the_central_95_percent(tmp_path):
    path = tmp_path / "x.png"
    image = draw_image(400, 300)
    image.save(path)
    # ceil(100 / 0.95) = 106 on the short side, 141 on the long
    expected = image.resize((141, 106), Image.Resampling.BICUBIC).crop((20, 3, 120, 103))
    assert torch.equal(read_image(str(path), 100), torch.from_numpy(np.asarray(expected).copy()).permute(2, 0, 1))


def test_mixed_sizes_make_batches(root):
    draw_image(300, 90).save(root / "train" / "cat" / "wide.png")
    draw_image(7, 9).save(root / "train" / "ant" / "tiny.png")
    data = open_data(f"folder:{root}", image_size=80)
    for split, augment in ((data.train, default_augment(data)), (data.val, None)):
        made = make_loader(
            split, batch_size=4, image_size=80, augment=augment, seed=0, shuffle=False, device=torch.device("cpu")
        )
        assert all(batch.images.shape[1:] == (3, 80, 80) for batch in made.epoch(0))


def test_the_second_start_decodes_nothing_and_a_change_decodes_again(root, monkeypatch):
    opened = []
    monkeypatch.setattr(verify, "open_image", lambda path, *how: opened.append(path) or open_image(path, *how))
    first = open_data(f"folder:{root}")
    assert len(opened) == 8
    assert open_data(f"folder:{root}").image_size == first.image_size
    assert len(opened) == 8
    (root / "val" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/0\.png"):
        open_data(f"folder:{root}")


def damage(path, kind):
    data = path.read_bytes()
    path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "text":
        path.write_text("this is no image")
    elif kind == "flipped":
        path.write_bytes(data[:60] + bytes(byte ^ 255 for byte in data[60:200]) + data[200:])
    elif kind == "link":
        path.symlink_to("nowhere.png")
    elif kind == "float":
        Image.new("F", (9, 9)).save(path, format="TIFF")
    elif kind == "pipe":  # opening it would wait for a writer forever
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "flipped", "link", "float", "pipe"])
def test_a_bad_file_is_named_before_training(root, kind):
    path = root / "train" / "cat" / "1.png"
    damage(path, kind)
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(ValueError, match=r"1 of 8 files are bad: .*train/cat/1\.png: cannot be read as an image"):
            open_data(f"folder:{root}")


def test_many_bad_files_are_counted_and_the_first_named(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"8 of 8 files are bad: .*ant/0\.png.*; and 3 more; on_bad_image=skip leaves"):
        open_data(f"folder:{root}")


def empty_class(root):
    for path in (root / "train" / "cat").iterdir():
        path.unlink()


def lone_class(root):
    (root / "val" / "dog").mkdir()


BAD = {
    "no folder": (lambda root: root.rename(root.parent / "gone"), r"expected a folder, got .*set"),
    "no train": (lambda root: (root / "train").rename(root / "training"), r"expected .*/train/ with a folder for each"),
    "no val": (
        lambda root: (root / "val").rename(root / "dev"),
        r"expected .*/val/ \(or valid, .* with a folder for",
    ),
    "empty class": (empty_class, r"train/cat holds no images \(\.bmp"),
    "lone class": (lone_class, r"must hold the same classes; in one alone: dog"),
    "no classes": (
        lambda root: [p.rename(root / p.name) for p in (root / "train").iterdir()],
        r"class in .*train, found",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_layout_is_explained(root, case):
    change, message = BAD[case]
    change(root)
    with pytest.raises(ValueError, match=message):
        open_data(f"folder:{root}")
