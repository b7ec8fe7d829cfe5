"""The demo of segmentation in miniature: three rows with the teacher asked live, the table, the sentence, the page."""

import io

import pandas as pd
import pytest
from rich.console import Console

from pldistill.studies import segmentation_demo as demo

ROWS = ("CE", "CE + CWD", "CE + PLD")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "STUDENTS", {name: demo.STUDENTS[name] for name in ROWS})
        out, console = tmp_path_factory.mktemp("demo"), Console(file=io.StringIO(), width=160)
        runs = demo.run_demo(out, smoke=True, device="cpu", console=console)
        table, sentence = demo.demo_table(out), demo.demo_sentence(out)
    return out, runs, console.file.getvalue(), table, sentence


def test_the_students_learn_from_the_teacher_and_from_no_cache(shown):
    out, runs, *_ = shown
    assert [run.recipe.teacher for run in runs] == [None, None, str(out / "teacher"), str(out / "teacher")]
    assert {run.recipe.teacher_cache for run in runs} == {None}
    assert not (out / "store").exists()


def test_the_table_is_the_records(shown):
    _, runs, _, table, _ = shown
    teacher, alone, _, pld = (run.result for run in runs)
    lines = {line[0]: line[1:] for line in table.frame.to_numpy().tolist()}
    assert list(lines) == ["teacher", *(f"student, {name}" for name in ROWS)]
    assert lines["teacher"][:2] == [f"{teacher['miou_last']:.2f}", ""]
    assert lines["student, CE"][1] == ""
    over = f"{pld['miou_last'] - alone['miou_last']:+.2f}".replace("-", "\N{MINUS SIGN}")
    accuracy = f"{pld['pixel_accuracy_last']:.2f}"
    assert lines["student, CE + PLD"] == [f"{pld['miou_last']:.2f}", over, accuracy, "1"]


def test_the_last_screen_has_the_sentence_the_report_and_what_to_do_next(shown):
    out, _, said, _, sentence = shown
    last = " ".join(said[said.index("over CE") :].split())
    assert sentence in last
    assert "pldistill train --task segmentation --data masks:PATH" in last
    assert str(out / "report.html") in last
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "mIoU" in page
    assert len(list((out / "report-images").glob("masks-*.jpg"))) == 6 * 4  # six images of each run
    assert (out / "miou.svg").is_file()


@pytest.mark.parametrize(
    ("kd", "pld", "wanted"),
    [
        (32.0, 29.5, ("2.0 points of mIoU more", "by CE + KD (by CE + PLD \N{MINUS SIGN}0.5)")),
        (29.0, 31.0, ("1.0 points of mIoU more", "by CE + PLD than")),
        (29.0, 28.0, ("No method helped", "CE + KD, has 1.0 points of mIoU less")),
    ],
    ids=["another-is-best", "pld-is-best", "none-helps"],
)
def test_the_sentence_says_what_helped_and_that_nothing_did(monkeypatch, tmp_path, kd, pld, wanted):
    lines = pd.DataFrame({"miou_mean": {"teacher": 70.0, "CE": 30.0, "CE + KD": kd, "CE + PLD": pld}})
    monkeypatch.setattr(demo, "demo_figures", lambda *given: lines)
    said = demo.demo_sentence(tmp_path)
    assert all(words in said for words in wanted), said


def test_every_row_of_the_whole_demo_is_a_recipe(tmp_path):
    jobs = demo.student_jobs(tmp_path, demo.WHOLE)
    assert [job.recipe.seed for job in jobs] == [0, 1] * len(demo.STUDENTS)
    assert {job.recipe.augment_seed for job in jobs} == {0}
    assert len({job.folder for job in jobs}) == len(jobs)
    assert {job.recipe.weights["task"] for job in jobs} == {1.0}
    assert {job.recipe.data for job in jobs} == {demo.WHOLE.data}
    assert demo.teacher_recipe(demo.WHOLE).data == demo.WHOLE.teacher_data
