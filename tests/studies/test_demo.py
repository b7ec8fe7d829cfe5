"""The demo in miniature: every row, one teacher cache, the last screen; the same line again trains nothing."""

import io

import pytest
from rich.console import Console

from pldistill.studies import demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    console = Console(file=io.StringIO(), width=160)
    demo.run_demo(out, smoke=True, device="cpu", console=console)
    return out, console.file.getvalue()


def test_every_row_is_trained_from_one_store(shown):
    out, said = shown
    rows = demo.rows_of(out)
    assert {name: len(records) for name, records in rows.items()} == dict.fromkeys(demo.STUDENTS, 1)
    stores = {record.read_recipe()["teacher_cache"] for records in rows.values() for record in records}
    assert stores == {None, str(out / "store")}
    assert f"students: {len(demo.STUDENTS)} runs" in said


def test_the_last_screen_has_the_table_a_sentence_the_report_and_what_to_do_next(shown):
    out, said = shown
    last = said[said.index("over CE") :]
    for name in demo.STUDENTS:
        assert f"ResNet-8, {name}" in last
    assert demo.demo_sentence(out) in " ".join(last.split())
    assert str(out / "report.html") in last
    assert "pldistill train --data folder:PATH" in last
    assert (out / "report.html").is_file()


def test_the_lines_are_the_records_figures(shown):
    out, _ = shown
    lines = {line[0]: line for line in demo.demo_table(out).frame.to_numpy().tolist()}
    result = demo.rows_of(out)["PLD"][0].read_result()
    assert lines["ResNet-8, PLD"][1] == f"{result['top1_last']:.2f}"
    assert lines["ResNet-8, PLD"][5] == "1"
    alone = demo.rows_of(out)["CE"][0].read_result()["top1_last"]
    assert lines["ResNet-8, PLD"][2] == f"{result['top1_last'] - alone:+.2f}".replace("-", "\N{MINUS SIGN}")


def test_the_same_line_again_trains_nothing(shown, monkeypatch):
    out, _ = shown
    monkeypatch.setattr("pldistill.training.loop.Loop.run", lambda self: pytest.fail("trained again"))
    demo.run_demo(out, smoke=True, device="cpu", console=Console(file=io.StringIO()))


def test_there_are_two_seeds_a_row_and_the_crops_are_shared(tmp_path):
    assert demo.WHOLE.seeds == 2
    recipes = [demo.student_recipe("PLD", seed, tmp_path, tmp_path, demo.WHOLE) for seed in range(2)]
    assert [recipe.seed for recipe in recipes] == [0, 1]
    assert {recipe.augment_seed for recipe in recipes} == {0}
    assert {recipe.options["temperature"] for recipe in recipes} == {4.0}
