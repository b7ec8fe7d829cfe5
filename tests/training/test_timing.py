"""How long a run takes: arithmetic over rates, how a step is timed, and a look ahead that changes no number."""

import pytest
import torch
from torch import nn

import pldistill
from pldistill.launch import Interrupted
from pldistill.models import build
from pldistill.recipe import make_recipe
from pldistill.record import duration
from pldistill.training import timing
from pldistill.training.progress import ProgressBar, SilentCallback, StudyProgress
from pldistill.training.timing import Rates, settled, untouched
from tiny_detectors import distilled
from tiny_runs import CE, StopAt, assert_same_run, distill


class Asks(SilentCallback):
    """Wants to know how long the run takes, and keeps what it is told."""

    wants_time = True

    def __init__(self):
        self.told = []

    def tell(self, message):
        self.told.append(message)

    @property
    def time(self):
        return [line for line in self.told if line.startswith("time: ")]


class Steps:
    """In place of the clock: every step is made and said to take so many seconds."""

    def __init__(self, *seconds):
        self.seconds, self.made = list(seconds), 0

    def __call__(self, act, device):
        act()
        self.made += 1
        return self.seconds[min(self.made, len(self.seconds)) - 1]


def test_seconds_are_images_and_steps_times_rates():
    rates = Rates(image=3e-3, step=2e-2, validation=1e-3, teacher=5e-3)
    seconds = rates.seconds(epochs=10, images=1000, steps=8, validation=200)
    assert seconds == pytest.approx(10 * (1000 * 3e-3 + 8 * 2e-2 + 200 * 1e-3) + 200 * 5e-3)


@pytest.mark.parametrize(
    ("first", "later", "fewest", "most", "budget", "count", "asked"),
    [
        # A slow first step is all that is timed.
        (3.0, 1.0, 2, 128, 4.0, 2, [2]),
        # 0.01 s an image: 2, 8, 32 and 64 images, and the last three times; the warm-up does not count.
        (1.0, 0.01, 2, 64, 8.0, 64, [2, 2, 8, 32, 64, 64, 64, 64]),
        # No larger batch than is sure to fit into half of the budget: 32 images may take 4 times 0.8 s.
        (0.1, 0.1, 2, 64, 4.0, 8, [2, 2, 8, 8, 8, 8]),
        # Repeated while the budget lasts.
        (0.4, 0.2, 2, 2, 1.0, 2, [2, 2, 2, 2]),
        (0.1, 0.1, 2, 1, 1.0, 1, [1, 1, 1, 1, 1]),
    ],
)
def test_the_batch_grows_while_steps_are_quick(first, later, fewest, most, budget, count, asked):
    """`later` are the seconds an image, `first` those of the first step."""
    seen = []

    def run(images):
        seen.append(images)
        return first if len(seen) == 1 else later * images

    found = settled(run, fewest, most, budget)
    assert seen == asked
    assert found == (count, pytest.approx(first if len(asked) == 1 else later * count))


def test_the_median_of_three_counts():
    seconds = iter([0.1, 0.1, 0.5, 0.2, 9.0])
    assert settled(lambda images: next(seconds), 2, 2, 100.0) == (2, 0.5)


def tried(recipe, out, callback, **how):
    return pldistill.train(recipe, out=out, device="cpu", workers=0, callback=callback, **how).folder


CASES = {
    "batchnorm": {},
    "dropout": {"student": "ghostnet_050", "epochs": 1},
    "average": {"ema": 0.9},
    "accumulated": {"accumulate": 2, "clip_grad": 1.0},
    "bfloat16": {"amp": "bf16"},
    "mixed": {"mixup": 0.2, "repeats": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_timed_is_bit_for_bit_one_that_was_not(tmp_path, monkeypatch, name):
    monkeypatch.setattr(timing, "SOON", -1.0)
    recipe, asks = make_recipe({**CE, "epochs": 2, **CASES[name]}), Asks()
    assert_same_run(tried(recipe, tmp_path / "timed", asks), tried(recipe, tmp_path / "not", SilentCallback()))
    assert len(asks.time) == 1


@pytest.mark.parametrize("method", ["fitnet", "vid", "dist"])
def test_so_is_one_with_adapters_and_a_teacher(teacher, tmp_path, monkeypatch, method):
    monkeypatch.setattr(timing, "SOON", -1.0)
    recipe = distill(teacher, method=method, epochs=1)
    assert_same_run(tried(recipe, tmp_path / "timed", Asks()), tried(recipe, tmp_path / "not", SilentCallback()))


def test_so_is_a_detector_whose_samplers_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "SOON", -1.0)
    recipe, asks = distilled(epochs=1), Asks()
    assert_same_run(tried(recipe, tmp_path / "timed", asks), tried(recipe, tmp_path / "not", SilentCallback()))
    assert len(asks.time) == 1


def test_so_is_one_that_goes_on(tmp_path, monkeypatch, every_step):
    monkeypatch.setattr(timing, "SOON", -1.0)
    recipe = make_recipe({**CE, "student": "ghostnet_050", "epochs": 2, "ema": 0.9})
    tried(recipe, tmp_path / "whole", SilentCallback())
    with pytest.raises(Interrupted):
        tried(recipe, tmp_path / "cut", StopAt(1, 2))
    asks = Asks()
    tried(recipe, tmp_path / "cut", asks, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(asks.time) == 1


def test_the_time_is_that_of_the_images_that_are_left(tmp_path, monkeypatch, every_step):
    """By the second step, for the first sets up what the second reuses."""
    monkeypatch.setattr(timing, "timed", Steps(99.0, 4.0))
    recipe, asks = make_recipe(CE), Asks()
    with pytest.raises(Interrupted):
        tried(recipe, tmp_path / "run", StopAt(1, 2))
    tried(recipe, tmp_path / "run", asks, resume=True)
    left = 2 * 160 - 2 * 32
    expected = duration(left * 4.0 / 32)
    assert asks.time == [f"time: expected about {expected}, by two steps over the first batch, without the validation"]
    assert asks.told.index(asks.time[0]) == len(asks.told) - 1


@pytest.mark.parametrize(("seconds", "made"), [((0.5,), 1), ((99.0, 0.5), 2)])
def test_of_a_run_that_is_soon_over_nothing_is_said(tmp_path, monkeypatch, seconds, made):
    """15 steps of half a second: the first step, or else the second, says so."""
    monkeypatch.setattr(timing, "timed", steps := Steps(*seconds))
    tried(make_recipe(CE), tmp_path / "run", asks := Asks())
    assert (steps.made, asks.time) == (made, [])


@pytest.mark.parametrize("callback", [SilentCallback(), Asks()])
def test_where_nobody_asks_or_the_student_is_compiled_no_step_is_made(tmp_path, monkeypatch, callback):
    monkeypatch.setattr(timing, "timed", steps := Steps(99.0))
    monkeypatch.setattr("torch.nn.Module.compile", lambda self: None)
    tried(make_recipe({**CE, "epochs": 1, "compile": callback.wants_time}), tmp_path / "run", callback)
    assert steps.made == 0


def test_a_bar_asks_and_a_study_of_many_runs_does_not():
    assert (ProgressBar.wants_time, StudyProgress.wants_time) == (True, False)


def test_what_a_step_changes_is_put_back_even_after_an_error():
    model = nn.Sequential(build("resnet8", num_classes=10), nn.Dropout(0.5)).train()
    next(model.children()).eval()
    modes = [part.training for part in model.modules()]
    before, state = {name: buffer.clone() for name, buffer in model.named_buffers()}, torch.get_rng_state()

    def learn():
        with untouched(model, torch.device("cpu")):
            model.train()(torch.randn(4, 3, 32, 32))
            assert any(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        learn()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
