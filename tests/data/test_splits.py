"""Splits: subsets keep their ids, wrong shapes are refused, and normalizing is its equation."""

from dataclasses import replace

import pytest
import torch

from pldistill.data import Dataset, FolderSplit, TensorSplit, normalize
from pldistill.data.dataset import divide

IMAGES = torch.arange(6 * 3 * 4 * 4, dtype=torch.int64).remainder(256).to(torch.uint8).view(6, 3, 4, 4)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
HELD_OUT = [
    31,
    38,
    80,
    241,
    367,
    479,
    563,
    619,
    647,
    654,
    794,
    808,
    829,
    857,
    899,
    976,
    990,
    1123,
    1207,
    1291,
]  # pinned: they may never change


def test_a_subset_of_a_subset_remembers_the_first_ids():
    part = TensorSplit(IMAGES, LABELS).subset([5, 3, 1]).subset(torch.tensor([2, 0]))
    assert part.ids.tolist() == [1, 5]
    assert part.labels.tolist() == [1, 2]
    assert torch.equal(part.images, IMAGES[[1, 5]])


def test_a_subset_of_files():
    part = FolderSplit(["a", "b", "c"], torch.tensor([0, 1, 0])).subset([2, 0])
    assert (part.paths, part.labels.tolist(), part.ids.tolist()) == (("c", "a"), [0, 0], [2, 0])
    assert len(part.subset([])) == 0


@pytest.mark.parametrize("indices", [[6], [-1], [0, 9]])
def test_an_index_outside_is_refused(indices):
    with pytest.raises(ValueError, match=r"indices: expected 0 to 5, got"):
        TensorSplit(IMAGES, LABELS).subset(indices)


@pytest.mark.parametrize(
    ("images", "labels", "ids", "message"),
    [
        (IMAGES.float(), LABELS, None, r"images: expected uint8 \(N, 3, H, W\), got torch.float32"),
        (IMAGES[:, :1], LABELS, None, r"images: .* got torch.uint8 \(6, 1, 4, 4\)"),
        (IMAGES, LABELS[:5], None, r"labels: expected int64 of shape \(6,\), got torch.int64 \(5,\)"),
        (IMAGES, LABELS.int(), None, r"labels: expected int64"),
        (IMAGES, LABELS, torch.arange(3), r"ids: expected int64 of shape \(6,\)"),
    ],
)
def test_wrong_tensors_are_refused(images, labels, ids, message):
    with pytest.raises(ValueError, match=message):
        TensorSplit(images, labels, ids)


def dataset(counts):
    """A data set with so many training images of each class, in no order; image i is gray of value i mod 256."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels)).remainder(256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    train = TensorSplit(images, labels, torch.arange(len(labels)) * 7 + 3)
    names = tuple(str(label) for label in range(len(counts)))
    return Dataset("x", names, (0.5,) * 3, (0.2,) * 3, 2, True, train, train.subset([0]))


def counts_of(split):
    return torch.bincount(split.labels, minlength=4)


@pytest.mark.parametrize(("train", "validation"), [(None, 30), (30, None), (41, 30), (4, 4), (158, 38), (None, 195)])
def test_parts_are_balanced_disjoint_and_of_their_size(train, validation):
    whole = dataset([50, 50, 50, 53])
    made = divide(whole, train=train, validation=validation)
    held = set() if made.holdout is None else set(made.holdout.ids.tolist())
    kept, everything = set(made.train.ids.tolist()), set(whole.train.ids.tolist())
    assert len(held) == (validation or 0)
    assert not held & kept
    assert held | kept <= everything
    assert kept == everything - held if train is None else len(kept) == train
    for part, count in ((made.holdout, validation), (made.train, train)):
        if count is not None:
            assert counts_of(part).max() - counts_of(part).min() == (count % 4 != 0)
    assert torch.equal(made.train.images, whole.train.images[(made.train.ids - 3) // 7])
    assert torch.equal(made.train.labels, whole.train.labels[(made.train.ids - 3) // 7])
    assert made.val is whole.val


def test_parts_are_fixed_and_drawn_by_id():
    """The same ids whatever the order of the split, and not merely the first of each class."""
    whole = dataset([50, 50, 50, 50])
    turned = replace(whole, train=whole.train.subset(range(199, -1, -1)))
    made, other = (divide(data, train=40, validation=20) for data in (whole, turned))
    for one, two in ((made.train, other.train), (made.holdout, other.holdout)):
        assert set(one.ids.tolist()) == set(two.ids.tolist())
    assert made.train.ids.max() > 1200
    assert made.train.ids.min() < 200
    assert sorted(made.holdout.ids.tolist()) == HELD_OUT


def test_a_smaller_part_is_within_a_larger_and_holding_out_keeps_the_subset():
    whole = dataset([50, 50, 50, 50])
    small, large = (set(divide(whole, train=count).train.ids.tolist()) for count in (40, 100))
    assert small < large
    assert set(divide(whole, train=100, validation=60).train.ids.tolist()) == large


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 3}, r"^x: train: expected 4 to 40 images, as many of each of the 4 classes, .* has 10, got 3$"),
        ({"train": 41}, r"train: expected 4 to 40 images, .*, got 41"),
        ({"train": 1000}, r"train: expected 4 to 40 images, .*, got 1000"),
        ({"validation": 0}, r"validation: expected 4 to 36 images, .*, got 0"),
        ({"validation": 37}, r"validation: expected 4 to 36 images, .*, got 37"),
        ({"train": 21, "validation": 20}, r"train: expected 4 to 20 images beside validation=20, .* has 5, got 21"),
    ],
)
def test_parts_that_are_not_there_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        divide(dataset([10, 12, 11, 10]), **parts)


@pytest.mark.parametrize("parts", [{"train": 4}, {"train": 40}, {"validation": 36}, {"train": 20, "validation": 20}])
def test_the_smallest_and_largest_parts_that_are_there_are_given(parts):
    made = divide(dataset([10, 12, 11, 10]), **parts)
    assert len(made.train) == parts.get("train", 43 - parts.get("validation", 0))


def test_normalize_is_its_equation():
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
    made = normalize(IMAGES, mean, std)
    assert made.dtype == torch.float32
    for channel in range(3):
        expected = (IMAGES[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(made[:, channel].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(made, normalize(IMAGES, torch.tensor(mean), torch.tensor(std)))


def test_normalize_refuses_what_is_normalised_already():
    with pytest.raises(ValueError, match=r"images: expected uint8"):
        normalize(IMAGES.float(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
