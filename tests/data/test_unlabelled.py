"""Images without labels: they count in the method's terms, not in the task's, and move no labelled image."""

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn import functional

import pldistill
from pldistill.data import FolderSplit, TensorSplit, make_loader, open_data, with_unlabelled
from pldistill.data.sampling import order
from pldistill.data.unlabelled import FIRST_ID, JoinedSplit
from pldistill.methods import METHODS
from pldistill.models import NormalizedModel
from pldistill.recipe import make_recipe
from pldistill.tasks.classification.task import Classification
from pldistill.tasks.registry import find_method
from pldistill.training.distiller import Distiller, EpochMetrics
from pldistill.types import UNLABELLED, Batch, Outputs

FREE = [name for name, spec in METHODS.items() if not spec.needs_labels]
DATA = "glyphs:train=100,val=100"


@pytest.fixture
def folder(tmp_path):
    """Seven images of two sizes, some of them in a folder of their own."""
    root = tmp_path / "images"
    (root / "more").mkdir(parents=True)
    for number in range(7):
        place = root / "more" if number > 4 else root
        Image.new("RGB", (40 + number, 36), (number, 0, 0)).save(place / f"{number}.png")
    return root


def test_the_methods_that_read_no_labels_are_known():
    on_logits = {"kd", "rkl", "js", "jsd", "skew_kl", "dist", "ttm", "wttm", "skd", "kendall", "cmkd", "rankdistil"}
    assert set(FREE) == on_logits | {"dhkd", "cwd", "at", "fitnet", "pkt", "rkd", "sp", "vid"}


def test_a_folder_joins_images_in_memory(folder):
    data = open_data(DATA)
    joined = with_unlabelled(data, f"folder:{folder}")
    train = joined.train
    assert isinstance(train, TensorSplit)
    assert train.images.shape == (107, 3, 32, 32)
    assert train.labels[100:].tolist() == [UNLABELLED] * 7
    assert train.ids[100:].tolist() == [FIRST_ID + number for number in range(7)]
    assert sorted(train.images[100:, 0, 0, 0].tolist()) == list(range(7))
    for part in ("images", "labels", "ids"):
        assert torch.equal(getattr(train, part)[:100], getattr(data.train, part))
    assert joined.val is data.val
    among = order(3, 1, train.ids)
    assert torch.equal(among[among < 100], order(3, 1, data.train.ids))


def test_a_source_s_own_training_images_lose_their_labels():
    train = with_unlabelled(open_data(DATA), "glyphs:train=100,val=100,seed=4").train
    assert isinstance(train, TensorSplit)
    assert (train.labels[100:] == UNLABELLED).all()
    other = open_data("glyphs:train=100,val=100,seed=4").train
    assert isinstance(other, TensorSplit)
    assert torch.equal(train.images[100:], other.images)


def test_files_join_files(folder):
    paths = sorted(str(path) for path in folder.rglob("*.png"))
    data = replace(open_data(DATA), train=FolderSplit(paths[:2], torch.tensor([5, 6])))
    train = with_unlabelled(data, f"folder:{folder}").train
    assert isinstance(train, JoinedSplit)
    assert train.labels.tolist() == [5, 6] + [UNLABELLED] * 7
    some = train.subset([8, 0, 2]).subset([1, 0])
    assert [some.encoded(place).name for place in (0, 1)] == [paths[0], paths[-1]]
    assert some.ids.tolist() == [0, FIRST_ID + 6]
    how = {"image_size": 32, "augment": None, "seed": 0, "shuffle": False, "device": torch.device("cpu")}
    (batch,) = make_loader(some, batch_size=4, workers=0, **how).epoch(0)
    assert batch.labels.tolist() == [5, UNLABELLED]
    with pytest.raises(ValueError, match="expected images in files, as the labelled ones, got 'glyphs'"):
        with_unlabelled(data, "glyphs")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("folder:", "unlabelled: expected folder:PATH, got 'folder:'"),
        ("folder:nowhere", "folder: expected a folder, got nowhere"),
        ("folder:{},train=3", "unlabelled: expected folder:PATH, got"),
        ("glyfs", "unknown data 'glyfs'"),
    ],
)
def test_what_is_no_folder_of_images_is_said(folder, spec, says):
    with pytest.raises(ValueError, match=says):
        with_unlabelled(open_data(DATA), spec.format(folder))


def test_an_empty_folder_and_another_size_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no images"):
        with_unlabelled(open_data(DATA), f"folder:{tmp_path / 'empty'}")
    data = open_data(DATA)
    assert isinstance(data.train, TensorSplit)
    small = replace(data, train=TensorSplit(data.train.images[..., :24, :24], data.train.labels))
    with pytest.raises(ValueError, match="expected images of 24x24 pixels, as the labelled ones, got 32x32"):
        with_unlabelled(small, DATA)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_task_is_a_mean_over_the_labelled(smoothing):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([3, UNLABELLED, 0, UNLABELLED, UNLABELLED, 2])
    task, some = Classification(smoothing), labels >= 0
    loss = task.loss(Outputs(logits), labels)
    expected = functional.cross_entropy(logits[some], labels[some], label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~some].any()
    full = labels.clamp(min=0)
    assert torch.equal(
        task.loss(Outputs(logits), full), functional.cross_entropy(logits, full, label_smoothing=smoothing)
    )
    none = task.loss(Outputs(logits), torch.full((6,), UNLABELLED))
    (gradient,) = torch.autograd.grad(none, logits)
    assert none == 0
    assert not gradient.any()


class Table(NormalizedModel):
    """Answers with the logits that it was given."""

    def __init__(self, logits):
        super().__init__(torch.nn.Identity(), mean=(0, 0, 0), std=(1, 1, 1))
        self.logits = torch.nn.Parameter(logits)

    def forward(self, images):
        return Outputs(self.logits)


@pytest.mark.parametrize("name", ["kd", "rkl", "js", "dist"])
def test_the_method_counts_every_image(name):
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(4, 5, generator=generator), Outputs(torch.randn(4, 5, generator=generator))
    spec = find_method(name)
    distiller = Distiller(Table(student), spec.build(**spec.options), Classification())
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    labels = student.argmax(1)
    steps = []
    for given in (labels, torch.where(torch.arange(4) < 1, labels, UNLABELLED)):
        steps.append(
            distiller(Batch(images, given, torch.arange(4), 0), lambda batch: teacher, {"task": 1.0, name: 1.0})
        )
    whole, part = steps
    assert torch.equal(whole.raw[name], part.raw[name])
    assert not torch.equal(whole.raw["task"], part.raw["task"])
    assert [(int(step.hits), int(step.labelled)) for step in steps] == [(4, 4), (1, 1)]
    tally = EpochMetrics(torch.device("cpu"))
    tally.add(part, 4, 1.0)
    assert tally.row()["train_top1"] == 100


@pytest.mark.parametrize("method", ["kd", "sp"])
def test_a_run_learns_from_them(tmp_path, folder, method):
    fields = {"data": DATA, "student": "resnet8", "method": method, "epochs": 1, "batch_size": 20}
    fields |= {"teacher": "random:resnet8", "trust_teacher": True, "lr": 1e-4}
    recipe = make_recipe({**fields, "unlabelled": f"folder:{folder}"})
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    (row,) = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert set(row["terms"]) == {"task", method}
    assert math.isfinite(row["loss"])
    assert row["train_top1"] == pytest.approx(round(row["train_top1"]))  # of the hundred that have a label


RECIPE = {"data": DATA, "student": "resnet8", "method": "kd", "teacher": "t", "unlabelled": "folder:x"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "pld"}, "expected a method that reads no labels (kd, rkl, js, jsd, skew_kl, dist, ttm, "),
        ({"method": "ce", "teacher": None}, "got 'ce'"),
        ({"mixup": 0.2}, "expected neither mixup nor cutmix beside 'folder:x'"),
        ({"cutmix": 0.2}, "expected neither mixup nor cutmix"),
        ({"accumulate": 2}, "unlabelled: expected accumulate=1"),
    ],
)
def test_what_does_not_go_with_them_is_refused(change, says):
    with pytest.raises(ValueError, match="unlabelled: ") as caught:
        make_recipe({**RECIPE, **change})
    assert says in str(caught.value)


def test_without_the_task_batches_may_be_accumulated():
    assert make_recipe({**RECIPE, "weights": {"task": 0}, "accumulate": 2}).accumulate == 2


def test_every_other_method_is_refused():
    for name in set(METHODS) - set(FREE):
        teacher = "t" if find_method(name).needs_teacher else None
        with pytest.raises(ValueError, match="unlabelled: expected a method that reads no labels"):
            make_recipe({**RECIPE, "method": name, "teacher": teacher})
