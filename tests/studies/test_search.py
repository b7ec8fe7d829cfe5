"""A search tries what it says, goes on at an edge, chooses on held-out images, and then runs the other seeds."""

import csv
import io
import json
import math

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from layout_cases import comparison_csv, comparison_markdown
from pldistill.reports.comparison_frames import paired
from pldistill.studies import SEARCHES
from pldistill.studies.search import SCALE, Axis, compare, lay_out, outline, run_search
from pldistill.studies.small import TEACHER_QUALITY
from pldistill.training.cache_teacher import SilentCacheCallback
from pldistill.training.progress import StudyProgress

CIFAR = SEARCHES["cifar100-small"]


@pytest.mark.parametrize(
    ("axis", "tried", "best", "expected"),
    [
        (Axis("x", (1, 4), grow=4.0, most=64), (1, 4), 4, 16),
        (Axis("x", (1, 4), grow=4.0, most=64), (1, 4), 1, None),  # nothing smaller than published
        (Axis("x", (1, 4), grow=4.0, most=64), (1, 4, 16, 64), 64, None),
        (Axis("x", (1, 4), grow=4.0, most=64), (1, 4, 16), 4, None),
        (Axis("x", (0.1, 0.2), grow=2.0, least=0.05, most=0.8), (0.1, 0.2), 0.1, 0.05),
        (Axis("x", (0.1, 0.2), grow=2.0, least=0.05, most=0.8), (0.05, 0.1, 0.2), 0.05, None),
        (Axis("x", (1, 2, 4)), (1, 2, 4), 4, None),
    ],
)
def test_an_axis_goes_on_where_the_best_is_at_its_edge(axis, tried, best, expected):
    assert axis.beyond(tried, best) == expected


class Played:
    """A job whose runs are not made: each point's held-out figure is given."""

    def __init__(self, tmp_path, search, row, score):
        self.job = lay_out(search, out=tmp_path, data="cifar100:PATH" if search is CIFAR else None, rows=[row])
        self.column, self.row, self.score, self.made = self.job.columns[-1], row, score, []

    def play(self):
        while (cell := self.job.left(self.column, self.row)) is not None:
            values = dict(cell.recipe.options)
            self.made.append((cell.recipe.seed, values, dict(cell.recipe.weights)))
            cell.folder.mkdir(parents=True)
            cell.record.write_recipe(cell.recipe.to_dict())
            cell.record.write_environment({"precision": "off", "world_size": 1, "teacher_sha256": None})
            result = {"seed": cell.recipe.seed, "top1_last": 50.0, "top1_best": 50.0, "holdout_best": 1.0}
            result |= {"seconds": 1.0, "best_epoch": 1}
            held = self.score(cell.recipe)
            cell.record.write_result({**result, "holdout_last": held, "ece_last": 1.0, "agreement_last": 2.0})
        return self.made


def test_the_scale_goes_on_until_it_is_worse_and_the_others_seeds_are_of_the_best(tmp_path):
    def score(recipe):
        return 40 - abs(math.log2(recipe.weights["kd"] / 0.9) - 4)  # best at 16 times

    made = Played(tmp_path, CIFAR, "kd", score).play()
    assert [(seed, weights["kd"] / 0.9) for seed, _, weights in made] == [
        *((0, pytest.approx(factor)) for factor in (1, 4, 16, 64)),
        (1, pytest.approx(16)),
        (2, pytest.approx(16)),
    ]
    assert all(weights["task"] / 0.1 == pytest.approx(weights["kd"] / 0.9) for _, _, weights in made)


def test_axes_are_searched_one_after_the_other(tmp_path):
    def score(recipe):
        return recipe.options["temperature"] + (1 if recipe.weights["pld"] == 1 else 0)

    played = Played(tmp_path, CIFAR, "pld", score)
    made = [(seed, options["temperature"], weights["pld"]) for seed, options, weights in played.play()]
    assert made == [(0, 1, 1), (0, 2, 1), (0, 4, 1), (0, 4, 4), (1, 4, 1), (2, 4, 1)]
    (chosen,) = compare(played.job).layout.chosen.values()
    assert chosen == "tau 4, x1"


def test_under_adamw_the_term_s_weight_is_searched_and_the_task_s_stays(tmp_path):
    made = Played(tmp_path, TEACHER_QUALITY, "dist", lambda recipe: -recipe.weights["dist"]).play()
    assert [(weights["task"], weights["dist"]) for _, _, weights in made] == [(1, 1), (1, 4), (1, 1), (1, 1)]


def test_what_has_no_axis_is_run_once_a_seed_and_for_all_teachers_together(tmp_path):
    played = Played(tmp_path, TEACHER_QUALITY, "ce", lambda recipe: 1.0)
    assert [seed for seed, _, _ in played.play()] == [0, 1, 2]
    assert all(played.job.left(column, "ce") is None for column in TEACHER_QUALITY.sizes["full"].teachers)


def test_a_run_that_failed_is_the_worst_and_is_said(tmp_path):
    played = Played(tmp_path, CIFAR, "ce", lambda recipe: 30.0)
    large = played.job.cell("resnet20", "ce", {SCALE: 4.0}, 0)
    mark = played.job.mark(large)
    mark.parent.mkdir(parents=True)
    mark.write_text("NonFiniteLoss: term 'task'")
    assert [seed for seed, _, _ in played.play()] == [0, 1, 2]
    assert "seed 0: NonFiniteLoss: term 'task'" in comparison_markdown(compare(played.job))


def by_seed(figures):
    return pd.Series(dict(figures))


def test_the_difference_is_student_s_paired_interval():
    first, second = [(0, 51.0), (1, 53.5), (2, 52.0)], [(2, 50.5), (0, 50.0), (1, 51.0), (7, 90.0)]
    found = paired(by_seed(first), by_seed(second))
    exact = ttest_rel([51.0, 53.5, 52.0], [50.0, 51.0, 50.5])
    low, high = exact.confidence_interval(0.95)
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.half == pytest.approx((high - low) / 2)
    assert found.verdict == ("ahead" if exact.pvalue < 0.05 else "not decided")
    gains = [1.0, 2.5, 1.5]  # by hand: 4.303 is Student's t(0.975) for two degrees of freedom
    mean = sum(gains) / 3
    deviation = (sum((gain - mean) ** 2 for gain in gains) / 2) ** 0.5
    assert found.mean == pytest.approx(mean)
    assert found.half == pytest.approx(4.30265 * deviation / 3**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((1.0, 1.1, 0.9), "ahead"),
        ((-1.0, -1.1, -0.9), "behind"),
        ((1.0, -1.0, 0.5), "not decided"),
        ((9.0,), "not decided"),
    ],
)
def test_the_verdict_needs_an_interval_without_zero(gains, verdict):
    found = paired(
        by_seed([(seed, 50 + gain) for seed, gain in enumerate(gains)]), by_seed([(seed, 50.0) for seed in range(5)])
    )
    assert found.verdict == verdict
    assert paired(by_seed([(0, 1.0)]), by_seed([(1, 1.0)])) is None


@pytest.fixture(scope="module")
def smoked(tmp_path_factory):
    job = lay_out(TEACHER_QUALITY, out=tmp_path_factory.mktemp("search"), scale="smoke", rows=["kd", "ce", "pld-floor"])
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    run_search(job, callback=StudyProgress(console), cache_callback=SilentCacheCallback(), device="cpu", workers=0)
    return job, console.file.getvalue()


def test_a_search_runs_from_one_store_for_all_seeds(smoked):
    job, said = smoked
    cells = [folder for place in (job.out / "cells").iterdir() for folder in place.iterdir()]
    recipes = [json.loads((folder / "recipe.json").read_text()) for folder in cells]
    assert len(cells) == 3 + 3 + 2  # two tried and a seed more, twice, and two seeds
    assert {recipe["augment_seed"] for recipe in recipes} == {0}
    assert {recipe["seed"] for recipe in recipes} == {0, 1}
    (store,) = (job.out / "stores").iterdir()
    assert {recipe["teacher_cache"] for recipe in recipes} == {str(store), None}
    assert "kd-term1-seed0" in said
    assert (job.out / "teacher-quality.html").is_file()


def test_its_table_has_a_line_a_row_and_what_was_tried(smoked):
    job, _ = smoked
    text = comparison_markdown(compare(job))
    assert "| kd | term x" in text
    assert "reference" in text
    rows = list(csv.DictReader(io.StringIO(comparison_csv(compare(job)))))
    assert sum(row["chosen"] == "True" for row in rows) == 3
    assert {row["n"] for row in rows if row["chosen"] == "True"} == {"2"}
    assert "2 tried" in outline(job)


def test_the_same_line_finds_nothing_left(smoked, monkeypatch):
    job, _ = smoked
    monkeypatch.setattr("pldistill.training.run.train", lambda *args, **how: pytest.fail("trained again"))
    from rich.console import Console

    run_search(
        job,
        callback=StudyProgress(Console(file=io.StringIO())),
        cache_callback=SilentCacheCallback(),
        device="cpu",
        workers=0,
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scale": "short"}, "unknown scale 'short'"),
        ({"rows": ["kdd"]}, "unknown method 'kdd'; did you mean kd"),
        ({"columns": ["x"]}, "unknown pair 'x'"),
        ({}, "data: expected the images for scale 'full', as cifar100:PATH, got none"),
    ],
)
def test_what_a_search_does_not_know_is_refused(tmp_path, given, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        lay_out(CIFAR, out=tmp_path, **given)
    assert says in str(caught.value)


def test_the_user_s_images_get_the_held_out_part(tmp_path):
    assert lay_out(CIFAR, out=tmp_path, data="cifar100:here").data == "cifar100:here,validation=5000"
