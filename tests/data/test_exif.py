"""EXIF orientation: images are seen as they are shown, or with `exif` off as they are stored."""

import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

import pldistill
from pldistill.data import make_loader, open_data, read_image
from pldistill.data.images import check_header, open_image
from pldistill.recipe import make_recipe
from pldistill.training.run import predict

HOW = {"batch_size": 2, "image_size": 8, "augment": None, "seed": 0, "shuffle": False, "device": torch.device("cpu")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))


def stored(orientation, width=16, height=8):
    """A gradient with an orientation, as bytes of a JPEG of the best quality."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 200 // height, columns * 200 // width, rows * 0], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "jpeg", quality=100, subsampling=0, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
def test_every_orientation_is_pil_s(tmp_path, orientation):
    path = tmp_path / "x.jpg"
    path.write_bytes(stored(orientation))
    with Image.open(path) as image:
        shown, plain = np.asarray(ImageOps.exif_transpose(image)), np.asarray(image)
    assert np.array_equal(np.asarray(open_image(str(path))), shown)
    assert np.array_equal(np.asarray(open_image(str(path), exif=False)), plain)
    assert check_header(str(path)) == open_image(str(path)).size
    assert check_header(str(path), exif=False) == (16, 8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_header_tells_the_size_of_every_kind_of_file(tmp_path, suffix, orientation, monkeypatch):
    """As the image is opened, turned or not; and no PNG is decoded for it."""
    path = tmp_path / f"x{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    sizes = [open_image(str(path), exif=exif).size for exif in (True, False)]
    if suffix == ".png":
        monkeypatch.setattr(Image.Image, "load", None)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert [check_header(str(path), exif=exif) for exif in (True, False)] == sizes
    assert sizes[0] == ((8, 16) if orientation >= 5 else (16, 8))


def test_the_top_left_of_an_image_turned_by_90_degrees(tmp_path):
    """Orientation 6: the camera was held upright; the first row as stored is the right edge as shown."""
    path = tmp_path / "x.jpg"
    path.write_bytes(stored(6))
    image = np.asarray(open_image(str(path))).astype(int)
    assert image.shape == (16, 8, 3)
    assert (image[0, -1] < 30).all()  # dark is the stored top left
    assert image[0, 0, 0] > 150  # red grows with the stored rows


def test_exif_data_that_cannot_be_read_is_no_orientation(tmp_path):
    path = tmp_path / "x.jpg"
    content = stored(6)
    at = content.index(b"Exif\0\0") + 6
    path.write_bytes(content[:at] + b"\xff" * 12 + content[at + 12 :])
    assert open_image(str(path)).size == (16, 8)


@pytest.fixture
def root(tmp_path):
    for part in ("train", "val"):
        for name, turn in (("ant", 6), ("cat", 1)):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "set" / part / name / f"{i}.jpg").write_bytes(stored(turn))
    return tmp_path / "set"


def test_loaders_turn_and_the_option_does_not(root):
    shown, plain = (open_data(f"folder:{root}", image_size=8, exif=exif) for exif in (True, False))
    (upright,), (as_is,) = (make_loader(data.val.subset([0, 2]), **HOW).epoch(0) for data in (shown, plain))
    path = str(root / "val" / "ant" / "0.jpg")
    assert torch.equal(upright.images[0], read_image(path, 8))
    assert torch.equal(as_is.images[0], read_image(path, 8, exif=False))
    assert not torch.equal(upright.images[0], as_is.images[0])
    assert torch.equal(upright.images[1], as_is.images[1])
    assert shown.train.fingerprint() != plain.train.fingerprint()  # a teacher cache is of one of them


def test_predict_sees_what_the_run_was_trained_on(root, tmp_path):
    fields = {"data": f"folder:{root}", "student": "resnet8", "method": "ce", "epochs": 1, "image_size": 8}
    path = root / "val" / "ant" / "0.jpg"
    for exif in (True, False):
        recipe = make_recipe({**fields, "batch_size": 2, "exif": exif})
        run = pldistill.train(recipe, out=tmp_path / f"{exif}", device="cpu", workers=0)
        loaded = run.load()
        image = read_image(str(path), 8, exif=exif)[None]
        model = pldistill.models.NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std).eval()
        expected = model(image).logits.softmax(1)[0]
        found = dict(predict(run, [path])[0])
        for name, probability in zip(loaded.classes, expected.tolist(), strict=True):
            assert found[name] == pytest.approx(probability, abs=1e-6)
