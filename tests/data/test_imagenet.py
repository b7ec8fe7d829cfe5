"""`imagenet:`: the synsets in the order of timm's heads, and what is wrong with a folder that is not ImageNet's."""

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

from pldistill.data import default_augment, make_loader, open_data, verify

SYNSETS = ImageNetInfo().label_names()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every synset with an image to train on and one to validate; the gray of each says which synset it is."""
    root = tmp_path_factory.mktemp("imagenet")
    for part in ("train", "val"):
        for label, name in enumerate(SYNSETS):
            (root / part / name).mkdir(parents=True)
            # a PPM is a line of text and its pixels: quick to write by the thousand
            pixels = bytes([label % 256, label // 256, 0])
            (root / part / name / f"{name}_1.ppm").write_bytes(b"P6 1 1 255\n" + pixels)
    (root / "meta.bin").write_bytes(b"what torchvision leaves")
    return root


@pytest.fixture
def empty(tmp_path):
    """The folders alone."""
    for part in ("train", "val"):
        for name in SYNSETS:
            (tmp_path / part / name).mkdir(parents=True)
    return tmp_path


def test_label_i_is_the_i_th_synset_and_nothing_is_decoded_beforehand(root, monkeypatch):
    monkeypatch.setattr(verify, "open_image", lambda path, *how: pytest.fail(f"decoded {path}"))
    data = open_data(f"imagenet:{root}")
    assert (len(data.classes), data.classes[0], data.classes[-1]) == (1000, "n01440764", "n15075141")
    assert list(data.classes) == sorted(data.classes)
    assert (data.image_size, data.hflip, data.holdout) == (224, True, None)
    for split, part in ((data.train, "train"), (data.val, "val")):
        assert split.labels.tolist() == list(range(1000))
        assert split.paths[999] == str(root / part / "n15075141" / "n15075141_1.ppm")
    assert open_data(f"imagenet:{root}", image_size=160).image_size == 160
    assert default_augment(data).crop == "resized"


def test_its_images_become_batches(root):
    data = open_data(f"imagenet:{root}", image_size=8)
    made = make_loader(
        data.val, batch_size=4, image_size=8, augment=None, seed=0, shuffle=False, device=torch.device("cpu")
    )
    batch = next(made.epoch(0))
    assert batch.images[:, 0, 0, 0].tolist() == batch.labels.tolist() == [0, 1, 2, 3]


def test_a_file_that_cannot_be_read_is_named_by_its_batch(root, tmp_path):
    data = open_data(f"imagenet:{root}", image_size=8)
    path = tmp_path / "bad.jpeg"
    path.write_bytes(b"no image")
    split = type(data.val)([str(path)], torch.tensor([0]))
    made = make_loader(
        split, batch_size=4, image_size=8, augment=None, seed=0, shuffle=False, device=torch.device("cpu")
    )
    with pytest.raises(ValueError, match=r"bad\.jpeg: cannot be read as an image"):
        next(made.epoch(0))


def flatten(root):
    for folder in (root / "val").iterdir():
        folder.rmdir()
    for i in range(3):
        Image.new("RGB", (2, 2)).save(root / "val" / f"ILSVRC2012_val_{i}.JPEG")


def rename(root):
    (root / "train" / "n01440764").rename(root / "train" / "tench")


def shrink(root):
    for name in SYNSETS[100:]:
        (root / "val" / name).rmdir()


def clear(root):
    for folder in (root / "train").iterdir():
        folder.rmdir()


BAD = {
    "no train": (
        lambda root: (root / "train").rename(root / "training"),
        r"expected .*/train/ with a folder for each synset; there is none; torchvision\.datasets\.ImageNet unpacks",
    ),
    "no val": (lambda root: (root / "val").rename(root / "dev"), r"expected .*/val/ with a folder for each synset"),
    "flat val": (
        flatten,
        r"expected a folder for each synset in .*/val, got 3 images side by side, .*: torchvision\.datasets\.Image",
    ),
    "a name": (
        rename,
        r"expected the 1000 synsets n01440764 to n15075141 as folders in .*/train, got 1000 folders, "
        r"lacking n01440764, beside them tench; other classes are for folder:/",
    ),
    "a part": (shrink, r"in .*/val, got 100 folders, lacking n\d{8} n\d{8} n\d{8} and 897 more; other classes"),
    "nothing": (clear, r"expected a folder for each class in .*/train, found none"),
    "no images": (lambda root: None, r"^imagenet: .*/train/n01440764 holds no images \(\.bmp"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_layout_is_explained(empty, case):
    change, message = BAD[case]
    change(empty)
    with pytest.raises(ValueError, match=message):
        open_data(f"imagenet:{empty}")
