"""Mixup and CutMix: values by hand, draws that are fair and can be replayed, two labels in one loss."""

import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pldistill
from pldistill.data import Mixing, TensorSplit, make_loader
from pldistill.data.mixup import Draw, cut_box, mix
from pldistill.launch import Interrupted
from pldistill.methods import METHODS
from pldistill.methods.base import Method
from pldistill.methods.logit import LogitMethod, TaskOnly
from pldistill.recipe import make_recipe
from pldistill.tasks.classification.task import Classification
from pldistill.training.distiller import Distiller
from pldistill.training.loop import Loop
from pldistill.training.progress import SilentCallback
from pldistill.types import Batch, Mixture, Outputs

CPU = torch.device("cpu")
IDS = np.arange(8)


def batch(values=((0, 10), (100, 200), (255, 7))):
    """Three images of 1 x 2 pixels, three channels alike."""
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, :].repeat(1, 3, 1, 1)
    return Batch(images, torch.tensor([4, 5, 6]), torch.tensor([30, 10, 20]), 2)


def loader(count=10, **changes):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = TensorSplit(images, torch.arange(count) % 4)
    options = {"batch_size": 4, "image_size": 8, "augment": None, "seed": 0, "shuffle": True, "device": CPU}
    return make_loader(split, **options | changes)


def same(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.ids, other.ids)
    assert (one.mixture is None) == (other.mixture is None)
    if one.mixture is not None:
        assert torch.equal(one.mixture.partners, other.mixture.partners)
        assert torch.equal(one.mixture.labels, other.mixture.labels)
        assert one.mixture.share == other.mixture.share


def test_mixup_blends_and_rounds_to_even():
    mixed = mix(batch(), Draw(np.array([1, 2, 0]), 0.75, None))
    # 0.75 x 0 + 0.25 x 100 = 25; 7.5 + 50 = 57.5 -> 58; 75 + 63.75 = 138.75; 150 + 1.75; 191.25; 5.25 + 2.5
    assert mixed.images[:, 0, 0].tolist() == [[25, 58], [139, 152], [191, 8]]
    assert mixed.images.dtype == torch.uint8
    assert mixed.labels.tolist() == [4, 5, 6]
    assert (mixed.mixture.labels.tolist(), mixed.mixture.partners.tolist()) == ([5, 6, 4], [1, 2, 0])
    assert mixed.mixture.share == 0.75
    half = mix(batch([(1, 3), (2, 4), (0, 0)]), Draw(np.array([1, 0, 2]), 0.5, None))
    assert half.images[:2, 0, 0].tolist() == [[2, 4], [2, 4]]  # 1.5 and 3.5, to even


def test_cutmix_pastes_the_partner_s_box():
    before = batch()
    mixed = mix(before, Draw(np.array([1, 2, 0]), 0.5, (0, 1, 1, 2)))
    assert mixed.images[:, 0, 0].tolist() == [[0, 200], [100, 7], [255, 10]]
    assert before.images[:, 0, 0].tolist() == [[0, 10], [100, 200], [255, 7]]


@pytest.mark.parametrize(
    ("share", "row", "column", "box"),
    [
        (0.75, 0.5, 0.5, (8, 8, 24, 24)),  # sqrt(0.25) x 32 = 16 pixels
        (0.75, 0.0, 0.99, (0, 23, 8, 32)),  # cut at two edges
        (0.0, 0.5, 0.5, (0, 0, 32, 32)),
        (1.0, 0.5, 0.5, (16, 16, 16, 16)),
    ],
)
def test_a_box_has_the_partner_s_share_unless_an_edge_takes_some(share, row, column, box):
    assert cut_box(share, 32, row, column) == box


def test_the_share_of_cutmix_is_that_of_the_pixels():
    for view in range(30):
        drawn = Mixing(cutmix=1.0).draw(0, view, IDS, 16)
        top, left, bottom, right = drawn.box
        assert 0 <= top <= bottom <= 16
        assert 0 <= left <= right <= 16
        assert drawn.share == 1 - (bottom - top) * (right - left) / 256


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_beta(alpha):
    shares = np.array([Mixing(mixup=alpha).draw(0, view, IDS, 16).share for view in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * math.sqrt(variance / 4000)
    assert abs(shares.var() / variance - 1) < 0.1
    assert abs(np.corrcoef(shares[1:], shares[:-1])[0, 1]) < 0.07


def test_partners_are_a_permutation_of_their_own_for_each_view():
    drawn = [Mixing(mixup=1.0).draw(0, view, IDS, 16).partners.tolist() for view in range(50)]
    assert all(sorted(partners) == list(range(8)) for partners in drawn)
    assert len({tuple(partners) for partners in drawn}) == 50
    met = np.zeros((8, 8))
    for view in range(4000):
        met[np.arange(8), Mixing(mixup=1.0).draw(0, view, IDS, 16).partners] += 1
    assert np.abs(met - 500).max() < 4.5 * math.sqrt(500 * 7 / 8)


def test_a_draw_is_a_function_of_seed_view_and_ids():
    def draw(seed=0, view=0, ids=IDS):
        return Mixing(mixup=1.0).draw(seed, view, ids, 16)

    assert draw().share == draw().share
    assert len({draw().share, draw(seed=1).share, draw(view=1).share, draw(ids=IDS + 1).share}) == 4
    assert draw(ids=np.array([0, 9, 4])).share == draw().share  # the first image's
    each = draw(view=np.array([3] * 8))
    assert (each.share, each.partners.tolist()) == (draw(view=3).share, draw(view=3).partners.tolist())


def test_probability_and_coin():
    drawn = [Mixing(0.8, 1.0, 0.5).draw(0, view, IDS, 16) for view in range(2000)]
    mixed = [one for one in drawn if one is not None]
    boxes = [one for one in mixed if one.box is not None]
    assert abs(len(mixed) - 1000) < 4 * math.sqrt(500)
    assert abs(len(boxes) - len(mixed) / 2) < 4 * math.sqrt(len(mixed) / 4)
    assert all(one.box is None for one in (Mixing(mixup=1.0).draw(0, view, IDS, 16) for view in range(20)))
    assert all(one.box is not None for one in (Mixing(cutmix=1.0).draw(0, view, IDS, 16) for view in range(20)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "mixup and cutmix: expected one above 0, got 0 for both"),
        ({"mixup": -0.1}, r"mixup: expected a finite number from 0, got -0\.1"),
        ({"cutmix": math.inf}, "cutmix: expected a finite number from 0, got inf"),
        ({"mixup": 1.0, "probability": 0.0}, r"probability: expected a number in \(0, 1\], got 0\.0"),
        ({"mixup": 1.0, "probability": 1.5}, r"probability: expected a number in \(0, 1\], got 1\.5"),
    ],
)
def test_a_wrong_mixing_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Mixing(**given)


def test_a_probability_of_what_is_not_asked_for_is_refused():
    fields = {"data": "glyphs", "student": "resnet8", "method": "ce", "mix_probability": 0.5}
    with pytest.raises(ValueError, match=r"^mix_probability: expected mixup or cutmix beside 0\.5, got neither$"):
        make_recipe(fields)
    assert make_recipe({**fields, "mixup": 0.2}).mix_probability == 0.5


def test_a_loader_mixes_what_it_shows_and_a_resumed_view_is_its_tail():
    mixing = Mixing(mixup=0.8, cutmix=1.0, probability=0.7)
    plain, whole = list(loader().epoch(3)), list(loader(mixing=mixing).epoch(3))
    assert [one.mixture is None for one in whole].count(False) > 0
    for one, other in zip(plain, whole, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.ids, other.ids)
        assert one.mixture is None
        drawn = mixing.draw(0, 3, one.ids.numpy(), 8)
        same(other, one if drawn is None else mix(one, drawn))
    for start in range(4):
        for one, other in zip(list(loader(mixing=mixing).epoch(3, start)), whole[start:], strict=True):
            same(one, other)
    with pytest.raises(ValueError, match="start: expected 0 to 3 batches, got 4"):
        loader(mixing=mixing).epoch(3, 4)


class Table(nn.Module):
    """A model that gives a row of logits for each image."""

    def __init__(self, rows):
        super().__init__()
        self.logits = nn.Parameter(rows)

    def forward(self, images):
        return Outputs(self.logits[: len(images)])


def outcome(method, mixture, smoothing=0.0, labels=(0, 1, 2), weights=None):
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 6), Outputs(torch.randn(3, 6))
    given = replace(batch(), labels=torch.tensor(labels), mixture=mixture)
    every = {"task": 1.0, **dict.fromkeys(METHODS, 1.0)}
    step = Distiller(Table(student), method, Classification(smoothing))(given, lambda batch: teacher, weights or every)
    return step, student


LOGIT = ["ls", "kd", "rkl", "js", "dist", "dkd", "pld", "plkl", "listmle", "plistmle"]
LOGIT += ["nkd", "ttm", "wttm", "rld", "kendall", "cmkd", "rankdistil", "skd"]


@pytest.mark.parametrize("name", LOGIT)
def test_every_term_is_the_mixture_of_the_two_labels_terms(name):
    method = METHODS[name].build(**METHODS[name].options)
    mixture = Mixture(torch.tensor([1, 2, 0]), torch.tensor([1, 2, 0]), 0.3)
    both, _ = outcome(method, mixture, smoothing=0.1)
    own, _ = outcome(method, None, smoothing=0.1)
    other, _ = outcome(method, None, smoothing=0.1, labels=(1, 2, 0))
    assert set(both.raw) == {"task", name}
    for term in both.raw:
        assert both.raw[term].item() == pytest.approx(0.3 * own.raw[term].item() + 0.7 * other.raw[term].item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_task_is_cross_entropy_on_the_mixed_targets(smoothing):
    mixture = Mixture(torch.tensor([1, 2, 0]), torch.tensor([1, 2, 0]), 0.3)
    step, student = outcome(TaskOnly(), mixture, smoothing, weights={"task": 1.0})
    own, other = (functional.one_hot(torch.tensor(labels), 6) for labels in ((0, 1, 2), (1, 2, 0)))
    targets = (1 - smoothing) * (0.3 * own + 0.7 * other) + smoothing / 6
    expected = -(targets * student.log_softmax(dim=1)).sum(dim=1).mean()
    assert step.loss.item() == pytest.approx(expected.item())


def test_a_share_of_one_or_none_is_one_label_s_loss():
    method = METHODS["pld"].build(temperature=1.0)
    partner = torch.tensor([1, 2, 0])
    plain, _ = outcome(method, None)
    whole, _ = outcome(method, Mixture(partner, partner, 1.0))
    gone, _ = outcome(method, Mixture(partner, partner, 0.0))
    swapped, _ = outcome(method, None, labels=(1, 2, 0))
    assert whole.loss.item() == plain.loss.item()
    assert gone.loss.item() == swapped.loss.item()


@pytest.mark.parametrize(("share", "hits"), [(0.5, 3), (0.49, 0)])
def test_a_hit_is_the_label_with_the_larger_share(share, hits):
    given = replace(batch(), labels=torch.tensor([0, 1, 2]))
    given = replace(given, mixture=Mixture(torch.tensor([1, 2, 0]), torch.tensor([1, 2, 0]), share))
    step = Distiller(Table(torch.eye(3)), TaskOnly(), Classification())(given, None, {"task": 1.0})
    assert step.hits.item() == hits


@pytest.mark.parametrize(("reads", "times"), [(True, 2), (False, 1)])
def test_a_method_that_reads_no_labels_is_asked_once(reads, times):
    asked = []

    class Counting(Method):
        reads_labels = reads

        def forward(self, student, teacher, labels):
            asked.append(labels.tolist())
            return {"kd": student.logits.square().mean()}

    mixture = Mixture(torch.tensor([1, 2, 0]), torch.tensor([1, 2, 0]), 0.3)
    outcome(Counting(), mixture)
    assert asked == [[0, 1, 2], [1, 2, 0]][:times]


def test_the_methods_that_say_they_read_no_labels_are_these():
    import pldistill.methods.dual_head
    import pldistill.methods.feature  # noqa: F401  (classes that nobody has built yet)

    silent = {"AttentionTransfer", "FitNet", "VariationalInformation", "RelationMethod", "TaskOnly"}
    silent |= {"DualHead", "ChannelWise"}
    kinds = [Method, LogitMethod]
    every = {kind.__name__: kind for base in kinds for kind in base.__subclasses__() if "pldistill" in kind.__module__}
    assert {name for name, kind in every.items() if not kind.reads_labels} == silent


class StopAt(SilentCallback):
    """Sends SIGTERM after the first step of the second epoch."""

    def step(self, epoch, tally):
        if (epoch, tally.batches) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_mixes_and_repeats_as_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "LOOK_EVERY", -1.0)
    fields = {"data": "glyphs:train=100,val=100", "student": "resnet8", "method": "ce", "epochs": 2, "batch_size": 32}
    recipe = make_recipe({**fields, "mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.9, "repeats": 3})
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt())
    cut = pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    plain = pldistill.train(make_recipe(fields), out=tmp_path / "plain", device="cpu")
    bytes_of = [(run.folder / "model.safetensors").read_bytes() for run in (whole, cut, plain)]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]
