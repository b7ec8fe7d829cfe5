"""Rows from run records: means by hand, and never an average over runs that differ in more than the seed."""

import csv
import io
import math

import pandas as pd
import pytest

from analysis_runs import make_run
from layout_cases import printed
from pldistill.record import duration
from pldistill.reports import summary
from pldistill.reports.render import csv_text, markdown, plus_minus
from pldistill.reports.runs import group_runs, over_seeds, run_frame
from pldistill.specs import data_label


def summarize(records):
    return summary.summarize(group_runs(records))


def only(records):
    """The one line of these records, missing figures as None."""
    lines = summarize(records)
    assert len(lines) == 1
    return lines.astype(object).where(lines.notna(), None).iloc[0]


def figure(line, name):
    return line[f"{name}_mean"], line[f"{name}_std"]


def over(values):
    """One group's values over seeds."""
    return over_seeds(pd.DataFrame({"of": "a", "value": pd.Series(values, dtype=float)}), ["of"])


def markdown_table(lines):
    return markdown(summary.summary_document(lines))


def csv_table(lines):
    return csv_text(summary.summary_csv(lines))


def test_means_and_sample_deviations_by_hand(tmp_path):
    runs = [
        make_run(tmp_path / str(seed), seed=seed, top1=[70.0, last], seconds=seconds, result={"top1_best": 70.0})
        for seed, last, seconds in ((0, 60.0, 10.0), (1, 63.0, 20.0), (2, 66.0, 30.0))
    ]
    row = only(runs)
    assert figure(row, "top1_last") == (63.0, pytest.approx(((60 - 63) ** 2 + 0 + (66 - 63) ** 2) ** 0.5 / 2**0.5))
    assert figure(row, "top1_best") == (70.0, 0.0)
    assert figure(row, "seconds") == (20.0, 10.0)
    assert figure(row, "top5_last") == figure(row, "kl_last") == (None, None)
    assert (row["n"], row["seeds"], row["unfinished"], row["repeated_seeds"]) == (3, "0 1 2", "", "")


def test_a_frame_has_a_line_a_run_with_its_recipe_flattened_and_its_figures(tmp_path):
    env = {"preflight": {"weights": {"label": 0.25}}}
    runs = [
        make_run(tmp_path / "a", options={"temperature": 4.0}, seconds=90.0, env=env),
        make_run(tmp_path / "b", seed=1, finished=False),
    ]
    frame = run_frame(run for group in group_runs(runs) for run in group.runs)
    assert frame["recipe.options.temperature"].iloc[0] == "4.0"
    assert frame["recipe.options.temperature"].isna().tolist() == [False, True]
    assert "recipe.seed" not in frame
    assert frame["seed"].tolist() == ["0", "1"]
    assert frame.loc[0, ["top1_last", "minutes", "label_weight"]].tolist() == [20.0, 1.5, 0.25]
    assert frame.loc[1, ["top1_last", "minutes", "label_weight"]].isna().all()


def test_over_seeds_is_the_mean_and_the_sample_deviation_of_each_group():
    values = pd.DataFrame({"of": ["b", "a", "b", "b", "c"], "value": [1.0, 5.0, 2.0, 6.0, None]})
    deviation = (((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / (3 - 1)) ** 0.5
    b, a = over_seeds(values, ["of"]).to_dict("records")  # c has a run without a value
    assert b == {"of": "b", "mean": 3.0, "std": pytest.approx(deviation), "count": 3}
    assert (a["of"], a["mean"], a["count"]) == ("a", 5.0, 1)
    assert pd.isna(a["std"])


def test_one_run_has_no_deviation(tmp_path):
    assert figure(only([make_run(tmp_path)]), "top1_last") == (20.0, None)
    line = over([20.0]).iloc[0]
    assert (line["mean"], line["count"]) == (20.0, 1)
    assert pd.isna(line["std"])
    assert plus_minus(20.0, None, 2) == "20.00"
    assert plus_minus(1234.5, 0.25, 1) == "1,234.5 ± 0.2"
    assert plus_minus(float("nan"), 1.0, 1) == ""


def test_two_values_deviate_by_their_difference_over_root_two():
    assert over([1.0, 4.0])["std"].tolist() == [pytest.approx(3.0 / math.sqrt(2))]


@pytest.mark.parametrize("values", [[], [None], [1.0, None]])
def test_no_mean_over_part_of_the_runs(values):
    assert over(values).empty


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
    assert rows["n"].tolist() == [1, 1]
    assert rows["name"].nunique() == 2


def test_seed_and_where_a_run_was_made_do_not_part_runs(tmp_path):
    runs = [make_run(tmp_path / str(i), seed=i, out=f"/{i}", workers=i, device=f"cuda:{i}") for i in range(2)]
    assert summarize(runs)["n"].tolist() == [2]


def test_a_repeated_seed_is_told(tmp_path):
    row = only([make_run(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 4, 3))])
    assert (row["n"], row["seeds"], row["repeated_seeds"]) == (3, "3 4 3", "3")


def test_speeds_of_different_machines_are_not_averaged(tmp_path):
    names = ("a CPU", "a GPU")
    row = only([make_run(tmp_path / name, seed=i, env={"device_name": name}) for i, name in enumerate(names)])
    assert figure(row, "seconds") == figure(row, "images_per_second") == (None, None)
    assert figure(row, "top1_last") == (20.0, 0.0)


def test_unfinished_runs_enter_no_figure(tmp_path):
    runs = [make_run(tmp_path / "a", top1=[50.0]), make_run(tmp_path / "b", seed=1, top1=[99.0], finished=False)]
    row = only(runs)
    assert (row["n"], *figure(row, "top1_last"), row["unfinished"]) == (1, 50.0, None, "1/1 epochs")

    rows = summarize([make_run(tmp_path / "c", top1=[99.0], epochs=7, finished=False)])
    assert (rows.loc[0, "n"], rows.loc[0, "best"], rows.loc[0, "unfinished"]) == (0, False, "1/7 epochs")
    assert pd.isna(rows.loc[0, "top1_last_mean"])
    assert "1/7 epochs" in markdown_table(rows)
    assert "99" not in markdown_table(rows) + csv_table(rows)


def test_a_run_stopped_before_its_first_epoch_counts_as_unfinished(tmp_path):
    run = make_run(tmp_path, finished=False, top1=[], epochs=5)
    (tmp_path / "env.json").unlink()
    assert only([run])["unfinished"] == "0/5 epochs"


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
    assert rows["name"].tolist() == ["teacher", "ce", "pld", "kd"]
    assert rows["best"].tolist() == [False, False, True, False]
    assert rows["over_ce"].isna().tolist() == [True, True, False, False]
    assert rows["over_ce"].tolist()[2:] == [pytest.approx(33.5 - 30.0), pytest.approx(31.0 - 30.0)]
    assert rows["teacher"].fillna("").tolist() == ["", "", "resnet20", "resnet20"]


def test_no_difference_to_a_baseline_that_was_trained_otherwise(tmp_path):
    rows = summarize([make_run(tmp_path / "ce", lr=0.1), make_run(tmp_path / "kd", method="kd", teacher="t")])
    assert rows["over_ce"].isna().all()
    known = make_run(tmp_path / "c", env={"teacher_sha256": "a"}, method="kd", teacher="t", lr=0.1, options={"x": 1})
    assert summarize([make_run(tmp_path / "ce", lr=0.1), known])["over_ce"].iloc[1] == 0
    two = [make_run(tmp_path / str(smooth), options={"smoothing": smooth}) for smooth in (0.0, 0.1)]
    assert pd.isna(summarize([*two, make_run(tmp_path / "kd", method="kd", teacher="t")])["over_ce"].iloc[-1])


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["mine"], "mine"),
        (["mine-seed0"], "mine"),
        (["a/run", "a/other"], None),
        (["mine0", "mine1"], "mine"),
        (["mine_seed0", "mine_seed1"], "mine"),
        (["mine/seed0", "mine/seed1"], "mine"),
        (["digits-resnet8-ce-seed0"], "ce"),  # the folder that a run gets where none is given
        (["pld-seed0-0123456789"], "ce"),  # a study's
    ],
)
def test_runs_are_called_as_their_folders_are(tmp_path, folders, name):
    runs = [make_run(tmp_path / folder, seed=seed) for seed, folder in enumerate(folders)]
    (group,) = group_runs(runs)
    assert group.name == (name or "ce")


def test_folders_of_one_name_are_told_apart_by_the_folder_above(tmp_path):
    runs = [make_run(tmp_path / above / "student", lr=lr) for above, lr in (("old", 0.1), ("new", 0.2))]
    assert [group.name for group in group_runs(runs)] == ["old/student", "new/student"]


def test_labels_name_the_student_where_there_are_several(tmp_path):
    runs = [make_run(tmp_path / "mine", student="resnet8"), make_run(tmp_path / "big-resnet20", student="resnet20")]
    assert [group.label for group in group_runs(runs)] == ["mine, resnet8", "big-resnet20"]
    assert [group.label for group in group_runs(runs[:1])] == ["mine"]


def test_names_take_up_what_tells_groups_apart(tmp_path):
    """Of runs whose folders a study named."""
    mark = "0123456789"
    runs = [
        make_run(tmp_path / f"a-{mark}", method="pld", options={"temperature": 4.0}),
        make_run(tmp_path / f"b-{mark}", method="pld", options={"temperature": 1.0}),
        make_run(tmp_path / f"c-{mark}", method="pld", options={"temperature": 1.0}, student="resnet20"),
        make_run(tmp_path / f"d-{mark}", method="kd", seed=5),
        make_run(tmp_path / f"e-{mark}", method="kd", seed=6),
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
    with pytest.raises(ValueError, match="lines: expected at least one"):
        markdown_table(pd.DataFrame())


@pytest.mark.parametrize(("key", "value"), [("method", None), ("epochs", "many"), ("data", 3)])
def test_a_recipe_without_the_needed_keys_is_named(tmp_path, key, value):
    run = make_run(tmp_path)
    run.write_recipe(run.read_recipe() | {key: value})
    with pytest.raises(ValueError, match=rf"recipe\.json.*{key}.*: expected|expected '{key}'.* got {value!r}"):
        summarize([run])


def test_markdown_by_hand(tmp_path):
    assert markdown_table(summarize(contest(tmp_path))) == (
        "Data digits, epochs 1\n\n"
        "| Run | Method | Student | Teacher | n | Top-1 | Best | Over CE | KL | Time | Images/s |\n"
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| teacher | ce | resnet20 |  | 1 | 50.00 | 50.00 |  |  | 1 min 0 s | 100 |\n"
        "| ce | ce | resnet8 |  | 1 | 30.00 | 30.00 |  |  | 1 min 0 s | 100 |\n"
        "| pld | pld | resnet8 | resnet20 | 1 | **33.50** | 33.50 | +3.50 | 0.500 | 1 min 0 s | 100 |\n"
        "| kd | kd | resnet8 | resnet20 | 1 | 31.00 | 31.00 | +1.00 | 0.500 | 1 min 0 s | 100 |\n"
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
    text = printed(summary.summary_document(summarize(runs)), 80)
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
    assert summarize([moved])["teacher"].tolist() == ["resnet20"]
    assert summarize([alone])["teacher"].tolist() == ["teacher"]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_finished_run_that_lost_rows_is_refused(tmp_path, rows):
    run = make_run(tmp_path / "run", top1=[10.0, 20.0, 30.0])
    path = run.folder / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:rows]))
    with pytest.raises(ValueError, match=rf"metrics\.jsonl: expected a row for each of the 3 epochs, got {rows} whole"):
        group_runs([run])
    path.unlink()
    with pytest.raises(ValueError, match="got 0"):
        group_runs([run])
