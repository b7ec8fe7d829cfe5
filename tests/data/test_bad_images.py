"""Images that cannot be read: named before the first step, or left out, counted and said."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

import pldistill
from pldistill.data import open_data, with_unlabelled
from pldistill.data.verify import verify
from pldistill.recipe import make_recipe

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))


def draw_image(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two classes with six images to train on and three to validate, of which one each cannot be read."""
    for part, count in (("train", 6), ("val", 3)):
        for name in ("ant", "cat"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                draw_image(i).save(tmp_path / "set" / part / name / f"{i}.png")
    (tmp_path / "set" / "train" / "cat" / "1.png").write_bytes(b"no image")
    (tmp_path / "set" / "val" / "ant" / "2.png").write_bytes(b"")
    return tmp_path / "set"


def test_skipped_images_are_named_and_the_others_keep_their_ids(root):
    data = open_data(f"folder:{root}", on_bad_image="skip")
    assert data.train.ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert data.train.labels.tolist() == [0] * 6 + [1] * 5
    assert data.val.ids.tolist() == [0, 1, 3, 4, 5]
    assert {part: len(bad) for part, bad in data.skipped.items()} == {"train": 1, "val": 1}
    first, second = data.notes()
    assert "1 images of train are left out, which cannot be read: " in first
    assert "train/cat/1.png: cannot be read as an image" in first
    assert "val/ant/2.png" in second


def test_stop_names_both_and_says_how_to_go_on(root):
    with pytest.raises(ValueError, match=r"2 of 18 files are bad: .*cat/1\.png.*ant/2\.png.*on_bad_image=skip"):
        open_data(f"folder:{root}")
    with pytest.raises(ValueError, match="on_bad_image: expected stop or skip, got 'ignore'"):
        open_data(f"folder:{root}", on_bad_image="ignore")


def test_a_class_of_which_nothing_is_left_is_refused(root):
    for path in (root / "val" / "ant").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"folder: no image of 1 class of val can be read: .*ant/0\.png"):
        open_data(f"folder:{root}", on_bad_image="skip")


def test_an_image_that_can_be_read_again_is_no_longer_left_out(root):
    """A remembered failure is tried again: the disk may be well by now."""
    split = open_data(f"folder:{root}", on_bad_image="skip").train
    bad = type(split)([str(root / "train" / "cat" / "1.png")], split.labels[:1])
    assert [*verify(bad, decode=True).bad] == [0]
    path = root / "train" / "cat" / "1.png"
    stamp = path.stat()
    content = io.BytesIO()
    draw_image(1).save(content, "bmp")
    path.write_bytes(content.getvalue()[: stamp.st_size])  # the same size and time, and still no image
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert [*verify(bad, decode=True).bad] == [0]


def test_a_run_counts_what_it_skipped(root, tmp_path):
    fields = {"data": f"folder:{root}", "student": "resnet8", "method": "ce", "epochs": 1, "batch_size": 4}
    with pytest.raises(ValueError, match="2 of 18 files are bad"):
        pldistill.train(make_recipe(fields), out=tmp_path / "run", device="cpu", workers=0)
    assert not (tmp_path / "run").exists()
    run = pldistill.train(
        make_recipe({**fields, "on_bad_image": "skip"}), out=tmp_path / "run", device="cpu", workers=0
    )
    assert run.result["skipped_images"] == {"train": 1, "val": 1}
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert "train/cat/1.png" in environment["skipped_images"]["train"][0]
    assert pldistill.evaluate(run, device="cpu", workers=0)["images"] == 5


def test_unlabelled_images_are_skipped_too(root, tmp_path):
    data = open_data(f"folder:{root}", on_bad_image="skip")
    with pytest.raises(ValueError, match="files are bad"):
        with_unlabelled(data, f"folder:{root / 'train'}")
    joined = with_unlabelled(data, f"folder:{root / 'train'}", on_bad_image="skip")
    assert len(joined.train) == 11 + 11
    assert {part: len(bad) for part, bad in joined.skipped.items()} == {"train": 1, "val": 1, "unlabelled": 1}


@pytest.fixture
def shards(tmp_path):
    """Four images a shard; in training one is empty and one is cut off behind its header."""
    (tmp_path / "shards").mkdir()
    for part in ("train", "val"):
        with tarfile.open(tmp_path / "shards" / f"{part}-0.tar", "w") as tar:
            for i in range(4):
                out = io.BytesIO()
                draw_image(i).save(out, "png")
                content = out.getvalue()
                if part == "train" and i >= 2:
                    content = b"" if i == 2 else content[:80]
                for suffix, data in (("png", content), ("cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(f"{i}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return tmp_path / "shards"


def test_headers_of_a_large_source_are_read_before_the_first_step(shards):
    with pytest.raises(ValueError, match=r"wds: 1 of 8 files are bad: .*train-0\.tar, byte \d+: cannot be read"):
        open_data(f"wds/{shards}")


def test_skipping_decodes_a_large_source_once(shards):
    data = open_data(f"wds/{shards}", on_bad_image="skip")
    assert data.train.ids.tolist() == [0, 1]
    assert len(data.skipped["train"]) == 2


def test_a_run_that_skipped_goes_on_only_with_the_same_images(root, tmp_path):
    fields = {"data": f"folder:{root}", "student": "resnet8", "method": "ce", "epochs": 1, "batch_size": 4}
    recipe = make_recipe({**fields, "on_bad_image": "skip"})
    pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    (tmp_path / "run" / "result.json").unlink()  # as if it had been stopped before the end
    draw_image(1).save(root / "train" / "cat" / "1.png")
    with pytest.raises(
        ValueError, match=r"resume: other images can be read .*; it left out 2, now it would leave out 1"
    ):
        pldistill.train(recipe, out=tmp_path / "run", resume=True, device="cpu", workers=0)
