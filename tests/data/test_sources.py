"""Opening data by its spec: what works, and one plain line for everything that does not."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pldistill.data import SOURCES, open_data

BAD = {
    "": r"^unknown data ''; known: cifar10, cifar100, digits, folder, glyphs, hfds, imagenet, wds$",
    "glyps": r"unknown data 'glyps'; did you mean glyphs\?",
    "cifar1000:/x": r"did you mean cifar100 or cifar10\?",
    "imagnet:/x": r"unknown data 'imagnet'; did you mean imagenet\?",
    "imagenet": r"imagenet: expected imagenet:PATH, got no path",
    "glyphs:": r"^unknown option of glyphs ''; known: seed, train, val, validation$",
    "glyphs:size=64": r"unknown option of glyphs 'size'",
    "glyphs:a=1,train=200": r"unknown option of glyphs 'a'",
    "glyphs:train": r"glyphs: expected train=NUMBER once, got 'train'",
    "glyphs:train=many": r"glyphs: expected train=NUMBER once, got 'train=many'",
    "glyphs:train=-5": r"glyphs: expected train=NUMBER once, got 'train=-5'",
    "glyphs:seed=1,seed=2": r"glyphs: expected seed=NUMBER once, got 'seed=2'",
    "glyphs:train=99": r"glyphs: train: expected at least 100, got 99",
    "glyphs:val=0": r"glyphs: val: expected at least 100, got 0",
    "glyphs:train=100,val=100,validation=100": r"validation: expected 100 to 0 images, .* has 1, got 100",
    "digits:train=5": r"unknown option of digits 'train'; known: validation",
    "digits:validation=9": r"^digits:validation=9: validation: expected 10 to 1380 images, .* has 139, got 9$",
    "digits:validation=1381": r"validation: expected 10 to 1380 images, as many of each of the 10 .*, got 1381",
    "cifar100": r"cifar100: expected cifar100:PATH, got no path",
    "cifar10:": r"cifar10: expected cifar10:PATH, got no path",
    "cifar10:/no/such/place": r"cifar10: expected cifar-10-batches-bin/ .* in /no/such/place, found neither",
    "cifar100:train=500": r"cifar100: expected cifar100:PATH, got no path",
    "cifar100:/no,such/place,train=500": r"cifar100: expected .* in /no,such/place, found neither",
    "cifar100:/no/such,trian=500": r"unknown option of cifar100 'trian'; did you mean train\?",
    "cifar10:/no/such,size=5,train=500": r"unknown option of cifar10 'size'; known: train, validation",
    "cifar10:/no/such,train=many": r"cifar10: expected train=NUMBER once, got 'train=many'",
    "cifar10:/no/such,train=-5": r"cifar10: expected train=NUMBER once, got 'train=-5'",
    "cifar10:/no/such,train=5,train=6": r"cifar10: expected train=NUMBER once, got 'train=6'",
    "folder:/no/such,year=late": r"folder: expected a folder, got /no/such,year=late",
    "folder": r"folder: expected folder:PATH, got no path",
    "folder:/no/such/place": r"folder: expected a folder, got /no/such/place",
}


@pytest.mark.parametrize("spec", BAD, ids=[spec or "nothing" for spec in BAD])
def test_a_wrong_spec_is_one_plain_line(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=BAD[spec]) as caught:
        open_data(spec)
    assert "\n" not in str(caught.value)


def test_a_wrong_image_size_is_refused():
    with pytest.raises(ValueError, match="image_size: expected at least 1 pixel, got 0"):
        open_data("digits", image_size=0)


def test_every_source_says_what_it_is_in_one_line():
    assert list(SOURCES) == ["glyphs", "digits", "cifar100", "cifar10", "folder", "imagenet", "hfds", "wds"]
    for name, source in SOURCES.items():
        assert source.grammar.startswith(name)
        assert 20 < len(source.description) < 100


def test_a_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=rf"expected {tmp_path}/images/val/ \(or"):
        open_data("folder:~/images")


@pytest.fixture
def images(tmp_path):
    """20 cats, 21 dogs and 24 eels to learn from, 2 of each for scoring, in a folder whose name looks like options."""
    generator = np.random.default_rng(0)
    root = tmp_path / "pets,size=8"
    for part, counts in (("train", (20, 21, 24)), ("val", (2, 2, 2))):
        for name, count in zip(("cat", "dog", "eel"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_options_follow_a_path_that_may_hold_commas(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))
    whole = open_data(f"folder:{images}")
    assert (len(whole.train), whole.holdout) == (65, None)
    spec = f"folder:{images},train=31,validation=10"
    data = open_data(spec)
    assert data.spec == spec
    assert data.holdout is not None
    assert (len(data.train), len(data.holdout), len(data.val)) == (31, 10, 6)
    names = {int(i): path for i, path in zip(whole.train.ids, whole.train.paths, strict=True)}
    for split in (data.train, data.holdout):
        assert [names[int(i)] for i in split.ids] == list(split.paths)
        assert torch.equal(split.labels, whole.train.labels[split.ids])
    assert data.val.paths == whole.val.paths
    with pytest.raises(ValueError, match=r"train: expected 3 to 51 images beside validation=10, .* has 17, got 52"):
        open_data(f"folder:{images},train=52,validation=10")
    with pytest.raises(ValueError, match=r"train: expected 3 to 60 images, as many .* has 20, got 61"):
        open_data(f"folder:{images},train=61")


def test_glyphs_and_digits_hold_images_out_of_those_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path))
    for spec, count in (("glyphs:train=300,val=100", 300), ("digits", 1437)):
        whole, data = open_data(spec), open_data(f"{spec}{',' if ':' in spec else ':'}validation=150")
        assert whole.holdout is None
        assert data.holdout is not None
        assert (len(data.train), len(data.holdout)) == (count - 150, 150)
        assert torch.equal(torch.cat([data.train.ids, data.holdout.ids]).sort().values, whole.train.ids)
        assert torch.equal(data.holdout.images, whole.train.images[data.holdout.ids])
        assert torch.equal(data.val.images, whole.val.images)


def test_digits_are_the_real_ones_divided_once_and_for_all():
    data = open_data("digits")
    assert (data.classes, data.image_size, data.hflip) == (tuple("0123456789"), 32, False)
    assert (len(data.train), len(data.val)) == (1437, 360)
    _, target = load_digits(return_X_y=True)
    whole = torch.bincount(torch.from_numpy(target))
    assert (torch.bincount(data.val.labels) - whole / 5).abs().max() < 1
    seen = {image.numpy().tobytes() for image in data.train.images}
    assert not any(image.numpy().tobytes() in seen for image in data.val.images)
    assert torch.equal(data.train.images, open_data("digits").train.images)
    pixels = data.train.images.double() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(data.mean).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(data.std).double(), rtol=0, atol=1e-3)


def test_digits_keep_their_labels():
    """Shrunk again, each image is the one of its label in the source."""
    pixels, target = load_digits(return_X_y=True)
    data = open_data("digits")
    shrunk = torch.nn.functional.avg_pool2d(data.val.images[:, :1].float(), 4).flatten(1).numpy()
    nearest = ((shrunk[:, None] - pixels[None] * 255 / 16) ** 2).sum(2).argmin(1)
    assert np.array_equal(target[nearest], data.val.labels.numpy())
