"""CIFAR: the official files give the official images, and a file with another sum is never used."""

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision

from places import SHARED
from pldistill.data import open_data
from pldistill.data.cifar import CIFAR10, CIFAR100

LAYOUTS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real CIFAR-100 in its binary layout."""
    script = SHARED / "unpack_cifar100.py"
    if not script.is_file():
        pytest.skip(f"no CIFAR-100: {script} is absent; PLDISTILL_TEST_DATA names the folder that holds it")
    out = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return out


def table(layout, count, seed):
    """`count` records of the binary layout and what they hold."""
    draw = np.random.default_rng(seed)
    classes = 100 if layout is CIFAR100 else 10
    labels, pixels = draw.integers(0, classes, count), draw.integers(0, 256, (count, 3072), dtype=np.uint8)
    columns = [labels % 20, labels] if layout is CIFAR100 else [labels]
    return np.concatenate([np.stack(columns, 1).astype(np.uint8), pixels], 1).tobytes(), labels, pixels


def binary(layout, root, monkeypatch):
    """A small set in the binary layout, its sums declared to be the published ones; its class names, labels, pixels."""
    folder = root / layout.binary
    folder.mkdir(parents=True)
    names = [f"name {i}" for i in range(100 if layout is CIFAR100 else 10)]
    (folder / layout.names).write_text("\n".join(names) + "\n\n")
    held = {}
    for part in ("train", "test"):
        sums = {}
        for seed, file in enumerate(getattr(layout, part)):
            data, labels, pixels = table(layout, 7, seed + 10 * (part == "test"))
            (folder / file).write_bytes(data)
            sums[file] = hashlib.new(layout.hash, data).hexdigest()
            held.setdefault(part, []).append((labels, pixels))
        for file, value in sums.items():
            monkeypatch.setitem(getattr(layout, part), file, value)
    return names, {part: [np.concatenate(column) for column in zip(*rows, strict=True)] for part, rows in held.items()}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("inside", [False, True], ids=["holder", "itself"])
def test_binary_records_are_read_as_documented(tmp_path, monkeypatch, name, inside):
    layout = LAYOUTS[name]
    names, held = binary(layout, tmp_path, monkeypatch)
    data = open_data(f"{name}:{tmp_path / layout.binary if inside else tmp_path}")
    assert (list(data.classes), data.image_size, data.hflip, data.mean) == (names, 32, True, layout.mean)
    for split, (labels, pixels) in ((data.train, held["train"]), (data.val, held["test"])):
        assert split.labels.tolist() == labels.tolist()
        assert np.array_equal(split.images.reshape(-1, 3072).numpy(), pixels)


def python_files(layout):
    reader = layout.python
    return [name for name, _ in reader.train_list + reader.test_list] + [reader.meta["filename"]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_python_layout_gives_what_the_binary_one_gives(tmp_path, monkeypatch, name):
    layout, reader = LAYOUTS[name], LAYOUTS[name].python
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    held = {}
    for part, files in (("train", reader.train_list), ("test", reader.test_list)):
        sums = []
        for seed, (file, _) in enumerate(files):
            _, labels, pixels = table(layout, 5, seed)
            content = pickle.dumps({"data": pixels, layout.labels: labels.tolist()})
            (folder / file).write_bytes(content)
            sums.append([file, hashlib.md5(content).hexdigest()])
            held.setdefault(part, []).append((labels, pixels))
        monkeypatch.setattr(reader, f"{part}_list", sums)
    content = pickle.dumps({reader.meta["key"]: ["a", "b"]})
    (folder / reader.meta["filename"]).write_bytes(content)
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": hashlib.md5(content).hexdigest()})
    data = open_data(f"{name}:{tmp_path}")
    assert data.classes == ("a", "b")
    for split, rows in ((data.train, held["train"]), (data.val, held["test"])):
        labels, pixels = (np.concatenate(column) for column in zip(*rows, strict=True))
        assert split.labels.tolist() == labels.tolist()
        assert np.array_equal(split.images.reshape(-1, 3072).numpy(), pixels)


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_forged_pickle_is_refused_unopened(tmp_path, name):
    layout, mark = LAYOUTS[name], tmp_path / "opened"
    folder = tmp_path / layout.python.base_folder
    folder.mkdir()
    for file in python_files(layout):
        (folder / file).write_bytes(pickle.dumps(Trap(str(mark))))
    with pytest.raises(ValueError, match=r"meta: expected MD5 [0-9a-f]{32}, found [0-9a-f]{32}"):
        open_data(f"{name}:{tmp_path}")
    assert not mark.exists()
    pickle.loads((folder / python_files(layout)[0]).read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_changed_byte_is_found_and_the_file_named(tmp_path, monkeypatch, name):
    layout = LAYOUTS[name]
    binary(layout, tmp_path, monkeypatch)
    file = tmp_path / layout.binary / next(iter(layout.test))
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    known = next(iter(layout.test.values()))
    with pytest.raises(ValueError, match=rf"{file.name}: expected {layout.hash.upper()} {known}, found .* is damaged"):
        open_data(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_files_are_named(tmp_path, monkeypatch, name):
    layout = LAYOUTS[name]
    binary(layout, tmp_path, monkeypatch)
    test = tmp_path / layout.binary / next(iter(layout.test))
    test.unlink()
    with pytest.raises(ValueError, match=rf"{test.name}: cannot be read \(No such file"):
        open_data(f"{name}:{tmp_path}")
    names = tmp_path / layout.binary / layout.names
    names.unlink()
    with pytest.raises(ValueError, match=rf"{names.name}: missing"):
        open_data(f"{name}:{tmp_path}")


def test_a_folder_with_nothing_says_what_was_expected(tmp_path):
    message = r"cifar100: expected cifar-100-binary/ \(train\.bin, test\.bin\) or cifar-100-python/ in .*--download"
    with pytest.raises(ValueError, match=message):
        open_data(f"cifar100:{tmp_path}")


def test_a_download_without_a_network_says_so(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", offline)
    with pytest.raises(ValueError, match=r"cifar10: could not fetch https://.* \(no route to host\); unpack it in"):
        open_data(f"cifar10:{tmp_path / 'new'}", download=True)


def test_the_real_cifar100(real):
    data = open_data(f"cifar100:{real}")
    assert (len(data.train), len(data.val), len(data.classes)) == (50_000, 10_000, 100)
    assert data.classes[:3] == ("apple", "aquarium_fish", "baby")
    assert torch.bincount(data.train.labels).tolist() == [500] * 100
    assert torch.bincount(data.val.labels).tolist() == [100] * 100
    pixels = data.train.images[::10].double() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(data.mean).double(), rtol=0, atol=5e-3)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(data.std).double(), rtol=0, atol=5e-3)
    assert data.classes[data.train.labels[0]] == "cattle"


def test_the_sha1_source_agrees_with_the_published_md5_where_both_are_known(real):
    """Apache MXNet's sums of CIFAR-100 fit the files with the published MD5: a reason to trust its sums of CIFAR-10."""
    known = {"train": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e", "test": "8fb6623e830365ff53cf14adec797474f5478006"}
    for part, sum_ in known.items():
        data = (real / "cifar-100-binary" / f"{part}.bin").read_bytes()
        assert hashlib.sha1(data).hexdigest() == sum_
        assert hashlib.md5(data).hexdigest() == getattr(CIFAR100, part)[f"{part}.bin"]
