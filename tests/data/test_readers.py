"""`hfds/`, `wds/`, `tfds/`: read at random by number, or refused; the same images as from files."""

import importlib.machinery
import importlib.util
import io
import os
import sys
import tarfile
import types

import numpy as np
import pytest
import torch
from PIL import Image

from pldistill.data import make_loader, open_data
from pldistill.data import webdataset as shard_source
from pldistill.specs import split_spec
from pldistill.studies import study

NAMES = ("ant", "cat")
COUNTS = {"train": 6, "validation": 4}
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine of one core


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def rows(split):
    """Class i % 2 for the i-th image; every image is another."""
    first = 0 if split == "train" else 100
    return [(png(first + i), i % 2) for i in range(COUNTS[split])]


@pytest.fixture
def folder(tmp_path):
    """The same images as files; ids differ, for there a class's images stand together."""
    for split, part in (("train", "train"), ("validation", "val")):
        for i, (content, label) in enumerate(rows(split)):
            (tmp_path / "files" / part / NAMES[label]).mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / part / NAMES[label] / f"{i}.png").write_bytes(content)
    return open_data(f"folder:{tmp_path / 'files'}", image_size=8)


def shown(split, workers=0):
    """Evaluation's images by their bytes."""
    made = make_loader(
        split,
        batch_size=4,
        image_size=8,
        augment=None,
        seed=0,
        shuffle=False,
        device=torch.device("cpu"),
        workers=workers,
    )
    return [
        (image.numpy().tobytes(), label)
        for batch in made.epoch(0)
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True)
    ]


def assert_as_files(data, folder):
    assert data.classes == NAMES
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    for ours, theirs in ((data.train, folder.train), (data.val, folder.val)):
        assert sorted(shown(ours)) == sorted(shown(theirs))
        part = ours.subset([3, 1])
        assert part.ids.tolist() == [3, 1]
        assert shown(part) == [shown(ours)[3], shown(ours)[1]]
    assert shown(data.train, workers=1) == shown(data.train)


# wds


def write_shard(path, samples, *, labels=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, (content, label) in samples:
            members = {"png": content, "json": b"{}", "cls": str(label).encode()} if labels else {"png": content}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    """Training images in two shards, validation in one in a folder."""
    root = tmp_path / "shards"
    train, val = (list(enumerate(rows(split))) for split in COUNTS)
    named = {"pets-train-0000.tar": train[:4], "pets-train-0001.tar": train[4:], "validation/00.tar": val}
    for name, samples in named.items():
        write_shard(root / name, [(f"a/{i:04d}", row) for i, row in samples])
    (root / "classes.txt").write_text("ant\ncat\n")
    return root


def test_shards_give_the_images_of_files(shards, folder):
    data = open_data(f"wds/{shards}", image_size=8)
    assert_as_files(data, folder)
    assert data.val.ids.tolist() == [0, 1, 2, 3]
    assert open_data(f"wds:{shards}").image_size == 224
    (shards / "classes.txt").unlink()
    assert open_data(f"wds/{shards}").classes == ("0", "1")


def test_shards_take_parts(shards):
    data = open_data(f"wds/{shards},train=2,validation=2")
    assert (len(data.train), len(data.holdout), len(data.val)) == (2, 2, 4)
    assert set(data.train.ids.tolist()).isdisjoint(data.holdout.ids.tolist())


def test_test_stands_in_for_val_and_val_goes_first(shards):
    (shards / "validation").rename(shards / "test")
    assert "/test/" in open_data(f"wds/{shards}").val.shards[0]
    write_shard(shards / "x-val-0.tar", [("k", rows("train")[0])])
    assert open_data(f"wds/{shards}").val.shards == (str(shards / "x-val-0.tar"),)


def test_an_index_is_remembered_until_a_shard_changes(shards, monkeypatch):
    indexed = []
    index = shard_source._index
    monkeypatch.setattr(shard_source, "_index", lambda file: indexed.append(file) or index(file))
    first = open_data(f"wds/{shards}").train.members
    assert len(indexed) == 3
    assert torch.equal(open_data(f"wds/{shards}").train.members, first)
    assert len(indexed) == 3
    write_shard(shards / "pets-train-0001.tar", [("z", rows("train")[0])])
    assert len(open_data(f"wds/{shards}").train) == 5
    assert len(indexed) == 5  # both of the split


def test_a_image_that_cannot_be_read_is_named_by_its_shard(shards):
    write_shard(shards / "pets-train-0001.tar", [("bad", (b"no image", 0))])
    with pytest.raises(ValueError, match=r"pets-train-0001\.tar, byte 512: cannot be read as an image"):
        shown(open_data(f"wds/{shards}").train)


def unnamed(root):
    for path in root.glob("*train*"):
        path.rename(root / path.name.replace("train", "a"))


BAD_SHARDS = {
    "no folder": (
        lambda root: root.rename(root.parent / "gone"),
        r"wds: expected a folder of tar shards, got .*shards",
    ),
    "no train": (unnamed, r"expected shards \*train\*\.tar in .*, found 3 tar files, none of that name"),
    "no val": (
        lambda root: (root / "validation").rename(root / "dev"),
        r"expected shards \*val\*\.tar or \*validation\*\.tar or \*test\*\.tar in",
    ),
    "no tar": (
        lambda root: (root / "pets-train-0000.tar").write_bytes(b"x" * 2000),
        r"train-0000\.tar: expected a plain tar with a whole number in each \.cls",
    ),
    "no class": (
        lambda root: write_shard(root / "pets-train-0000.tar", [("a/k", rows("train")[0])], labels=False),
        r"expected an image and a class from 0 in each sample, got 1 samples without, as a/k",
    ),
    "empty": (lambda root: write_shard(root / "pets-train-0000.tar", []), r"in each sample, got classes \[\]"),
    "negative": (
        lambda root: write_shard(root / "pets-train-0000.tar", [("k", (b"", -1))]),
        r"in each sample, got classes \[-1\]",
    ),
    "a word": (
        lambda root: write_shard(root / "pets-train-0000.tar", [("k", (b"", "cat"))]),
        r"whole number in each \.cls \(invalid literal.*cat",
    ),
    "few names": (
        lambda root: (root / "classes.txt").write_text("ant\n"),
        r"expected .*classes\.txt to name the 2 classes of the shards, got 1 lines",
    ),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_wrong_shards_are_explained(shards, case):
    change, message = BAD_SHARDS[case]
    change(shards)
    with pytest.raises(ValueError, match=message):
        open_data(f"wds/{shards}")


def add(tar, name, data=b"", size=None, **about):
    """A member, which may say another size than it has."""
    info = tarfile.TarInfo(name)
    info.size = len(data) if size is None else size
    for key, value in about.items():
        setattr(info, key, value)
    tar.fileobj.write(info.tobuf() + data + b"\0" * (-len(data) % 512))


def test_members_that_lead_elsewhere_are_harmless(shards, tmp_path):
    """Names that leave the folder, links and special files: nothing is unpacked, and no link is followed."""
    (image, _), secret = rows("train")[0], tmp_path / "secret.png"
    secret.write_bytes(png(7))
    with tarfile.open(shards / "pets-train-0001.tar", "w") as tar:
        for name in ("../../out/k", "/etc/k", "a/../../k"):
            add(tar, f"{name}.png", image)
            add(tar, f"{name}.cls", b"1")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            add(tar, f"link{int(kind)}.png", type=kind, linkname=str(secret))
        for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            add(tar, f"special{int(kind)}.png", type=kind)
    before = sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts)
    data = open_data(f"wds/{shards}", image_size=8)
    assert len(data.train) == 4 + 3
    assert {data.train.encoded(place).content.read() for place in (4, 5, 6)} == {image}
    assert sorted(path for path in tmp_path.rglob("*") if "cache" not in path.parts) == before


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("k.png", b"x", 2**40), ("k.cls", b"0", None)], "'k.png' has 1,099,511,627,776 bytes, more than are left"),
        ([("k.png", b"x", None), ("k.cls", b"0", 2**40)], "'k.cls' has 1,099,511,627,776 bytes, more than are left"),
        ([("k.png", b"x", None), ("k.cls", b"0" * 10_000, None)], "'k.cls': expected a class up to 10,000,000"),
        ([("k.png", b"x", None), ("k.cls", b"9" * 12, None)], "'k.cls': expected a class up to 10,000,000, got b'9999"),
    ],
)
def test_huge_members_are_refused_at_once(shards, members, says):
    with tarfile.open(shards / "pets-train-0001.tar", "w") as tar:
        for name, data, size in members:
            add(tar, name, data, size)
    with pytest.raises(ValueError, match=r"wds: .*pets-train-0001\.tar") as error:
        open_data(f"wds/{shards}")
    assert says in str(error.value)


def test_what_is_no_file_is_not_waited_for_and_a_damaged_index_is_named(shards, tmp_path):
    os.mkfifo(shards / "pets-train-0002.tar")
    with pytest.raises(ValueError, match=r"wds: expected a file, got '.*0002\.tar', which is a FIFO"):
        open_data(f"wds/{shards}")
    (shards / "pets-train-0002.tar").unlink()
    (shards / "classes.txt").write_bytes(b"\xff\n\xfe\n")
    with pytest.raises(ValueError, match=r"wds: .*classes\.txt: expected UTF-8"):
        open_data(f"wds/{shards}")
    for content in (b"", b"x"):
        for index in (tmp_path / "cache" / "shards").iterdir():
            index.write_bytes(content)
        with pytest.raises(ValueError, match=r"wds: the index '.*\.npy' is damaged and may be deleted"):
            open_data(f"wds/{shards}")


# hfds, by timm's own reader on a stand-in for the package `datasets`, and on the package where it is installed


class Table:
    """As much of `datasets.Dataset` as timm's reader asks for."""

    def __init__(self, split, names=NAMES, splits=tuple(COUNTS), labels=None):
        self.contents = [content for content, _ in rows(split)]
        self.labels = labels or [label for _, label in rows(split)]
        feature = types.SimpleNamespace(names=list(names)) if names else None
        self._fingerprint = f"{split} {len(self.labels)}"
        self.info = types.SimpleNamespace(features={"label": feature}, splits=dict.fromkeys(splits))

    def cast_column(self, name, kind):
        assert name == "image"
        return self

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, key):
        if key == "label":
            return self.labels
        return {"image": {"bytes": self.contents[key], "path": None}, "label": self.labels[key]}


@pytest.fixture
def package(monkeypatch):
    """Stand in for `datasets`; what `load_dataset` does is set by the test."""
    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    module.Image = lambda decode: None
    module.load_dataset = lambda name, split, **options: Table(split)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    yield module
    sys.modules.pop("timm.data.readers.reader_hfds", None)


def test_timm_s_reader_gives_the_images_of_files(package, folder):
    data = open_data("hfds/someone/pets", image_size=8)
    assert_as_files(data, folder)
    assert open_data("hfds/someone/pets,train=2").train.labels.tolist() == [0, 1]
    assert open_data("hfds:someone/pets").image_size == 224


def test_classes_without_names_are_numbered(package):
    package.load_dataset = lambda name, split, **options: Table(split, names=())
    assert open_data("hfds/pets").classes == ("0", "1")


def test_an_image_that_cannot_be_read_is_named_by_its_row(package):
    data = open_data("hfds/pets")
    data.train._reader.dataset.contents[2] = b"no image"
    with pytest.raises(ValueError, match="hfds/pets train, image 2: cannot be read as an image"):
        shown(data.train)


def gone(name, split, **options):
    raise FileNotFoundError("Couldn't find it\nanywhere")


BAD_TABLES = {
    "gone": (gone, r"hfds/pets: expected a data set .* failed \(FileNotFoundError: Couldn't find it\)$"),
    "no validation": (
        lambda name, split, **options: Table(split, splits=("train", "extra")),
        "hfds/pets: expected a split validation or val or test, got train, extra",
    ),
    "no labels": (
        lambda name, split, **options: Table(split, labels=[0, 1, 0, -1]),
        "hfds/pets: expected labels 0 to 1 in train, got -1",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_wrong_table_is_explained(package, case):
    package.load_dataset, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message):
        open_data("hfds/pets")


def test_the_package_is_named_where_it_is_not_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    with pytest.raises(ValueError, match="hfds: expected the package datasets for hfds/pets; pip install datasets"):
        open_data("hfds/pets")


@pytest.mark.filterwarnings("default")  # the package's own
def test_the_real_package_reads_a_folder(tmp_path, folder, monkeypatch):
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    data = open_data(f"hfds/{tmp_path / 'files'}", image_size=8)
    assert data.classes == NAMES
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for ours, theirs in ((data.train, folder.train), (data.val, folder.val)):
        assert sorted(shown(ours)) == sorted(shown(theirs))


# the spec


@pytest.mark.parametrize("name", ["tfds", "hfids"])
@pytest.mark.parametrize("mark", ["/", ":"])
def test_streams_are_refused_with_what_serves_instead(name, mark):
    with pytest.raises(
        ValueError, match=rf"^{name}: .* cannot be replayed; expected hfds/NAME, wds/PATH or folder:PATH"
    ):
        open_data(f"{name}{mark}mnist")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hfds/a/b,train=5", ("hfds", "a/b", ["train=5"])),
        ("wds//data/x", ("wds", "/data/x", [])),
        ("wds:/data/x,y", ("wds", "/data/x,y", [])),
        ("folder:/wds/x", ("folder", "/wds/x", [])),
        ("folder/x:y", ("folder/x", "y", [])),
        ("hfdsx/y", ("hfdsx/y", "", [])),
        ("glyphs:train=5", ("glyphs", "", ["train=5"])),
        ("", ("", "", [])),
    ],
)
def test_a_slash_stands_for_the_colon_of_timm_s_readers_alone(spec, parts):
    assert split_spec(spec) == parts


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hfds/a/b", "hfds/a/b,train=5"),
        ("wds//x,validation=3", "wds//x,validation=3,train=5"),
        ("cifar100:/x", "cifar100:/x,train=5"),
        ("glyphs", "glyphs:train=5"),
        ("glyphs:seed=1", "glyphs:seed=1,train=5"),
    ],
)
def test_a_study_adds_its_numbers_behind_any_spec(spec, expected):
    assert study.narrowed(spec, train=5, validation=None) == expected


def test_a_reader_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"^hfds: expected hfds/NAME, got no path"):
        open_data("hfds/")
