"""Repeated augmentation: copies of an image in one batch, each with draws of its own, in an epoch as long as ever."""

import numpy as np
import pytest
import torch
from PIL import Image

from pldistill.data import Augment, FolderSplit, Mixing, TensorSplit, make_loader
from pldistill.data.sampling import bits, order

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine of one core
COUNT, SIZE = 20, 16


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels, ids = torch.arange(COUNT) % 5, torch.arange(COUNT) * 3 + 100
    folder = tmp_path_factory.mktemp("images")
    paths = [str(folder / f"{i}.png") for i in range(COUNT)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return TensorSplit(images, labels, ids), FolderSplit(paths, labels, ids)


def loader(split, **changes):
    options = {"batch_size": 6, "image_size": SIZE, "augment": Augment("pad"), "seed": 0, "shuffle": True}
    return make_loader(split, device=torch.device("cpu"), **options | changes)


def joined(batches, name):
    return torch.cat([getattr(batch, name) for batch in batches])


def test_draws_take_each_image_s_own_view():
    ids, views = np.array([5, 6, 5]), np.array([2, 0, 7])
    expected = [bits(1, view, ids[k : k + 1], "flip")[0] for k, view in enumerate(views.tolist())]
    assert bits(1, views, ids, "flip").tolist() == expected


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
def test_copies_follow_one_another_in_the_view_s_order(splits, kind):
    split = splits[kind]
    whole = list(loader(split, repeats=3).epoch(4))
    assert [len(batch.labels) for batch in whole] == [6, 6, 6, 2]
    places = order(0, 4, split.ids)
    # 20 shown: three copies of six images and two of a seventh
    expected = [place for place in places[:7].tolist() for _ in range(3)][:20]
    assert joined(whole, "ids").tolist() == split.ids[expected].tolist()
    assert joined(whole, "labels").tolist() == split.labels[expected].tolist()
    assert joined(whole, "views").tolist() == [12, 13, 14] * 6 + [12, 13]
    assert {batch.view for batch in whole} == {4}


@pytest.mark.parametrize("kind", [0, 1], ids=["tensor", "folder"])
@pytest.mark.parametrize("augment", [Augment("pad"), Augment("resized")], ids=["pad", "resized"])
def test_a_copy_is_what_its_view_shows(splits, kind, augment):
    once = loader(splits[kind], augment=augment)
    shown = {
        (int(i), view): image
        for view in (12, 13, 14)
        for batch in once.epoch(view)
        for i, image in zip(batch.ids, batch.images, strict=True)
    }
    for batch in loader(splits[kind], augment=augment, repeats=3).epoch(4):
        for i, view, image in zip(batch.ids.tolist(), batch.views.tolist(), batch.images, strict=True):
            assert torch.equal(image, shown[i, view])


def test_a_resumed_view_and_workers_change_nothing(splits):
    made = loader(splits[1], repeats=2, mixing=Mixing(mixup=1.0))
    whole = list(made.epoch(1))
    others = [list(made.epoch(1, 2)), list(loader(splits[1], repeats=2, mixing=Mixing(mixup=1.0), workers=1).epoch(1))]
    for other, start in zip(others, (2, 0), strict=True):
        for one, two in zip(other, whole[start:], strict=True):
            assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("images", "ids", "views"))
            assert one.mixture.share == two.mixture.share


def test_two_processes_share_out_what_one_sees(splits):
    whole = list(loader(splits[0], repeats=3, batch_size=8).epoch(2))
    parts = [list(loader(splits[0], repeats=3, batch_size=4, rank=rank, world=2).epoch(2)) for rank in (0, 1)]
    assert [len(batch.ids) for batch in whole] == [8, 8, 4]
    for one, *shares in zip(whole, *parts, strict=True):
        for name in ("images", "labels", "ids", "views"):
            assert torch.equal(getattr(one, name), joined(shares, name))


def test_epochs_show_other_images(splits):
    made = loader(splits[0], repeats=4)
    seen = [set(joined(list(made.epoch(view)), "ids").tolist()) for view in range(40)]
    assert {len(ids) for ids in seen} == {5}
    assert len(set().union(*seen)) == COUNT


def test_one_copy_names_no_views(splits):
    assert all(batch.views is None for batch in loader(splits[0]).epoch(0))


def test_repeats_are_refused_where_they_cannot_be(splits):
    with pytest.raises(ValueError, match=r"^repeats: expected at least 1, got 0$"):
        loader(splits[0], repeats=0)
    with pytest.raises(ValueError, match=r"^repeats: expected 1 without shuffle, got 2$"):
        loader(splits[0], repeats=2, shuffle=False)
