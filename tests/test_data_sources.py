"""Opening data by its spec: what works, and one plain line for everything that does not."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pldistill.data import SOURCES, open_data

BAD = {
    "": r"data: expected one of glyphs, digits, cifar100, cifar10, folder, got ''",
    "glyps": r"expected one of .*, got 'glyps' \(did you mean glyphs\?\)",
    "cifar1000:/x": r"did you mean cifar100\?",
    "imagenet:/x": r"got 'imagenet'$",
    "glyphs:": r"glyphs: takes the options train, val, seed, got ''",
    "glyphs:size=64": r"glyphs: takes the options train, val, seed, got 'size=64'",
    "glyphs:train": r"glyphs: expected train=NUMBER once, got 'train'",
    "glyphs:train=many": r"glyphs: expected train=NUMBER once, got 'train=many'",
    "glyphs:train=-5": r"glyphs: expected train=NUMBER once, got 'train=-5'",
    "glyphs:seed=1,seed=2": r"glyphs: expected seed=NUMBER once, got 'seed=2'",
    "glyphs:train=99": r"glyphs: train: expected at least 100, got 99",
    "glyphs:val=0": r"glyphs: val: expected at least 100, got 0",
    "digits:train=5": r"digits: takes no options, got 'train=5'",
    "cifar100": r"cifar100: expected cifar100:PATH, got no path",
    "cifar10:": r"cifar10: expected cifar10:PATH, got no path",
    "cifar10:/no/such/place": r"cifar10: expected cifar-10-batches-bin/ .* in /no/such/place, found neither",
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
    assert list(SOURCES) == ["glyphs", "digits", "cifar100", "cifar10", "folder"]
    for name, source in SOURCES.items():
        assert source.grammar.startswith(name)
        assert 20 < len(source.description) < 100


def test_a_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=rf"expected {tmp_path}/pictures/val/ or"):
        open_data("folder:~/pictures")


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
    """Shrunk again, each picture is the one of its label in the source."""
    pixels, target = load_digits(return_X_y=True)
    data = open_data("digits")
    shrunk = torch.nn.functional.avg_pool2d(data.val.images[:, :1].float(), 4).flatten(1).numpy()
    nearest = ((shrunk[:, None] - pixels[None] * 255 / 16) ** 2).sum(2).argmin(1)
    assert np.array_equal(target[nearest], data.val.labels.numpy())
