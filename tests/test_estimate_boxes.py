"""The estimate of a detector's time: arithmetic over rates, each timed once, and a real timing that leaves no trace."""

import pytest
import torch

from pldistill.studies.estimate_boxes import BoxJob, seconds_of_detectors, time_finding, time_learning
from pldistill.tasks.detection.sources import open_boxes
from tiny_detectors import NET, distilled, recipe


def job(of, teacher=None):
    return BoxJob(of, teacher, open_boxes(of.data), "cpu")


def test_seconds_are_images_times_rates_and_distinct_work_is_timed_once():
    asked = []

    def learning(each):
        asked.append(each)
        return 3.0 if each.teacher is None else 5.0

    pld, dkd = (job(distilled(method, epochs=4), NET) for method in ("pld", "dkd"))
    seconds = seconds_of_detectors([job(recipe()), pld, dkd], learning, lambda each: 2.0)
    assert seconds == [2 * (6 * 3 + 4 * 2), 4 * (6 * 5 + 4 * 2), 4 * (6 * 5 + 4 * 2)]
    assert [each.teacher for each in asked] == [None, NET]
    assert seconds_of_detectors([]) == []


@pytest.mark.parametrize("timer", [time_learning, time_finding])
def test_a_real_timing_leaves_no_trace(timer):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert 0 < timer(job(distilled(), NET)) < 60
    assert torch.equal(torch.get_rng_state(), before)
