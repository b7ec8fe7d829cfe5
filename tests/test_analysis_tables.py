"""Rows from run records: means by hand, and never an average over runs that differ in more than the seed."""

import csv
import io
import math

import pytest
from rich.console import Console

from analysis_runs import make_run
from pldistill.record import duration
from pldistill.reports.groups import group_runs
from pldistill.reports.tables import Stat, csv_table, markdown_table, rich_table, stat, summarize
from pldistill.specs import data_label


def test_means_and_sample_deviations_by_hand(tmp_path):
    runs = [
        make_run(tmp_path / str(seed), seed=seed, top1=[70.0, last], seconds=seconds, result={"top1_best": 70.0})
        for seed, last, seconds in ((0, 60.0, 10.0), (1, 63.0, 20.0), (2, 66.0, 30.0))
    ]
    (row,) = summarize(runs)
    assert row.top1_last == Stat(63.0, 3.0, 3)  # sqrt((9 + 0 + 9) / 2)
    assert row.top1_best == Stat(70.0, 0.0, 3)
    assert row.seconds == Stat(20.0, 10.0, 3)
    assert row.top5_last is None
    assert row.kl_last is None
    assert (row.n, row.seeds, row.unfinished, row.repeated_seeds) == (3, ("0", "1", "2"), (), ())


def test_one_run_has_no_deviation(tmp_path):
    (row,) = summarize([make_run(tmp_path)])
    assert row.top1_last == Stat(20.0, None, 1)
    assert row.top1_last.show(2) == "20.00"
    assert Stat(1234.5, 0.25, 2).show(1) == "1,234.5 ± 0.2"


def test_two_values_deviate_by_their_difference_over_root_two():
    found = stat([1.0, 4.0])
    assert found is not None
    assert found.std == pytest.approx(3.0 / math.sqrt(2))


@pytest.mark.parametrize("values", [[], [None], [1.0, None]])
def test_no_mean_over_part_of_the_runs(values):
    assert stat(values) is None


@pytest.mark.parametrize(
    "other",
    [
        {"method": "ls"},
        {"student": "resnet20"},
        {"data": "glyphs"},
        {"top1": [1.0, 2.0, 3.0]},
        {"lr": 0.1},
        {"options": {"temperature": 4.0}},
        {"weights": {"task": 2.0}},
        {"teacher": "somewhere"},
        {"a key of the future": 1},
        {"env": {"teacher_sha256": "abc"}},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path, other):
    rows = summarize([make_run(tmp_path / "a", seed=0), make_run(tmp_path / "b", seed=1, **other)])
    assert [row.n for row in rows] == [1, 1]
    assert len({row.group.name for row in rows}) == 2


def test_seed_and_where_a_run_was_made_do_not_part_runs(tmp_path):
    runs = [make_run(tmp_path / str(i), seed=i, out=f"/{i}", workers=i, device=f"cuda:{i}") for i in range(2)]
    assert [row.n for row in summarize(runs)] == [2]


def test_a_repeated_seed_is_told(tmp_path):
    (row,) = summarize([make_run(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 4, 3))])
    assert row.n == 3
    assert row.repeated_seeds == ("3",)


def test_speeds_of_different_machines_are_not_averaged(tmp_path):
    names = ("a CPU", "a GPU")
    (row,) = summarize([make_run(tmp_path / name, seed=i, env={"device_name": name}) for i, name in enumerate(names)])
    assert row.seconds is None
    assert row.images_per_second is None
    assert row.top1_last is not None


def test_unfinished_runs_enter_no_figure(tmp_path):
    runs = [make_run(tmp_path / "a", top1=[50.0]), make_run(tmp_path / "b", seed=1, top1=[99.0], finished=False)]
    (row,) = summarize(runs)
    assert (row.n, row.top1_last, row.unfinished) == (1, Stat(50.0, None, 1), ((1, 1),))

    (row,) = summarize([make_run(tmp_path / "c", top1=[99.0], epochs=7, finished=False)])
    assert (row.n, row.top1_last, row.best, row.unfinished) == (0, None, False, ((1, 7),))
    assert "1/7 epochs" in markdown_table([row])
    assert "99" not in markdown_table([row]) + csv_table([row])


def test_a_run_stopped_before_its_first_epoch_counts_as_unfinished(tmp_path):
    run = make_run(tmp_path, finished=False, top1=[], epochs=5)
    (tmp_path / "env.json").unlink()
    assert summarize([run])[0].unfinished == ((0, 5),)


def contest(tmp_path):
    teacher = tmp_path / "teacher"
    return [
        make_run(tmp_path / "kd", method="kd", teacher=str(teacher), top1=[31.0], options={"temperature": 4.0}),
        make_run(tmp_path / "pld", method="pld", teacher=str(teacher), top1=[33.5], weights={"pld": 1.0}),
        make_run(tmp_path / "ce", top1=[30.0]),
        make_run(teacher, student="resnet20", top1=[50.0]),
    ]


def test_order_best_and_difference_to_cross_entropy(tmp_path):
    rows = summarize(contest(tmp_path))
    assert [row.group.name for row in rows] == ["ce resnet20", "ce resnet8", "pld", "kd"]
    assert [row.best for row in rows] == [False, False, True, False]
    assert [row.over_ce for row in rows] == [None, None, pytest.approx(3.5), pytest.approx(1.0)]
    assert [row.teacher for row in rows] == [None, None, "resnet20", "resnet20"]


def test_no_difference_to_a_baseline_that_was_trained_otherwise(tmp_path):
    rows = summarize([make_run(tmp_path / "ce", lr=0.1), make_run(tmp_path / "kd", method="kd", teacher="t")])
    assert [row.over_ce for row in rows] == [None, None]
    known = make_run(tmp_path / "c", env={"teacher_sha256": "a"}, method="kd", teacher="t", lr=0.1, options={"x": 1})
    assert summarize([make_run(tmp_path / "ce", lr=0.1), known])[1].over_ce == 0
    two = [make_run(tmp_path / str(smooth), options={"smoothing": smooth}) for smooth in (0.0, 0.1)]
    assert summarize([*two, make_run(tmp_path / "kd", method="kd", teacher="t")])[-1].over_ce is None


def test_names_take_up_what_tells_groups_apart(tmp_path):
    runs = [
        make_run(tmp_path / "a", method="pld", options={"temperature": 4.0}),
        make_run(tmp_path / "b", method="pld", options={"temperature": 1.0}),
        make_run(tmp_path / "c", method="pld", options={"temperature": 1.0}, student="resnet20"),
        make_run(tmp_path / "d", method="kd", seed=5),
        make_run(tmp_path / "e", method="kd", seed=6),
    ]
    groups = group_runs(runs)
    assert [group.name for group in groups] == ["pld resnet8 temperature=4.0", "pld resnet8 temperature=1.0",
                                                "pld resnet20", "kd"]  # fmt: skip
    assert [group.setting for group in groups] == ["temperature=4.0", "temperature=1.0", "", ""]
    assert [groups[3].run_name(run) for run in groups[3].runs] == ["kd, seed 5", "kd, seed 6"]


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("glyphs", "glyphs"),
        ("glyphs:train=512,val=256", "glyphs:train=512,val=256"),
        ("cifar100:/data/c", "cifar100"),
        ("folder:/a/b/pets", "folder:pets"),
        ("cifar100:/a/b,train=10000", "cifar100,train=10000"),
        ("cifar10:/a=1,b/c,train=10000,validation=500", "cifar10,train=10000,validation=500"),
        ("folder:/a/pets,train=500", "folder:pets,train=500"),
        ("folder:/a/x=1/cats, dogs", "folder:cats, dogs"),
        ("folder:pets/", "folder:pets"),
        ("glyphs:validation=100", "glyphs:validation=100"),
    ],
)
def test_data_labels_leave_out_folders(spec, label):
    assert data_label(spec) == label


def test_no_records_is_an_error():
    with pytest.raises(ValueError, match="records: expected at least one"):
        summarize([])
    for render in (markdown_table, rich_table):
        with pytest.raises(ValueError, match="rows: expected at least one"):
            render([])


@pytest.mark.parametrize(("key", "value"), [("method", None), ("epochs", "many"), ("data", 3)])
def test_a_recipe_without_the_needed_keys_is_named(tmp_path, key, value):
    run = make_run(tmp_path)
    run.write_recipe(run.read_recipe() | {key: value})
    with pytest.raises(ValueError, match=rf"recipe\.json: expected '{key}' as .*, got {value!r}"):
        summarize([run])


def test_markdown_by_hand(tmp_path):
    assert markdown_table(summarize(contest(tmp_path))) == (
        "Data digits, epochs 1\n\n"
        "| Method | Student | Teacher | n | Top-1 | Best | Over CE | KL | Time | Images/s |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| ce | resnet20 |  | 1 | 50.00 | 50.00 |  |  | 1 min 0 s | 100 |\n"
        "| ce | resnet8 |  | 1 | 30.00 | 30.00 |  |  | 1 min 0 s | 100 |\n"
        "| pld | resnet8 | resnet20 | 1 | **33.50** | 33.50 | +3.50 | 0.500 | 1 min 0 s | 100 |\n"
        "| kd | resnet8 | resnet20 | 1 | 31.00 | 31.00 | +1.00 | 0.500 | 1 min 0 s | 100 |\n"
    )


def test_markdown_keeps_a_pipe_in_its_cell(tmp_path):
    rows = summarize([make_run(tmp_path / "a", student="a|b\nc"), make_run(tmp_path / "b", student="d")])
    assert "| a\\|b c |" in markdown_table(rows)


def test_csv_comes_back_with_all_digits(tmp_path):
    runs = [make_run(tmp_path / str(i), seed=i, data='folder:/x/a,"b', top1=[top]) for i, top in enumerate((1 / 3, 1))]
    (row,) = csv.DictReader(io.StringIO(csv_table(summarize(runs))))
    assert float(row["top1_last_mean"]) == (1 / 3 + 1) / 2
    assert float(row["top1_last_std"]) == pytest.approx((1 - 1 / 3) / math.sqrt(2), rel=1e-14)
    assert (row["n"], row["seeds"], row["data"], row["top5_last_mean"]) == ("2", "0 1", 'folder:a,"b', "")


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_terminal_table_fits_80_columns_and_cuts_nothing(tmp_path, seeds):
    runs = [run for seed in range(seeds) for run in contest(tmp_path / str(seed))]
    for seed, run in enumerate(runs):
        recipe = run.read_recipe()
        run.write_recipe(recipe | {"seed": seed, "teacher": recipe["teacher"] and "[red]t"})
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(rich_table(summarize(runs)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "33.50" in text
    assert "[red]t" in text  # a name is no markup


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_teacher_that_was_moved_with_its_students_keeps_its_name(tmp_path):
    make_run(tmp_path / "teacher", student="resnet20")
    moved = make_run(tmp_path / "student", method="kd", teacher="elsewhere/runs/teacher")
    (tmp_path / "alone").mkdir()
    alone = make_run(tmp_path / "alone" / "student", method="kd", teacher="elsewhere/runs/teacher")
    assert [row.teacher for row in summarize([moved])] == ["resnet20"]
    assert [row.teacher for row in summarize([alone])] == ["teacher"]
