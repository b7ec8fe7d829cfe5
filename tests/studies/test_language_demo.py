"""The demo of language models in miniature: three rows from one store, the table and the sentences."""

import io
import math

import pytest
from rich.console import Console

from pldistill.studies import language_demo as demo

ROWS = ("CE", "PLD", "CE + PLD")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "STUDENTS", {name: demo.STUDENTS[name] for name in ROWS})
        out, console = tmp_path_factory.mktemp("demo"), Console(file=io.StringIO(), width=160)
        runs = demo.run_demo(out, smoke=True, device="cpu", console=console)
        table, sentence = demo.demo_table(out), demo.demo_sentence(out)
    return out, runs, console.file.getvalue(), table, sentence


def test_students_and_teacher_have_the_same_tokens(shown):
    out, runs, *_ = shown
    tokenizers = {(run.folder / "tokenizer.json").read_bytes() for run in runs}
    assert len(tokenizers) == 1
    caches = {run.recipe.teacher_cache for run in runs}
    assert caches == {None, str(out / "store")}


def test_the_table_is_the_records(shown):
    out, runs, said, table, sentence = shown
    lines = {line[0]: line for line in table.frame.to_numpy().tolist()}
    assert list(lines) == ["teacher, 4 layers", *(f"2 layers, {name}" for name in ROWS)]
    result = runs[2].result
    assert lines["2 layers, PLD"][1] == f"{result['next_top1_last']:.2f}"
    assert lines["2 layers, PLD"][3] == f"{result['perplexity_last']:.2f}"
    assert lines["2 layers, PLD"][4] == f"{result['scaled_perplexity_last']:.2f}"
    assert result["perplexity_last"] == pytest.approx(math.exp(runs[2].record.epochs()[-1]["val_loss"]))
    assert sentence in " ".join(said.split())
    assert f"is {result['scaled_perplexity_last']:.1f} once its logits are divided by" in sentence
    assert "pldistill train --task language --data text:PATH" in said
    assert (out / "report.html").is_file()
    assert "Perplexity" in (out / "report.html").read_text()


def test_every_row_of_the_whole_demo_is_a_recipe(tmp_path):
    for name in demo.STUDENTS:
        recipes = [demo.student_recipe(name, seed, tmp_path, tmp_path, demo.WHOLE) for seed in range(demo.WHOLE.seeds)]
        assert [recipe.seed for recipe in recipes] == [0, 1]
        assert {recipe.task_options["context"] for recipe in recipes} == {demo.CONTEXT}
    assert demo.student_recipe("PLD", 0, tmp_path, tmp_path, demo.WHOLE).weights == {"task": 0.0, "pld": 1.0}
    assert demo.student_recipe("CE + PLD", 0, tmp_path, tmp_path, demo.WHOLE).weights == {"task": 1.0, "pld": 1.0}
    assert demo.student_recipe("PLD top-64", 0, tmp_path, tmp_path, demo.WHOLE).options["top_k"] == 64
