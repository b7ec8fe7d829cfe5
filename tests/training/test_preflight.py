"""Before the first step a teacher is asked: known figures, chance refused, random state untouched."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import pldistill
from pldistill.data import Dataset, TensorSplit
from pldistill.models import NormalizedModel
from pldistill.recipe import make_recipe
from pldistill.teachers.live import LiveTeacher
from pldistill.training.preflight import binomial_tail, preflight
from pldistill.training.progress import SilentCallback

CLASSES = tuple("abcde")


class Reader(nn.Module):
    """Reads the class from the gray of an image, 10 for each class; images darker than `honest` get a wrong one."""

    def __init__(self, honest: int = 0) -> None:
        super().__init__()
        self.bound = honest

    def forward(self, images):
        gray = (images.mean((1, 2, 3)) * 255).round()
        label = (gray % 5).long()
        return nn.functional.one_hot((label + (gray < self.bound)) % 5, 5).float()


class Notes(SilentCallback):
    """Keeps what it is told."""

    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


def dataset(grays):
    """Images of these grays; the class is the gray modulo 5."""
    grays = torch.as_tensor(grays)
    images = grays.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    split = TensorSplit(images, grays % 5)
    ones = (1.0, 1.0, 1.0)
    return Dataset("grays", CLASSES, (0.0, 0.0, 0.0), ones, image_size=8, hflip=False, train=split, val=split)


def live(honest=0, **about):
    return LiveTeacher(NormalizedModel(Reader(honest), mean=(0, 0, 0), std=(1, 1, 1)), **about)


def check(data, teacher, callback=None, **change):
    fields = {"data": "glyphs", "student": "resnet8", "method": "kd", "teacher": "resnet8.some", "batch_size": 64}
    recipe = make_recipe({**fields, **change})
    return preflight(recipe, data, teacher, accelerator=Accelerator(cpu=True), workers=0, callback=callback or Notes())


def test_the_tail_is_the_sum_of_exact_terms():
    for hits, count, chance in [(3, 10, 0.5), (1, 7, 0.01), (10, 10, 0.3), (40, 512, 0.05)]:
        exact = sum(math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(hits, count + 1))
        assert binomial_tail(hits, count, chance) == pytest.approx(exact, rel=1e-10)
    assert binomial_tail(0, 10, 0.5) == 1
    assert binomial_tail(10, 10, 1.0) == 1
    assert binomial_tail(512, 512, 0.001) == 0  # below what a float holds


def test_a_teacher_that_knows_passes_with_its_figures():
    found = check(dataset(torch.arange(100)), live())
    assert (found["hits"], found["images"], found["trusted"]) == (100, 100, False)
    assert found["chance"] == pytest.approx(0.2)
    assert found["p"] == pytest.approx(0.2**100, rel=1e-9)
    assert found["models"] == [{"image_size": None, "mean": [0, 0, 0], "std": [1, 1, 1]}]


def test_512_images_are_taken_evenly():
    """Of 1024 every second one: those of even place are read right, the others never."""
    grays = torch.arange(1024) % 5 + torch.tensor([100, 0]).repeat(512)
    found = check(dataset(grays), live(honest=50))
    assert (found["hits"], found["images"]) == (512, 512)


def test_a_teacher_at_chance_is_refused_with_figures_and_the_way_out():
    grays = torch.arange(100)
    with pytest.raises(ValueError, match="--trust-teacher") as caught:
        check(dataset(grays), live(honest=76))
    assert "24 of 100 validation images right (24.0 %), where chance is 20.0 % (p = 0.19)" in str(caught.value)
    assert check(dataset(grays), live(honest=69))["p"] < 0.01  # 31 of 100


def test_chance_is_the_commonest_class_where_that_is_more():
    """A teacher that always says the class of nine images in ten knows nothing."""
    grays = torch.tensor([5] * 90 + [6] * 10)

    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([1.0, 0, 0, 0, 0]).expand(len(images), 5)

    constant = LiveTeacher(NormalizedModel(Constant(), mean=(0, 0, 0), std=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"90 of 100 .* where chance is 90.0 %"):
        check(dataset(grays), constant)
    assert check(dataset(grays), live())["p"] == pytest.approx(0.9**100, rel=1e-6)


@pytest.mark.parametrize("grays", [[0, 1], [5] * 100])
def test_too_few_images_to_tell_are_no_reason_to_refuse(grays):
    """Two images, or one class alone: not even a teacher that is always right could pass."""
    notes = Notes()
    found = check(dataset(grays), live(), notes)
    assert found["hits"] == len(grays)
    assert found["p"] >= 0.01
    (note,) = notes.said
    assert "too few validation images to tell it from chance" in note


def test_a_trusted_teacher_is_not_asked():
    class Never(LiveTeacher):
        def __call__(self, batch):
            raise AssertionError

    never = Never(NormalizedModel(Reader(), mean=(0, 0, 0), std=(1, 1, 1)))
    assert check(dataset(range(10)), never, trust_teacher=True)["trusted"] is True
    assert preflight(None, None, None, accelerator=None, workers=0, callback=None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "said"), [(None, 0), (8, 0), (12, 0), (13, 1), (5, 1), (224, 1)])
def test_another_input_size_is_said(side, said):
    notes = Notes()
    check(dataset(range(50)), live(image_size=side), notes)
    assert len(notes.said) == said
    assert all(f"trained on images of {side} pixels a side and is shown 8" in note for note in notes.said)


def test_no_random_state_is_touched():
    before = torch.get_rng_state()
    check(dataset(range(50)), live())
    assert torch.equal(torch.get_rng_state(), before)


TINY = {"data": "glyphs:train=100,val=100", "student": "resnet8", "epochs": 1, "batch_size": 50}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """At chance: two steps that go nowhere."""
    recipe = make_recipe({**TINY, "method": "ce", "lr": 1e-6})
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("t") / "run", device="cpu", workers=0)


def test_the_record_says_what_was_found_and_asking_changes_no_number(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("pldistill.training.preflight.LEVEL", 2.0)  # refuses nobody
    assert teacher.record.read_environment()["preflight"] is None
    rows = []
    for name, trust in (("asked", False), ("trusted", True)):
        recipe = make_recipe({**TINY, "method": "pld", "teacher": str(teacher.folder), "trust_teacher": trust})
        run = pldistill.train(recipe, out=tmp_path / name, device="cpu", workers=0)
        row = json.loads((run.folder / "metrics.jsonl").read_text())
        rows.append({key: value for key, value in row.items() if key not in ("seconds", "images_per_second")})
    assert rows[0] == rows[1]
    found = json.loads((tmp_path / "asked" / "env.json").read_text())["preflight"]
    assert (found["images"], found["chance"], found["models"][0]["image_size"]) == (100, 0.01, 32)
    assert found["p"] == binomial_tail(found["hits"], 100, 0.01)


def test_a_run_at_chance_is_refused_before_a_file_is_written(teacher, tmp_path):
    recipe = make_recipe({**TINY, "method": "pld", "teacher": str(teacher.folder)})
    with pytest.raises(ValueError, match="expected better than chance"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    assert not (tmp_path / "run").exists()
