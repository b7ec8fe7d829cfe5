"""Loaders: nothing but (seed, view, id) decides what a batch holds."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image

from pldistill.data import Augment, FolderSplit, TensorSplit, make_loader
from pldistill.data.loader import batch_bounds

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine of one core
CPU = torch.device("cpu")
COUNT, SIZE = 50, 32
AUGMENTS = [Augment("pad"), Augment("resized"), Augment("none", hflip=False), None]
NAMES = ["pad", "resized", "none", "evaluation"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The same images in memory and as files, with ids that are not their positions."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels, ids = torch.arange(COUNT) % 7, torch.arange(COUNT) * 3 + 100
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i}.png" for i in range(COUNT)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return TensorSplit(images, labels, ids), FolderSplit([str(path) for path in paths], labels, ids)


def loader(split, **changes):
    options = {
        "batch_size": 8,
        "image_size": SIZE,
        "augment": Augment("pad"),
        "seed": 0,
        "shuffle": True,
        "device": CPU,
    }
    return make_loader(split, **options | changes)


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.ids, b.ids)
        and a.view == b.view
        for a, b in zip(batches, others, strict=True)
    )


def by_id(batches):
    return {int(i): image for batch in batches for i, image in zip(batch.ids, batch.images, strict=True)}


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
@pytest.mark.parametrize("augment", AUGMENTS, ids=NAMES)
def test_a_resumed_view_is_the_tail_of_the_whole(splits, kind, augment):
    made = loader(splits[kind], augment=augment)
    whole = list(made.epoch(2))
    assert len(made) == len(whole) == 7
    assert all(batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, SIZE, SIZE) for batch in whole)
    for start in (0, 3, 7):
        assert same(list(made.epoch(2, start)), whole[start:])
    assert same(list(loader(splits[kind], augment=augment).epoch(2)), whole)


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
def test_views_and_seeds_differ(splits, kind):
    made = loader(splits[kind])
    first, second, third = list(made.epoch(0)), list(made.epoch(1)), list(loader(splits[kind], seed=1).epoch(0))
    assert not same(first, second)
    assert not same(first, third)
    a, b, c = (by_id(batches) for batches in (first, second, third))
    assert sum(torch.equal(a[i], b[i]) for i in a) < 5
    assert sum(torch.equal(a[i], c[i]) for i in a) < 5


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
def test_neither_batch_size_nor_order_nor_subset_changes_a_image(splits, kind):
    whole = by_id(loader(splits[kind]).epoch(1))
    others = [
        loader(splits[kind], batch_size=13),
        loader(splits[kind], shuffle=False),
        loader(splits[kind].subset([30, 2, 17])),
    ]
    for other in others:
        assert all(torch.equal(image, whole[i]) for i, image in by_id(other.epoch(1)).items())


@pytest.mark.parametrize("augment", [Augment("pad"), Augment("none"), None], ids=["pad", "none", "evaluation"])
def test_files_give_the_batches_that_memory_gives(splits, augment):
    in_memory, files = (list(loader(split, augment=augment).epoch(4)) for split in splits)
    assert same(in_memory, files)


def test_resized_crops_of_files_and_memory_differ_by_the_resizer_s_rounding_alone(splits):
    in_memory, files = (by_id(loader(split, augment=Augment("resized")).epoch(0)) for split in splits)
    difference = torch.stack([(in_memory[i].int() - files[i].int()).abs() for i in in_memory]).float()
    assert difference.mean() < 0.5


@pytest.mark.parametrize("augment", [Augment("pad"), Augment("resized")], ids=["pad", "resized"])
def test_the_number_of_workers_changes_no_number(splits, augment):
    alone = loader(splits[1], augment=augment)
    for workers in (1, 2):
        shared = loader(splits[1], augment=augment, workers=workers)
        for view, start in ((0, 0), (1, 0), (1, 4)):  # the second and third by workers that are kept
            assert same(list(shared.epoch(view, start)), list(alone.epoch(view, start)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_left_halfway_does_not_disturb_the_next(splits, workers):
    made = loader(splits[1], workers=workers)
    left = made.epoch(0)
    next(left)
    assert same(list(made.epoch(1)), list(loader(splits[1]).epoch(1)))
    with pytest.raises(ValueError, match="a later epoch of this loader has begun"):
        next(left)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
def test_torch_s_generator_is_left_alone(splits, kind, workers):
    before = torch.get_rng_state()
    list(loader(splits[kind], workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_comes_once_with_its_own_label(splits):
    made = loader(splits[0])
    batches = list(made.epoch(0))
    ids = torch.cat([batch.ids for batch in batches])
    assert made.num_samples == len(ids) == COUNT
    assert torch.equal(ids.sort().values, splits[0].ids)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), (ids - 100) // 3 % 7)


def test_evaluation_keeps_order_and_pixels(splits):
    batches = list(loader(splits[0], augment=None, shuffle=False).epoch(0))
    assert torch.equal(torch.cat([batch.images for batch in batches]), splits[0].images)
    assert torch.equal(torch.cat([batch.ids for batch in batches]), splits[0].ids)


def test_augmenting_leaves_the_split_s_images_alone(splits):
    before = splits[0].images.clone()
    for augment in AUGMENTS:
        list(loader(splits[0], augment=augment, batch_size=COUNT, shuffle=False).epoch(0))
    assert torch.equal(splits[0].images, before)


@pytest.mark.parametrize(
    ("count", "batch_size", "least", "sizes"),
    [
        (17, 8, 2, [8, 9]),
        (17, 8, 1, [8, 8, 1]),
        (18, 8, 2, [8, 8, 2]),
        (16, 8, 2, [8, 8]),
        (19, 8, 4, [8, 11]),
        (1, 8, 2, [1]),
        (3, 1, 1, [1, 1, 1]),
        (3, 2, 2, [3]),
    ],
)
def test_a_last_batch_that_is_too_small_joins_the_batch_before(count, batch_size, least, sizes):
    bounds = batch_bounds(count, batch_size, least)
    assert [last - first for first, last in bounds] == sizes
    assert [first for first, _ in bounds] == [0, *(last for _, last in bounds[:-1])]


def test_shuffling_is_what_joins_a_single_last_image(splits):
    part = splits[0].subset(range(9))
    assert [len(batch.ids) for batch in loader(part).epoch(0)] == [9]
    assert [len(batch.ids) for batch in loader(part, shuffle=False).epoch(0)] == [8, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"image_size": 0}, "image_size: expected at least 1, got 0"),
        ({"workers": -1}, "workers: expected at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(splits, changes, message):
    with pytest.raises(ValueError, match=message):
        loader(splits[0], **changes)


def test_an_empty_split_is_refused(splits):
    with pytest.raises(ValueError, match="split: expected at least one image, got none"):
        loader(splits[0].subset([]))


@pytest.mark.parametrize(
    ("view", "start", "message"),
    [(-1, 0, "view: expected at least 0, got -1"), (0, 8, "start: expected 0 to 7 batches, got 8"), (0, -1, "start")],
)
def test_a_view_or_start_that_does_not_exist_is_refused_at_once(splits, view, start, message):
    with pytest.raises(ValueError, match=message):
        loader(splits[0]).epoch(view, start)


LEAK = """
import sys
from pathlib import Path
import torch
from pldistill.data import Augment, FolderSplit, loader, make_loader

loader.GRACE = 1
torch.set_num_threads(1)

if __name__ == "__main__":
    paths = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
    made = make_loader(
        FolderSplit(paths, torch.zeros(len(paths), dtype=torch.int64)), batch_size=2, image_size=8,
        augment=Augment("pad"), seed=0, shuffle=True, device=torch.device("cpu"), workers=1,
    )
    left = made.epoch(0)
    next(left)
    print("left", len(made), flush=True)
"""


def test_a_view_left_for_ever_does_not_keep_the_process(tmp_path):
    """Python waits at its exit for workers that it told to end, and they do not die of a signal at once."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "leak.py").write_text(LEAK)
    command = [sys.executable, str(tmp_path / "leak.py"), str(tmp_path / "images")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            said, wrong = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the worker too
            raise
    assert (process.returncode, said, wrong) == (0, "left 3\n", "")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_during_training_is_named(splits, tmp_path, workers):
    split = FolderSplit([str(tmp_path / "gone.png")], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read as an image"):
        list(loader(split, workers=workers).epoch(0))
