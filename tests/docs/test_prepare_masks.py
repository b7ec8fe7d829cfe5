"""The script that writes real images with masks reads wheels, archives and folders; here small ones of its layout."""

import gzip
import io
import runpy
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from pages import EXAMPLES
from pldistill.tasks.segmentation.sources import open_masks

PREPARE = runpy.run_path(str(EXAMPLES / "prepare_masks.py"))


def nifti(volume, kind=2):
    """A NIfTI-1 file of bytes: the header's fields by their offsets in the standard."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *volume.shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, kind, 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + volume.tobytes(order="F"))


def head(deep=40, empty=4):
    """T1 and two tissues of a box: gray in its first half, white in its second, a line of neither between them."""
    shape = (12, 10, deep)
    t1, gray, white = (np.zeros(shape, np.uint8) for _ in range(3))
    inside = slice(empty, deep - empty)
    t1[2:10, 2:8, inside] = 100 + np.arange(8)[:, None, None]
    gray[2:5, 2:8, inside], white[2:5, 2:8, inside] = 200, 55
    white[6:10, 2:8, inside], gray[6:10, 2:8, inside] = 128, 127
    gray[5, 2:8, inside] = white[5, 2:8, inside] = 127
    return t1, gray, white


def nilearn():
    name = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    return {name.format(kind): nifti(volume) for kind, volume in zip(("t1", "gm", "wm"), head(), strict=True)}


def stardist():
    rng = np.random.default_rng(0)
    instances = np.zeros((128, 512), np.uint16)
    instances[20:60, 20:60], instances[20:60, 60:80], instances[90:100, 400:420] = 7, 300, 12
    image = (np.where(instances > 0, 900, 100) + rng.integers(0, 50, instances.shape)).astype(np.uint16)
    files = {}
    for name, pixels in (("img2d", image), ("mask2d", instances)):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "TIFF")
        files[f"stardist/data/images/{name}.tif"] = out.getvalue()
    return files


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def source_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def installed(path, files):
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path / next(iter(files)).partition("/")[0]


def test_slices_of_the_atlas_are_read_back(tmp_path):
    counts = PREPARE["prepare"]("atlas", wheel(tmp_path / "n.whl", nilearn()), tmp_path / "atlas")
    data = open_masks(f"masks:{tmp_path / 'atlas'}")
    assert counts == {"train": len(data.train), "val": len(data.val)}
    assert data.classes == ("background", "gray matter", "white matter", "other")
    assert data.frame == (10, 12)
    t1, gray, white = head()
    for split in (data.train, data.val):
        for place, name in enumerate(split.names):
            z = int(name[1:])
            image, mask = split.read(place)
            assert (image[0].numpy() == np.rot90(t1[:, :, z])).all()
            upright = np.rot90(mask.numpy(), -1)
            assert (upright[t1[:, :, z] == 0] == 0).all()
            assert (upright[2:5, 2:8] == 1).all()
            assert (upright[6:10, 2:8] == 2).all()
            assert (upright[5, 2:8] == 3).all()
    assert "BSD-3-Clause" in (tmp_path / "atlas" / "SOURCE.txt").read_text(encoding="utf-8")
    assert (gray >= 0).all()
    assert (white >= 0).all()


def test_no_training_slice_is_near_one_that_validates(tmp_path):
    """32 slices of brain, 4 to 35, in blocks of 6, 6, 5, 5, 5 and 5: the second and the fifth validate."""
    PREPARE["prepare"]("atlas", wheel(tmp_path / "n.whl", nilearn()), tmp_path / "atlas")
    data = open_masks(f"masks:{tmp_path / 'atlas'}")
    train, val = (sorted(int(name[1:]) for name in split.names) for split in (data.train, data.val))
    assert val == [*range(10, 16), *range(26, 31)]
    assert train == [4, 5, 6, 19, 20, 21, 22, 34, 35]
    assert min(abs(one - other) for one in train for other in val) == 4


def test_nuclei_are_insides_and_borders_of_two_pixels(tmp_path):
    counts = PREPARE["prepare"]("nuclei", wheel(tmp_path / "s.whl", stardist()), tmp_path / "nuclei")
    assert counts == {"train": 2, "val": 2}
    data = open_masks(f"masks:{tmp_path / 'nuclei'}")
    assert data.classes == ("background", "nucleus", "border")
    image, mask = data.train.read(data.train.names.index("crop00"))
    expected = np.zeros((128, 128), np.uint8)
    expected[20:60, 20:80] = 2
    expected[22:58, 22:58] = expected[22:58, 62:78] = 1  # two nuclei that touch have a border each
    assert (mask.numpy() == expected).all()
    assert image[0][expected > 0].min() > image[0][expected == 0].max()
    _, other = data.val.read(data.val.names.index("crop03"))
    assert other.numpy()[90:100, 16:36].min() == 1


def test_archives_and_installed_folders_are_the_same_as_a_wheel(tmp_path):
    files = stardist()
    packages = [
        wheel(tmp_path / "s.whl", files),
        source_archive(tmp_path / "s.tar.gz", files),
        installed(tmp_path / "site-packages", files),
    ]
    seen = []
    for place, package in enumerate(packages):
        out = tmp_path / str(place)
        PREPARE["prepare"]("nuclei", package, out)
        seen.append({file.relative_to(out): file.read_bytes() for file in out.rglob("*.png")})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 8


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda files: files.popitem(), "expected one file '.*_wm_.*' in .*n.whl', got 0"),
        (lambda files: files.update({f"copy/{next(iter(files))}": b""}), "expected one file '.*_t1_.*', got 2"),
        (lambda files: files.update({next(iter(files)): b"\x1f\x8b..."}), "nifti: expected a whole gzip file"),
        (lambda files: files.update({next(iter(files)): b"hello"}), "nifti: expected a little-endian NIfTI-1 file"),
        (lambda files: files.update({next(iter(files)): nifti(head()[0], 16)}), "a whole volume of bytes.*got type 16"),
    ],
)
def test_other_packages_are_refused(tmp_path, spoil, says):
    files = nilearn()
    spoil(files)
    with pytest.raises(ValueError, match=says):
        PREPARE["prepare"]("atlas", wheel(tmp_path / "n.whl", files), tmp_path / "atlas")


def test_the_command_says_what_is_wrong_in_a_line(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_masks.py", *map(str, arguments)])
        PREPARE["main"]()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for package, out, says in (
        (tmp_path / "none.whl", tmp_path / "out", "package: expected a wheel, a source archive or a folder, got"),
        (tmp_path / "full" / "file", tmp_path / "out", "got the file"),
        (tmp_path / "none.whl", tmp_path / "full", "out: expected a new or empty folder"),
    ):
        with pytest.raises(SystemExit, match=f"prepare_masks: .*{says}"):
            call("atlas", package, out)
    call("nuclei", wheel(tmp_path / "s.whl", stardist()), tmp_path / "nuclei")
    assert capsys.readouterr().out == f"{tmp_path / 'nuclei'}: 2 training and 2 validation images\n"
