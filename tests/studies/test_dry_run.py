"""The dry run of a study: each run's line as it is timed, the limit, Ctrl-C; no data on the disk and no trace left."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pldistill import models
from pldistill.__main__ import main
from pldistill.data import open_data
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.studies import SEARCHES, STUDIES
from pldistill.studies.dry_run import about, forecast
from pldistill.studies.search import lay_out, least_runs
from pldistill.studies.study import Plan, plan
from pldistill.studies.untrained import in_words, open_or_stand_in, seconds_of, time_untrained, work_of
from pldistill.tasks.base import make_task
from pldistill.training.timing import Rates
from tiny_detectors import NET, distilled

RESULT = {"top1_last": 50.0, "top1_best": 50.0, "best_epoch": 1}
RATES = Rates(image=3e-3, step=1e-2, validation=1e-3, teacher=2e-3)


class Clock:
    """A clock that a timer moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timer:
    """Gives the same rates for all, takes its time by the clock, and keeps what it was asked."""

    def __init__(self, clock: Clock, takes: float = 1.0) -> None:
        self.clock, self.takes = clock, takes
        self.asked: list[str] = []
        self.budgets: list[float] = []

    def __call__(self, run: Any, data: Any, device: str, budget: float) -> Rates:
        self.asked.append(in_words(run))
        self.budgets.append(budget)
        self.clock.now += self.takes
        return RATES


def table1(out: Path, **given: Any) -> Plan:
    fields = {"data": "cifar100:nowhere", "rows": ("ce", "kd", "pld"), "pairs": ("resnet56-resnet20",), "seeds": 2}
    return plan(STUDIES["table1"], out=out, **{**fields, **given})


def said(
    layout: Plan, timer: Any = None, clock: Clock | None = None, text: StringIO | None = None, **how: Any
) -> list[str]:
    """The lines of a dry run, which are in `text` too; the timer takes a second for each work by default."""
    clock, text = clock or Clock(), text or StringIO()
    how = {"timer": timer or Timer(clock), "clock": clock, "limit": 120.0, **how}
    forecast(layout.runs, console=Console(file=text, width=60), device="cpu", **how)
    return text.getvalue().splitlines()


def test_each_run_s_line_follows_its_timing_and_distinct_work_is_timed_once(tmp_path: Path) -> None:
    layout = table1(tmp_path)
    clock = Clock()
    timer = Timer(clock)
    lines = said(layout, timer, clock)
    steps = -(-50_000 // 128)
    seconds = 250 * (50_000 * 3e-3 + steps * 1e-2 + 10_000 * 1e-3) + 10_000 * 2e-3
    assert timer.asked == ["resnet56 with ce", "resnet20 with ce", "resnet56 -> resnet20 with kd",
                           "resnet56 -> resnet20 with pld"]  # fmt: skip
    names = [run.name for run in layout.runs]
    first = [text for name, what in zip(names[:4], timer.asked, strict=True) for text in (f"timing {what} ...", name)]
    assert [line.split("  ")[0] for line in lines] == [*first, *names[4:], lines[-1]]
    assert all(line.endswith(about(seconds)) for line in lines if line.startswith("resnet56-"))
    total = about(7 * seconds)
    assert lines[-1] == f"left: {total} on this machine, 7 of 7 runs timed, without the reading of images"
    assert not list(tmp_path.iterdir())


def test_train_validation_batches_and_epochs_count(tmp_path: Path) -> None:
    """Held-out images are scored too; a step is of all accumulated batches."""
    whole = table1(tmp_path, data="cifar100:nowhere,train=10000", validation=5000).cells[1]
    recipe = whole.recipe.model_copy(update={"accumulate": 4, "epochs": 3})
    run = replace(whole, recipe=recipe)
    data = open_or_stand_in(recipe)
    expected = 3 * (10_000 * 3e-3 + -(-10_000 // (128 * 4)) * 1e-2 + (10_000 + 5_000) * 1e-3) + 15_000 * 2e-3
    assert seconds_of(run, data, RATES) == pytest.approx(expected)


def test_a_run_that_is_begun_has_less_left(tmp_path: Path) -> None:
    run = table1(tmp_path).cells[0]
    data = open_or_stand_in(run.recipe)
    whole = seconds_of(run, data, RATES)
    run.folder.mkdir(parents=True)
    for epoch in range(1, 51):
        run.record.append_epoch({"epoch": epoch, "seconds": 1.0, "images_per_second": 1.0})
    once = 10_000 * 2e-3
    assert seconds_of(run, data, RATES) - once == pytest.approx(200 / 250 * (whole - once))


def test_a_finished_run_shows_its_own_time_and_is_not_timed(tmp_path: Path) -> None:
    layout = table1(tmp_path, seeds=1, rows=("ce", "kd"))
    for run in layout.runs[:2]:
        run.folder.mkdir(parents=True)
        run.record.write_recipe(run.recipe.to_dict())
        run.record.write_result({**RESULT, "seconds": 61.0})
    clock = Clock()
    timer = Timer(clock)
    lines = said(layout, timer, clock)
    assert timer.asked == ["resnet56 -> resnet20 with kd"]
    assert [line.split()[-5:] for line in lines[:2]] == [["1", "min", "1", "s", "finished"]] * 2
    assert "1 of 1 runs timed" in lines[-1]
    layout.runs[2].folder.mkdir(parents=True)
    layout.runs[2].record.write_result({**RESULT, "seconds": 1.0})
    assert said(layout)[-1] == "left: nothing, all 3 runs are finished"


def test_what_the_limit_leaves_is_listed_and_the_sum_is_a_least(tmp_path: Path) -> None:
    """Timings take two seconds each: at four the third is not begun."""
    clock = Clock()
    timer = Timer(clock, takes=2.0)
    lines = said(table1(tmp_path), timer, clock, limit=4.0)
    assert len(timer.asked) == 2
    states = {line.partition("  ")[0]: line.rpartition("  ")[2].strip() for line in lines[:-1]}
    untimed = [f"resnet56-resnet20 {row} seed {seed}" for seed in (0, 1) for row in ("kd", "pld")]
    assert [run for run, state in states.items() if state == "not timed"] == untimed
    assert lines[-1].startswith("left: at least ")
    assert "3 of 7 runs timed" in lines[-1]


def test_ctrl_c_gives_what_is_known_and_the_exit_code_of_an_interruption(tmp_path: Path) -> None:
    clock = Clock()

    class Stopped(Timer):
        def __call__(self, *of: Any) -> Rates:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().__call__(*of)

    timer, text = Stopped(clock), StringIO()
    with pytest.raises(Interrupted) as stop:
        said(table1(tmp_path), timer, clock, text)
    assert stop.value.signal == 2
    lines = text.getvalue().splitlines()
    assert sum(line.endswith("not timed") for line in lines) == 4
    assert lines[-1].startswith("left: at least ")
    assert len(timer.asked) == 2


def test_a_run_that_would_fail_says_so_and_the_others_are_timed(tmp_path: Path) -> None:
    two = {"a": ("resnet8", "no_such_model"), "b": ("resnet8", "resnet8")}
    study = replace(STUDIES["table1"], pairs=two)
    layout = plan(study, out=tmp_path, scale="smoke", rows=("ce",), pairs=("a", "b"))
    lines = said(layout, time_untrained)
    assert any("fails: unknown model 'no_such_model'" in line for line in lines)
    assert lines[-1].startswith("left: at least ")
    assert "1 of 2 runs timed" in lines[-1]


def test_a_budget_is_a_fair_share_of_the_time_that_is_left(tmp_path: Path) -> None:
    """A quarter of the share, for what is timed takes about four times the budget; within 0.3 and 4 seconds."""
    for limit in (4.5, 40.0, 600.0):
        clock = Clock()
        timer = Timer(clock)
        said(table1(tmp_path), timer, clock, limit=limit)
        shares = [(limit - done) / (4 - done) / 4 for done in range(4)]
        assert timer.budgets == pytest.approx([min(max(share, 0.3), 4.0) for share in shares])


def test_a_limit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="time_limit: expected a number of seconds above 0, got 0"):
        said(table1(tmp_path), limit=0.0)


def test_a_terminal_shows_what_is_timed_for_as_long_as_it_is(tmp_path: Path) -> None:
    clock, text = Clock(), StringIO()
    console = Console(file=text, width=60, force_terminal=True)
    runs = table1(tmp_path, seeds=1).runs
    forecast(runs, console=console, device="cpu", limit=120.0, timer=Timer(clock), clock=clock)
    assert "timing resnet56 -> resnet20 with kd" in text.getvalue()
    assert "\x1b" in text.getvalue()


COUNTS = {
    "cifar100:nowhere": (50_000, None, 10_000, 100, 32),
    "cifar10:nowhere,train=2000,validation=500": (2_000, 500, 10_000, 10, 32),
    "imagenet:nowhere": (1_281_167, None, 50_000, 1_000, 224),
}


@pytest.mark.parametrize("spec", COUNTS)
def test_a_source_of_known_counts_needs_no_files(spec: str) -> None:
    data = open_or_stand_in(make_recipe({"data": spec, "student": "resnet8", "method": "ce"}))
    held = None if data.holdout is None else len(data.holdout)
    assert (len(data.train), held, len(data.val), len(data.classes), data.image_size) == COUNTS[spec]
    assert data.train.subset([0, 3]).images.shape == (2, 3, data.image_size, data.image_size)


def test_an_image_size_counts() -> None:
    data = open_or_stand_in(
        make_recipe({"data": "imagenet:no", "student": "resnet8", "method": "ce", "image_size": 64})
    )
    assert (data.image_size, tuple(data.val.images.shape[1:])) == (64, (3, 64, 64))


def test_coco_needs_no_files() -> None:
    fields = {"task": "detection", "student": NET, "method": "ce", "image_size": 400}
    data = open_or_stand_in(make_recipe({**fields, "data": "coco:nowhere,train=1000"}))
    assert (len(data.train), len(data.val), len(data.classes), data.image_size) == (1_000, 5_000, 80, 400)
    assert (data.category_ids[0], data.category_ids[-1], data.classes[0]) == (1, 90, "person")
    boxes = data.train.objects(999).boxes
    height, width = data.train.image(999).shape[1:]
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert bool((boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all())
    with pytest.raises(ValueError, match="coco: train: expected 1 to 118287 images, got 0"):
        open_or_stand_in(make_recipe({**fields, "data": "coco:nowhere,train=0"}))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:/no/such/place", "folder: expected a folder, got /no/such/place"),
        ("cifar100:nowhere,trian=5", "unknown option of cifar100 'trian'; did you mean train"),
        ("cifar100:nowhere,train=7", "train: expected 100 to 50000 images"),
        ("cifar100", "cifar100: expected cifar100:PATH, got no path"),
        ("cifar1000:x", "unknown data 'cifar1000:x'|unknown data 'cifar1000'"),
    ],
)
def test_what_only_files_tell_and_what_is_misspelled_is_refused(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        said(table1(tmp_path, data=spec))


def test_what_is_on_the_disk_is_opened() -> None:
    recipe = make_recipe({"data": "glyphs:train=120,val=110", "student": "resnet8", "method": "ce"})
    assert make_task(recipe).stand_in(recipe) is None
    data = open_or_stand_in(recipe)
    assert torch.equal(data.val.images, open_data(recipe.data).val.images)


ALIKE = {"seed": 5, "epochs": 9, "lr": 1e-4, "weights": {"task": 0.5, "kd": 3.0}, "data": "glyphs:train=400"}
OTHER = {
    "student": "resnet20",
    "method": "pld",
    "options": {"temperature": 2.0},
    "batch_size": 64,
    "image_size": 24,
    "amp": "bf16",
    "ema": 0.9,
    "data": "digits",
    "weights": {"task": 0.0, "kd": 1.0},
}


@pytest.mark.parametrize(("field", "same"), [*((name, True) for name in ALIKE), *((name, False) for name in OTHER)])
def test_what_is_the_same_work(tmp_path: Path, field: str, same: bool) -> None:
    fields = {"data": "glyphs", "student": "resnet8", "method": "kd", "teacher": "resnet20"}
    (run,) = table1(tmp_path, rows=("kd",), seeds=1).cells
    value = (ALIKE if same else OTHER)[field]
    one, other = (
        replace(run, recipe=make_recipe({**fields, **more})) for more in ({"amp": "off"}, {"amp": "off", field: value})
    )
    assert (work_of(one) == work_of(other)) == same


def smoke(out: Path, row: str) -> Any:
    study = replace(STUDIES["table1"], pairs={"resnet56-resnet20": ("resnet20", "resnet8")})
    return plan(study, out=out, scale="smoke", rows=(row,)).cells[0]


@pytest.mark.parametrize("row", ["ce", "pld", "fitnet"])
def test_a_real_timing_leaves_no_trace(tmp_path: Path, row: str) -> None:
    run = smoke(tmp_path, row)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rates = time_untrained(run, open_or_stand_in(run.recipe), "cpu", 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert 0 < rates.image < 1
    assert 0 < rates.step < 1
    assert 0 < rates.validation < 1
    assert (rates.teacher == 0) if run.recipe.teacher is None else (0 <= rates.teacher < 1)
    assert not list(tmp_path.iterdir())


def test_a_detector_is_timed_as_a_classifier_is(tmp_path: Path) -> None:
    run = replace(smoke(tmp_path, "pld"), recipe=distilled(), models=(NET, NET))
    rates = time_untrained(run, open_or_stand_in(run.recipe), "cpu", 0.5)
    assert 0 < rates.image < 60
    assert 0 < rates.validation < 60


def test_a_deep_detector_with_drawn_weights_and_frozen_norms_still_proposes(tmp_path: Path) -> None:
    run = plan(STUDIES["table7"], out=tmp_path, data="coco:nowhere").teachers[1]
    options = {**run.recipe.task_options, "short_sides": "64-64"}
    small = run.recipe.model_copy(update={"image_size": 64, "task_options": options})
    assert small.student == "fasterrcnn:resnet101"
    rates = time_untrained(replace(run, recipe=small), open_or_stand_in(small), "cpu", 0.1)
    assert rates.validation > 0


def test_answers_from_a_cache_need_neither_the_cache_nor_the_teacher(tmp_path: Path, monkeypatch: Any) -> None:
    run = smoke(tmp_path, "pld")
    cached = run.recipe.model_copy(update={"teacher": "runs/nowhere", "teacher_cache": str(tmp_path / "none")})
    built: list[str] = []
    build = models.build
    monkeypatch.setattr("pldistill.models.build", lambda name, **how: (built.append(name), build(name, **how))[1])
    assert time_untrained(replace(run, recipe=cached), open_or_stand_in(cached), "cpu", 0.3).image > 0
    assert built == ["resnet8"]


def test_a_search_lists_the_runs_that_are_made_in_any_case(tmp_path: Path) -> None:
    job = lay_out(SEARCHES["teacher-quality"], out=tmp_path, scale="smoke", rows=("ce", "pld"))
    runs = least_runs(job)
    names = [run.name for run in runs]
    assert len(names) == len(set(names))
    teachers, columns = [run for run in runs if run.row == "teacher"], len(job.columns)
    assert len(teachers) == columns
    values = sum(len(axis.values) for axis in job.axes("pld"))
    own = [run for run in runs if run.recipe.method == "pld"]
    assert len(own) == columns * (values + job.seeds - 1)
    assert len([run for run in runs if run.row == "ce"]) == job.seeds


def test_the_line_prints_plainly_without_data(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    clock = Clock()
    monkeypatch.setattr("pldistill.studies.dry_run.forecast", partial(forecast, timer=Timer(clock, 0.5), clock=clock))
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "table1", "--dry-run", "--methods", "kd", "--seeds", "1", "--time-limit", "5"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "8 runs" in lines[0]
    assert "at most 5 s" in lines[0]
    assert "8 of 8 runs timed" in lines[-1]
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "table1", "--dry-run", "--time-limit", "soon"])
    assert left.value.code == 2
    assert "time_limit" in capsys.readouterr().err
