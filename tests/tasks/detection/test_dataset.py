"""Batches of images with boxes: nothing but (seed, view, id) decides what they show."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pldistill.data import TensorSplit, make_loader
from pldistill.tasks.detection.dataset import (
    Annotations,
    BoxAnnotations,
    DrawnBoxes,
    StoredBoxes,
    make_box_loader,
    resize,
    resized,
    targets,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine of one core
CPU = torch.device("cpu")
COUNT = 23


def annotations(sizes, counts):
    generator = torch.Generator().manual_seed(1)
    owners = sizes.repeat_interleave(counts, dim=0).double()
    corners = torch.rand(int(counts.sum()), 4, generator=generator, dtype=torch.float64)
    left, top = corners[:, 0] * owners[:, 1] * 0.6, corners[:, 1] * owners[:, 0] * 0.6
    right, bottom = left + 1 + corners[:, 2] * owners[:, 1] * 0.3, top + 1 + corners[:, 3] * owners[:, 0] * 0.3
    boxes = torch.stack([left, top, right, bottom], 1)
    crowd = torch.arange(len(boxes)) % 5 == 4
    objects = BoxAnnotations(boxes, 1 + torch.arange(len(boxes)) % 3, (right - left) * (bottom - top), crowd)
    numbers = tuple(range(100, 100 + len(sizes)))
    return Annotations(sizes, objects, counts, numbers, tuple(f"{number}.png" for number in numbers))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Files of several sizes, with ids that are not their positions; every third has no boxes."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("images")
    sizes = torch.tensor([[24 + place, 44 - place] for place in range(COUNT)])
    known = annotations(sizes, torch.arange(COUNT) % 3)
    for name, size in zip(known.names, sizes.tolist(), strict=True):
        pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    return StoredBoxes([str(folder / name) for name in known.names], known, torch.arange(COUNT) * 3 + 100)


def loader(split, **changes):
    options = {"batch_size": 4, "short_side": (20, 40), "max_side": 50, "hflip": True, "seed": 0, "shuffle": True}
    return make_box_loader(split, device=CPU, **options | changes)


def images(batches):
    """What is shown of each image, in order."""
    return [
        (number, image, found.boxes, found.labels, size)
        for batch in batches
        for number, image, found, size in zip(batch.ids.tolist(), batch.images, batch.targets, batch.sizes, strict=True)
    ]


def same(batches, others):
    ours, theirs = images(batches), images(others)
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_a_resumed_view_is_the_tail_of_the_whole(stored):
    made = loader(stored)
    whole = list(made.epoch(2))
    assert len(made) == len(whole) == 6
    assert [len(batch) for batch in whole] == made.joined == [4, 4, 4, 4, 4, 3]
    assert all(batch.view == 2 and batch.ids.dtype == torch.int64 for batch in whole)
    for start in (0, 4, 6):
        assert same(list(made.epoch(2, start)), whole[start:])
    assert same(list(loader(stored).epoch(2)), whole)


def test_workers_change_no_number(stored):
    alone, shared = loader(stored), loader(stored, workers=2)
    for view, start in ((0, 0), (1, 3)):
        assert same(list(shared.epoch(view, start)), list(alone.epoch(view, start)))


def test_views_seeds_and_ids_differ(stored):
    ids = [[row[0] for row in images(loader(stored, seed=seed).epoch(view))] for seed, view in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(row) == sorted(stored.ids.tolist()) for row in ids)
    assert ids[0] != ids[1] != ids[2] != ids[0]
    shown = {row[0]: row[1] for row in images(loader(stored).epoch(0))}
    later = {row[0]: row[1] for row in images(loader(stored).epoch(1))}
    assert sum(shown[number].shape == later[number].shape for number in shown) < 8
    part = stored.subset([3, 9, 4])
    for number, image, *_ in images(loader(part).epoch(0)):
        assert torch.equal(image, shown[number])  # whatever else is in the split


def test_short_sides_are_drawn_from_the_range_and_long_ones_kept(stored):
    sides = [row[1].shape[1:] for view in range(8) for row in images(loader(stored).epoch(view))]
    assert {min(side) for side in sides} <= set(range(19, 41))
    assert max(max(side) for side in sides) == 50
    short = [min(side) for side in sides if max(side) < 50]
    assert (min(short), max(short)) in set(itertools.product((19, 20), (39, 40)))
    assert {min(row[1].shape[1:]) for row in images(loader(stored, short_side=25, max_side=90).epoch(0))} <= {24, 25}


def test_evaluation_shows_every_image_once_in_order(stored):
    batches = list(loader(stored, shuffle=False, hflip=False, short_side=30, batch_size=11).epoch(0))
    assert [row[0] for row in images(batches)] == stored.ids.tolist()
    assert [len(batch) for batch in batches] == [11, 11, 1]
    assert [row[4] for row in images(batches)] == [tuple(size) for size in stored.sizes.tolist()]


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_go_with_their_pixels(mirrored):
    """A bright rectangle in a dark image is where its box says, however it is shown."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 8:24, 12:20] = 255
    known = Annotations(
        torch.tensor([[40, 60]]),
        BoxAnnotations(*(torch.tensor(column) for column in ([[12.0, 8.0, 20.0, 24.0]], [2], [128.0], [False]))),
        torch.tensor([1]),
        (1,),
        ("a",),
    )
    split = DrawnBoxes(image[None], known)
    views = (batch for view in range(20) for batch in loader(split, short_side=80, max_side=120).epoch(view))
    shown, (found,) = next(
        (batch.images[0], batch.targets) for batch in views if bool(batch.targets[0].boxes[0, 0] > 60) == mirrored
    )
    left, top, right, bottom = found.boxes[0].tolist()
    assert (left, top, right, bottom) == ((80, 16, 96, 48) if mirrored else (24, 16, 40, 48))
    rows, columns = np.nonzero(shown[0].numpy() > 127)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
    assert found.boxes.dtype == torch.float32
    assert found.labels.tolist() == [2]


@pytest.mark.parametrize(("height", "width"), [(30, 44), (44, 30), (20, 90), (49, 49), (25, 25)])
def test_sizes_pixels_and_boxes_are_torchvision_s(height, width):
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    objects = BoxAnnotations(*(torch.tensor(c) for c in ([[2.5, 3.0, 17.0, 19.75]], [1], [1.0], [False])))
    theirs = GeneralizedRCNNTransform(25, 60, [0.0] * 3, [1.0] * 3, size_divisible=1)
    batch, (wanted,) = theirs([pixels / 255], [{"boxes": objects.boxes.float(), "labels": objects.labels}])
    shown = resized(height, width, 25, 60)
    assert shown == tuple(batch.image_sizes[0])
    assert (resize(pixels, *shown) / 255 - batch.tensors[0]).abs().max() < 0.51 / 255
    torch.testing.assert_close(targets(objects, (height, width), shown, mirrored=False).boxes, wanted["boxes"])


def test_crowds_are_no_targets(stored):
    learned = sum(len(row[3]) for row in images(loader(stored).epoch(0)))
    crowd = stored.annotations.objects.crowd
    assert learned == int((~crowd).sum()) < len(crowd)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_batches_as_in_classification(stored, world, shuffle):
    labelled = TensorSplit(torch.zeros(COUNT, 3, 2, 2, dtype=torch.uint8), torch.zeros(COUNT).long(), stored.ids)
    ids = []
    for rank in range(world):
        ours = loader(stored, shuffle=shuffle, rank=rank, world=world)
        theirs = make_loader(
            labelled,
            batch_size=4,
            image_size=2,
            augment=None,
            seed=0,
            shuffle=shuffle,
            device=CPU,
            rank=rank,
            world=world,
        )
        assert (len(ours), ours.joined, ours.num_samples) == (len(theirs), theirs.joined, COUNT)
        shown = [batch.ids.tolist() for batch in ours.epoch(1)]
        assert shown == [batch.ids.tolist() for batch in theirs.epoch(1)]
        ids += itertools.chain(*shown)
    assert sorted(ids) == stored.ids.tolist()


def test_images_in_memory_are_the_same_as_files(stored):
    at = torch.arange(COUNT)[torch.arange(COUNT) == 5]
    drawn = DrawnBoxes(stored.image(5)[None], stored.annotations.subset([5]), stored.ids[at])
    assert same(list(loader(drawn, workers=3).epoch(4)), list(loader(stored.subset([5])).epoch(4)))
    next(loader(drawn, short_side=29, hflip=False).epoch(0)).images[0].zero_()
    assert drawn.images.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"workers": -1}, "workers: expected at least 0, got -1"),
        ({"short_side": 0}, "short_side: expected at least 1 pixel, or a least and a most, got 0"),
        ({"short_side": (30, 20)}, r"short_side: expected .* got \(30, 20\)"),
        ({"short_side": (1, 2, 3)}, r"short_side: expected .* got \(1, 2, 3\)"),
        ({"max_side": 39}, "max_side: expected at least 40, as the short side, got 39"),
        ({"world": 24}, "split: expected at least 24 images, one for each process, got 23"),
    ],
)
def test_bad_arguments(stored, changes, message):
    with pytest.raises(ValueError, match=message):
        loader(stored, **changes)


def test_bad_places(stored):
    with pytest.raises(ValueError, match="split: expected at least one image, got none"):
        loader(stored.subset([]))
    with pytest.raises(ValueError, match="view: expected at least 0, got -1"):
        next(loader(stored).epoch(-1))
    with pytest.raises(ValueError, match="start: expected 0 to 6 batches, got 7"):
        next(loader(stored).epoch(0, 7))


def test_an_older_view_cannot_go_on(stored):
    made = loader(stored)
    first = made.epoch(0)
    next(first)
    list(made.epoch(1))
    with pytest.raises(ValueError, match="a later epoch of this loader has begun"):
        next(first)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_during_training_is_named(stored, tmp_path, workers):
    gone = StoredBoxes([str(tmp_path / "gone.png")], stored.annotations.subset([1]))
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read as an image"):
        list(loader(gone, workers=workers).epoch(0))
