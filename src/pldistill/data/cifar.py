"""`cifar10:PATH`, `cifar100:PATH`: the official binary layout or torchvision's python layout, their sums checked."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision

from pldistill.data.dataset import TensorSplit, Triple

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """One CIFAR: where its files are and what their published sums are.

    The MD5 sums of CIFAR-100's two binary files are those of the official archive. For CIFAR-10's no MD5 sums are
    published one by one; the SHA-1 sums are those in Apache MXNet's `gluon.data.vision.CIFAR10` (whose sums for
    CIFAR-100's binary files were found to belong to the files with the official MD5 sums). The python files' sums are
    torchvision's.
    """

    name: str
    mean: Triple
    std: Triple
    binary: str
    names: str
    label_bytes: int
    hash: str
    train: dict[str, str]
    test: dict[str, str]
    python: type[torchvision.datasets.CIFAR10]
    labels: str


CIFAR100 = Layout(
    name="cifar100",
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    binary="cifar-100-binary",
    names="fine_label_names.txt",
    label_bytes=2,
    hash="md5",
    train={"train.bin": "6172c7755cfe09b2fe270c85cebc1b15"},
    test={"test.bin": "4499cfba6c016c1be1438163640a0898"},
    python=torchvision.datasets.CIFAR100,
    labels="fine_labels",
)
CIFAR10 = Layout(
    name="cifar10",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    binary="cifar-10-batches-bin",
    names="batches.meta.txt",
    label_bytes=1,
    hash="sha1",
    train={
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    },
    test={"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
    python=torchvision.datasets.CIFAR10,
    labels="labels",
)

Loaded = tuple[tuple[str, ...], TensorSplit, TensorSplit]


def cifar(layout: Layout, path: Path, *, download: bool = False) -> Loaded:
    """Class names, training and test split of the CIFAR in `path`: the folder that holds the layout, or that folder.

    Raises:
        ValueError: no such files, a file whose sum is not the published one, or a download that failed.
    """
    found = _find(layout, path)
    if found is None and download:
        _download(layout, path)
        found = _find(layout, path)
    if found is None:
        where = f"{layout.binary}/ ({', '.join([*layout.train, *layout.test])}) or {layout.python.base_folder}/"
        raise ValueError(f"{layout.name}: expected {where} in {path}, found neither; --download fetches it")
    folder, is_binary = found
    return _read_binary(layout, folder) if is_binary else _read_python(layout, folder)


def _find(layout: Layout, path: Path) -> tuple[Path, bool] | None:
    first_binary, first_python = next(iter(layout.train)), layout.python.train_list[0][0]
    for folder in (path / layout.binary, path):
        if (folder / first_binary).is_file():
            return folder, True
    for folder in (path / layout.python.base_folder, path):
        if (folder / first_python).is_file():
            return folder, False
    return None


def _download(layout: Layout, path: Path) -> None:
    try:
        layout.python(str(path), download=True)
    except (OSError, RuntimeError) as error:
        url = layout.python.url
        raise ValueError(f"{layout.name}: could not fetch {url} ({error}); unpack it in {path} by hand") from error


def _checked(file: Path, kind: str, expected: str) -> bytes:
    """The bytes of a file whose sum is right: read once, so what is checked is what is used."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    found = hashlib.new(kind, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{file}: expected {kind.upper()} {expected}, found {found}; the file is damaged or another one"
        )
    return data


def _read_binary(layout: Layout, folder: Path) -> Loaded:
    names = folder / layout.names
    if not names.is_file():
        raise ValueError(f"{names}: missing; it holds the class names of {layout.name}")
    classes = tuple(line.strip() for line in names.read_text().splitlines() if line.strip())
    train, test = (_binary_split(layout, folder, files) for files in (layout.train, layout.test))
    return classes, train, test


def _binary_split(layout: Layout, folder: Path, files: dict[str, str]) -> TensorSplit:
    record = layout.label_bytes + _PIXELS
    parts = [np.frombuffer(_checked(folder / name, layout.hash, known), np.uint8) for name, known in files.items()]
    table = np.concatenate([part.reshape(-1, record) for part in parts])
    return _split(table[:, layout.label_bytes :], table[:, layout.label_bytes - 1])


def _read_python(layout: Layout, folder: Path) -> Loaded:
    """The pickles, opened only after their sums were found right: a pickle of anyone else's could run any code."""
    meta = layout.python.meta
    names = pickle.loads(_checked(folder / meta["filename"], "md5", meta["md5"]), encoding="latin1")
    train, test = (
        _python_split(layout, folder, files) for files in (layout.python.train_list, layout.python.test_list)
    )
    return tuple(names[meta["key"]]), train, test


def _python_split(layout: Layout, folder: Path, files: list[list[str]]) -> TensorSplit:
    parts = [pickle.loads(_checked(folder / name, "md5", known), encoding="latin1") for name, known in files]
    return _split(
        np.concatenate([part["data"] for part in parts]), np.concatenate([part[layout.labels] for part in parts])
    )


def _split(pixels: np.ndarray, labels: np.ndarray) -> TensorSplit:
    images = torch.from_numpy(np.ascontiguousarray(pixels)).view(-1, 3, 32, 32)
    return TensorSplit(images, torch.from_numpy(labels.astype(np.int64)))
