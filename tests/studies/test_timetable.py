"""Minutes a run by machine, seconds a step by method, and the table that both make."""

from __future__ import annotations

import csv
import importlib
import io
import re
import sys
from dataclasses import replace

import pandas as pd
import pytest

from analysis_runs import make_run
from layout_cases import printed as printed_document
from places import ROOT
from pldistill.__main__ import main
from pldistill.reports.comparison import Comparison, Entry
from pldistill.reports.comparison_frames import figure_frame
from pldistill.reports.render import csv_text, markdown
from pldistill.reports.runs import machine_name
from pldistill.studies import STUDIES, cifar
from pldistill.studies.paper import published
from pldistill.studies.study import plan
from pldistill.studies.timetable import (
    machines,
    made_by,
    read_steps,
    step_frame,
    steps_document,
    times_document,
    times_frame,
    times_of,
)

PAIR, OTHER = "resnet56-resnet20", "wrn_40_2-wrn_40_1"
SHORT = "short: 2 epochs"
CPU = {"device": "cpu", "device_name": "A CPU", "cpu": "A CPU", "cores": 2, "threads": 2}
GPU = {"device": "cuda", "device_name": "A GPU", "cpu": "A CPU", "cores": 2, "threads": 2}
CPU_NAME, GPU_NAME = "A CPU, 2 cores, threads: 2", "A GPU, A CPU, 2 cores"


def timed(folder, row, *seconds, env=CPU, first=0, column=PAIR, **about):
    """An entry whose run of seed i took `seconds[i]`."""
    runs = [
        make_run(folder / f"{column}-{row}{seed}", method=row, seconds=took, seed=seed, env=env)
        for seed, took in enumerate(seconds, start=first)
    ]
    return Entry(row, column, tuple(runs), 3, **about)


def study(*entries, label="", teachers=None):
    return Comparison("CIFAR-100: minutes a run", entries, teachers or {}, label, "AdamW, 250 epochs.", "Table 13")


def tables(markdown):
    """Every Markdown table, as lists of cells without the rule."""
    found = [part.split("\n") for part in markdown.split("\n\n") if part.startswith("|")]
    cells = [[[cell.strip() for cell in line.strip("|").split("|")] for line in lines] for lines in found]
    return [[lines[0], *lines[2:]] for lines in cells]


def printed(document, width=80):
    return printed_document(document, width)


def times_markdown(comparison):
    return markdown(times_document(comparison))


def lines(comparison):
    return list(csv.DictReader(io.StringIO(csv_text(times_frame(comparison)))))


def test_minutes_stand_beside_the_paper_s(tmp_path):
    comparison = study(
        timed(tmp_path, "ce", 60.0, published={"minutes": (22.97, None)}),
        timed(tmp_path, "kd", 90.0, 150.0, published={"minutes": (33.57, None)}),
        timed(tmp_path, "pld", published={"minutes": (33.42, None)}),
        timed(tmp_path, "plkl-k2", 120.0),
    )
    text = times_markdown(comparison)
    assert tables(text) == [
        [
            ["method", "measured minutes", "paper minutes", "n"],
            ["ce", "1.00", "22.97", "1"],
            ["kd", "2.00 ± 0.71", "33.57", "2"],
            ["pld", "", "33.42", ""],
            ["plkl-k2", "2.00", "", "1"],
        ]
    ]
    for said in (f"### {CPU_NAME}", f"#### {PAIR}", "Paper: Table 13.", "Protocol: AdamW, 250 epochs."):
        assert said in text.split("\n")
    assert "Not the published protocol" not in text
    shown = printed(times_document(comparison))
    for said in ("33.57", "2.00 ± 0.71", CPU_NAME, PAIR):
        assert said in shown


def test_a_short_run_is_labelled_above_and_in_the_header_of_what_was_measured_alone(tmp_path):
    comparison = study(timed(tmp_path, "ce", 60.0, published={"minutes": (22.97, None)}), label=SHORT)
    text = times_markdown(comparison)
    assert f"Not the published protocol, so no repeat of published figures: {SHORT}." in text.split("\n")
    assert tables(text)[0][0] == ["method", "measured minutes (short)", "paper minutes", "n"]
    shown = printed(times_document(comparison), 120)
    assert "measured minutes (short)" in shown
    assert f"figures: {SHORT}." in shown
    assert {line["label"] for line in lines(comparison)} == {SHORT}


def test_each_machine_has_tables_of_its_own(tmp_path):
    here, there = timed(tmp_path, "kd", 60.0), timed(tmp_path, "kd", 6.0, 12.0, env=GPU, first=1)
    both = replace(here, records=here.records + there.records)
    comparison = study(both, timed(tmp_path, "ce", 30.0, column=OTHER))
    text = times_markdown(comparison)
    assert machines(comparison) == [CPU_NAME, GPU_NAME]
    assert re.findall(r"^###+ .*$", text, re.M) == [
        f"### {CPU_NAME}",
        f"#### {PAIR}",
        f"#### {OTHER}",
        f"### {GPU_NAME}",
        f"#### {PAIR}",
        f"#### {OTHER}",
    ]
    assert [table[1][1:] for table in tables(text)] == [["1.00", "1"], ["0.50", "1"], ["0.15 ± 0.07", "2"], ["", ""]]
    here = figure_frame(made_by(comparison, CPU_NAME), ["minutes"]).loc[0]
    assert (here["mean"], here["count"]) == (1.0, 1)
    assert pd.isna(here["std"])
    assert [(line["machine"], line["row"], line["n"]) for line in lines(comparison)] == [
        (CPU_NAME, "kd", "1"),
        (CPU_NAME, "ce", "1"),
        (GPU_NAME, "kd", "2"),
        (GPU_NAME, "ce", "0"),
    ]


def test_what_makes_another_machine():
    others = [{"cores": 4}, {"threads": 1}, {"cpu": "B CPU"}, {"device_name": "B"}, {"world_size": 2}]
    names = [machine_name(CPU), *(machine_name(CPU | other) for other in others)]
    assert len(set(names)) == len(names)
    assert machine_name(GPU | {"threads": 1}) == machine_name(GPU)  # the card does the work
    assert machine_name(CPU | {"world_size": 1}) == CPU_NAME


def test_a_run_that_moved_is_left_out_and_one_that_was_resumed_in_place_is_not(tmp_path):
    moved = timed(tmp_path, "kd", 60.0, env=CPU | {"resumed": [GPU]})
    stayed = timed(tmp_path, "ce", 90.0, env=CPU | {"resumed": [CPU]})
    text = times_markdown(study(stayed, moved))
    assert tables(text)[0][1:] == [["ce", "1.50", "1"], ["kd", "", ""]]
    assert "Left out: 1 runs that began on one machine and ended on another." in text
    assert "Left out" not in times_markdown(study(stayed))


def at(second):
    return CPU | {"started": f"2030-01-01T00:{second // 60:02}:{second % 60:02}+00:00"}


def test_runs_side_by_side_are_told(tmp_path):
    """Of 60 s each from 0, 59 and 90 the last two share 29 s; the first and the second share a rounding."""
    entries = [timed(tmp_path, row, 60.0, env=at(begin)) for row, begin in (("ce", 0), ("kd", 59), ("pld", 90))]
    comparison = study(*entries)
    assert [line["overlapping"] for line in lines(comparison)] == ["0", "1", "1"]
    assert "2 of 3 runs were made while another run of the study was under way" in times_markdown(comparison)
    assert "under way" in " ".join(printed(times_document(comparison)).split())
    assert "under way" not in times_markdown(study(*entries[:2]))
    beside = make_run(tmp_path / "teacher", seconds=30.0, env=at(10))
    assert [line["overlapping"] for line in lines(study(*entries[:2], teachers={PAIR: beside}))] == ["1", "0"]
    elsewhere = make_run(tmp_path / "elsewhere", seconds=30.0, env=at(10) | {"cores": 4})
    assert "under way" not in times_markdown(study(*entries[:2], teachers={PAIR: elsewhere}))


def test_the_csv_is_in_full_precision(tmp_path):
    line = lines(study(timed(tmp_path, "kd", 61.0, 62.0, published={"minutes": (33.57, None)}), timed(tmp_path, "ce")))
    assert list(line[0]) == [
        *("row", "column", "variant", "label", "machine", "n", "minutes_mean", "minutes_std", "overlapping"),
        "published_minutes",
    ]
    assert float(line[0]["minutes_mean"]) == (61.0 / 60 + 62.0 / 60) / 2
    assert float(line[0]["minutes_std"]) == pytest.approx(0.5**0.5 / 60)
    assert line[0]["published_minutes"] == "33.57"
    assert (line[1]["n"], line[1]["minutes_mean"], line[1]["published_minutes"]) == ("0", "", "")


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    one = timed(tmp_path, "kd", 60.0)
    longer = make_run(tmp_path / "longer", method="kd", seed=1, env=CPU, epochs=9)
    with pytest.raises(ValueError, match="differ in the seed alone, got others in epochs"):
        times_markdown(study(replace(one, records=(*one.records, longer))))


STEPS = [
    {"row": row, "pair": PAIR, "batch_size": 128, "amp": "bf16", "rounds": 9, "seconds": middle}
    | {"seconds_q1": low, "seconds_q3": high, "to_kd": ratio}
    for row, middle, low, high, ratio in (("kd", 0.5, 0.49, 0.52, 1.0), ("rkd", 0.61, 0.6, 0.63, 1.2345))
]
TIMED = step_frame(STEPS, CPU | {"torch": "2.4.0", "commit": None})


def test_steps_there_and_back(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text(csv_text(TIMED), encoding="utf-8")
    read = read_steps(path)
    assert read[list(STEPS[0])].to_dict("records") == STEPS
    assert read.loc[0, "cores"] == "2"
    text = markdown(steps_document(read))
    assert text == markdown(steps_document(TIMED))
    assert tables(text) == [
        [
            ["method", "ms", "quartiles", "to kd"],
            ["kd", "500.0", "490.0 to 520.0", "1.000"],
            ["rkd", "610.0", "600.0 to 630.0", "1.234"],
        ]
    ]
    assert f"{PAIR}; batch 128; amp bf16; rounds: 9; {CPU_NAME}; torch 2.4.0" in text.split("\n")
    assert "600.0 to 630.0" in printed(steps_document(read))


def test_steps_of_two_settings_have_a_table_each():
    off = TIMED.iloc[:1].assign(amp="off", to_kd=None)
    both = tables(markdown(steps_document(pd.concat([TIMED, off.astype(TIMED.dtypes)]))))
    assert [len(table) for table in both] == [3, 2]
    assert both[1][1] == ["kd", "500.0", "490.0 to 520.0", ""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "no column row, pair"),
        (lambda text: text.splitlines()[0] + "\n", "at least one line of times"),
        (lambda text: text.replace("0.61", "fast"), "line 3: expected seconds as a number, got 'fast'"),
        (lambda text: text.replace("to_kd", "ratio"), "no column to_kd"),
    ],
)
def test_a_csv_of_something_else_is_refused(tmp_path, change, message):
    path = tmp_path / "steps.csv"
    path.write_text(change(csv_text(TIMED)), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_steps(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("steps")


def test_the_benchmark_compares_steps_of_the_same_round(steps, tmp_path):
    layout = steps.lay_out(tmp_path, PAIR, ["kd", "dkd"], 100, "bf16")
    kd, dkd = steps.summarize({"kd": [1.0, 2.0, 4.0], "dkd": [3.0, 2.0, 8.0]}, layout, CPU).to_dict("records")
    names = ["seconds_q1", "seconds", "seconds_q3", "to_kd"]
    assert (kd["seconds"], kd["to_kd"], kd["rounds"]) == (2.0, 1.0, 3)
    assert [dkd[name] for name in names] == [2.5, 3.0, 5.5, 2.0]
    alone = steps.summarize({"dkd": [3.0]}, steps.lay_out(tmp_path, PAIR, ["dkd"], 100, "bf16"), CPU)
    assert alone.loc[0, names[:3]].tolist() == [3.0, 3.0, 3.0]
    assert pd.isna(alone.loc[0, "to_kd"])


def test_the_benchmark_times_the_loop_s_step(steps, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "steps.csv"
    monkeypatch.setattr(steps, "TEACHER_STEPS", 1)
    monkeypatch.setattr(cifar, "TABLE1", replace(cifar.TABLE1, pairs={PAIR: ("resnet8", "resnet8")}))
    options = ["--methods", "kd", "dkd", "--rounds", "2", "--batch-size", "100", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["steps.py", *options])
    steps.main()
    kd, dkd = read_steps(out).to_dict("records")
    assert (kd["row"], kd["to_kd"], kd["rounds"], kd["batch_size"]) == ("kd", 1.0, 2, 100)
    assert 0 < dkd["seconds_q1"] <= dkd["seconds"] <= dkd["seconds_q3"]
    assert "| dkd |" in capsys.readouterr().out


def reproduce(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *map(str, arguments)])
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


def test_table13_reads_what_table_1_left(tmp_path, capsys):
    chosen = ["--scale", "smoke", "--pairs", PAIR, "--methods", "ce", "pld", "--seeds", "2", "--out", tmp_path]
    code, _, err = reproduce(capsys, "table13", *chosen)
    assert code == 2
    assert f"expected finished runs in '{tmp_path}'" in err
    assert "pldistill reproduce table1 --out" in err
    assert not list(tmp_path.iterdir())

    layout = plan(STUDIES["table1"], out=tmp_path, scale="smoke", pairs=[PAIR], rows=["ce", "pld"], seeds=2)
    for cell in layout.cells[:3]:
        make_run(cell.folder, env=CPU, seconds=90.0, **cell.recipe.to_dict())
    code, out, _ = reproduce(capsys, "table13", *chosen)
    assert code == 0
    steps = tmp_path / "steps.csv"
    assert f"python benchmarks/steps.py --out {steps}\n" in re.sub(" +\n", "\n", out)
    text = (tmp_path / "table13.md").read_text(encoding="utf-8")
    assert tables(text) == [
        [
            ["method", "measured minutes (smoke)", "paper minutes", "n"],
            ["ce", "1.50 ± 0.00", "22.97", "2"],
            ["pld", "1.50", "33.42", "1"],
        ]
    ]
    assert (tmp_path / "table13.csv").read_text(encoding="utf-8") == csv_text(times_frame(times_of(layout, tmp_path)))
    assert [cell.record.finished for cell in layout.cells] == [True, True, True, False]  # nothing was trained

    steps.write_text(csv_text(TIMED), encoding="utf-8")
    code, out, _ = reproduce(capsys, "table13", *chosen)
    assert code == 0
    assert "1.234" in out
    assert "benchmarks/steps.py --out" not in out
    assert len(tables((tmp_path / "table13.md").read_text(encoding="utf-8"))) == 2


def test_unknown_studies_are_told_of_table13(capsys):
    code, _, err = reproduce(capsys, "table31")
    assert code == 2
    assert "table13" in err


def test_the_paper_s_minutes_are_found_for_every_published_cell(tmp_path):
    comparison = times_of(plan(STUDIES["table1"], out=tmp_path, data="cifar100:data"), tmp_path)
    shown = {(each.column, each.row): each.published for each in comparison.entries if each.published}
    assert set(shown) == {(pair, row) for pair in published("table1")["columns"] for row in published("table1")["rows"]}
    assert shown["resnet50-mobilenetv2", "rkd"] == {"minutes": (128.65, None)}
    assert shown[OTHER, "pld"] == {"minutes": (33.10, None)}
