"""Splits: subsets keep their ids, wrong shapes are refused, and normalising is its equation."""

import pytest
import torch

from pldistill.data import FolderSplit, TensorSplit, normalize

IMAGES = torch.arange(6 * 3 * 4 * 4, dtype=torch.int64).remainder(256).to(torch.uint8).view(6, 3, 4, 4)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


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
