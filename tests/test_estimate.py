"""The estimate of time: arithmetic over rates, each rate timed once, and a real timing that leaves no trace."""

from dataclasses import replace

import pytest
import torch

from pldistill.studies import estimate
from pldistill.studies.estimate import Job, Work, seconds_of, time_work

JOB = Job(
    student="resnet20",
    teacher="resnet56",
    epochs=10,
    images=1000,
    val_images=200,
    batch_size=128,
    classes=100,
    image_size=32,
)
RATES = {("resnet20", True): 3e-3, ("resnet20", False): 1e-3, ("resnet56", True): 8e-3, ("resnet56", False): 2e-3}


class Fake:
    """Seconds an image from a table, and what was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, work):
        self.asked.append(work)
        return RATES[work.model, work.learns]


def test_seconds_are_images_times_rates():
    with_teacher, alone = seconds_of([JOB, replace(JOB, teacher=None)], Fake())
    # The teacher answers for each training image each epoch, and once a run for the validation images.
    assert with_teacher == pytest.approx(10 * (1000 * (3e-3 + 2e-3) + 200 * 1e-3) + 200 * 2e-3)
    assert alone == pytest.approx(10 * (1000 * 3e-3 + 200 * 1e-3))


def test_epochs_and_images_count_in_full():
    base, twice = seconds_of([replace(JOB, teacher=None), replace(JOB, teacher=None, epochs=20)], Fake())
    assert twice == pytest.approx(2 * base)
    (without_validation,) = seconds_of([replace(JOB, val_images=0)], Fake())
    assert without_validation == pytest.approx(10 * 1000 * 5e-3)


def test_distinct_work_is_timed_once():
    fake = Fake()
    jobs = [JOB, replace(JOB, epochs=3), replace(JOB, student="resnet56", teacher=None)]
    seconds_of(jobs, fake)
    # The pair's student learns and answers; its teacher answers, and learns as a student of its own.
    assert sorted((work.model, work.learns) for work in fake.asked) == sorted(RATES)
    seconds_of([JOB, replace(JOB, amp="bf16")], again := Fake())
    assert len(again.asked) == 6


def test_no_job_takes_no_time():
    assert seconds_of([], Fake()) == []


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_real_timing(amp):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state = torch.get_rng_state()
    work = Work("resnet8", True, batch_size=32, classes=10, image_size=32, amp=amp, device="cpu")
    try:
        learning = time_work(work)
        answering = time_work(replace(work, learns=False))
    finally:
        torch.set_num_threads(threads)
    assert 0 < answering < 1  # no comparison of the two: a busy machine may stall either
    assert 0 < learning < 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("batch_size", "timed"), [(128, 64), (8, 8)])
def test_a_rate_is_the_median_of_three_steps_over_a_small_batch(monkeypatch, batch_size, timed):
    steps = iter([100.0, 1.0, 9.0, 2.0])  # the first is the warm-up
    monkeypatch.setattr(estimate, "timed", lambda step, device: next(steps))
    work = Work("resnet8", False, batch_size=batch_size, classes=10, image_size=32, amp="off", device="cpu")
    assert time_work(work) == pytest.approx(2.0 / timed)


def test_the_default_timer_times_this_machine():
    (seconds,) = seconds_of([replace(JOB, student="resnet8", teacher=None, epochs=1, batch_size=8)])
    assert 0 < seconds < 600


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 0, "epochs: expected at least 1, got 0"),
        ("images", -1, "images: expected at least 1, got -1"),
        ("val_images", -1, "val_images: expected at least 0, got -1"),
        ("amp", "int8", "amp: expected bf16, fp16, off, got 'int8'"),
    ],
)
def test_bad_jobs_are_named(field, value, said):
    with pytest.raises(ValueError, match=said):
        replace(JOB, **{field: value})


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="unknown model 'resnet21'"):
        seconds_of([replace(JOB, student="resnet21")])
