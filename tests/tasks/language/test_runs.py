"""Language models end to end: trained, distilled, resumed, measured, and opened by transformers alone."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import pldistill
from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.reports.html import write_report
from pldistill.reports.runs import group_runs
from pldistill.reports.summary import summarize
from pldistill.tasks.language.dataset import TokenLoader, open_text
from pldistill.tasks.language.model import build_model, load_model
from pldistill.tasks.language.options import LanguageOptions
from pldistill.tasks.language.tokenizer import train_tokenizer
from pldistill.training.calibrate import calibrate
from tiny_texts import TINY, distilled, fields


def test_the_figures_are_the_textbooks(teacher, text):
    """exp of the mean cross-entropy, bits by bytes, top-1, all over the whole validation text, in one batch by hand."""
    model, tokenizer, _ = load_model(teacher.folder)
    split = open_text(f"text:{text},validation=8", LanguageOptions(context=16), str(teacher.folder)).val
    (batch,) = TokenLoader(split, batch_size=len(split), seed=0, shuffle=False, device=torch.device("cpu")).epoch(0)
    with torch.no_grad():
        logits = model.model(input_ids=batch.inputs).logits.flatten(0, 1)
    labels = batch.labels.flatten()
    nats = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100).item()
    count = int((labels != -100).sum())
    assert count == len(tokenizer.encode(_validation(text)).ids) + 1  # and the end of the text
    result = teacher.result
    assert result["perplexity_last"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert result["bits_per_byte_last"] == pytest.approx(nats / math.log(2) / len(_validation(text)), rel=1e-5)
    assert result["next_top1_last"] == pytest.approx(100 * int((logits.argmax(1) == labels).sum()) / count)
    assert result["perplexity_last"] < 30  # of 280 tokens


def _validation(text):
    whole = text.read_text()
    left = len(whole) - len(whole) // 10
    return whole[whole.rfind("\n", 0, left + 1) + 1 :]


def test_the_temperature_is_fitted_on_the_held_out_text_alone(teacher):
    result = teacher.result
    assert 0.2 < result["temperature_last"] < 5
    assert result["scaled_perplexity_last"] == pytest.approx(result["perplexity_last"], rel=0.5)
    assert result["best_by"] == "holdout_perplexity"
    assert (
        result["perplexity_best"]
        == min((row["holdout_perplexity"], row["perplexity"]) for row in teacher.record.epochs())[1]
    )


@pytest.mark.parametrize("method", ["kd", "rkl", "jsd", "skew_kl", "pld", "decoupled_pld", "plkl", "dist", "nkd"])
def test_a_student_learns_from_it(teacher, text, tmp_path, method):
    run = pldistill.train(distilled(text, teacher, method), out=tmp_path / "run", device="cpu")
    result, (first, last) = run.result, run.record.epochs()
    assert set(last["terms"]) >= {method}
    assert last["next_top1"] > 100 / 280
    assert last["terms"][method]["raw"] < first["terms"][method]["raw"]
    assert result["teacher_perplexity"] == pytest.approx(teacher.result["perplexity_last"], rel=1e-4)
    assert 0 < last["token_kl"] < math.log(280)


def test_pld_of_the_first_ranks_alone_is_an_option(teacher, text, tmp_path):
    recipe = distilled(text, teacher, "pld", options={"top_k": 8}, epochs=1)
    some = pldistill.train(recipe, out=tmp_path / "some", device="cpu")
    whole = pldistill.train(
        distilled(text, teacher, "pld", options={"top_k": 0}, epochs=1), out=tmp_path / "all", device="cpu"
    )
    losses = [run.record.epochs()[0]["terms"]["pld"]["raw"] for run in (some, whole)]
    assert 0 < losses[0] < losses[1]  # a part of the sum


def test_a_run_that_was_stopped_is_the_whole_one(teacher, text, tmp_path, every_step):
    recipe = distilled(text, teacher, "kd")
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")

    class Stop:
        wants_time = False

        def __getattr__(self, name):
            return lambda *given: None

        def step(self, epoch, tally):
            if epoch == 1 and tally.batches == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pldistill.train(recipe, out=tmp_path / "stopped", device="cpu", callback=Stop(), checkpoint_steps=1)
    pldistill.train(recipe, out=tmp_path / "stopped", device="cpu", resume=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_accumulated_batches_are_one(teacher, text, tmp_path):
    runs = [
        pldistill.train(
            distilled(
                text, teacher, "kd", data=f"text:{text},train=32", batch_size=size, accumulate=32 // size, epochs=3
            ),
            out=tmp_path / str(size),
            device="cpu",
        )
        for size in (32, 8)
    ]
    ours, theirs = (load_file(run.folder / "model.safetensors") for run in runs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_evaluate_and_the_digests(teacher, text, tmp_path, capsys):
    figures = pldistill.evaluate(teacher, device="cpu")
    assert figures["perplexity"] == pytest.approx(teacher.result["perplexity_last"], rel=1e-5)
    (tmp_path / "other.txt").write_text("the cat " * 40 + "zzzz qqqq " * 40)
    other = pldistill.evaluate(teacher, data=f"text:{tmp_path / 'other.txt'}", device="cpu")
    assert other["perplexity"] > figures["perplexity"]
    assert {"tokenizer.json", "best/tokenizer.json"} <= set(teacher.result["sha256"])
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(teacher.folder), "--device", "cpu"])
    assert f"perplexity {figures['perplexity']:.2f}" in capsys.readouterr().out


def test_transformers_opens_the_folder_without_us(teacher):
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokens = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokens('the cat sat', return_tensors='pt').input_ids\n"
        "assert 'pldistill' not in sys.modules\n"
        "print(model(ids).logits[0, -1].topk(3).indices.tolist(), tokens.decode(ids[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(teacher.folder)], capture_output=True, text=True, check=True
    )
    model, tokenizer, _ = load_model(teacher.folder)
    ids = torch.tensor([tokenizer.encode("the cat sat").ids])
    assert done.stdout.strip() == f"{model(ids).logits[-1].topk(3).indices.tolist()} the cat sat"


def test_a_folder_is_a_student(teacher, text, tmp_path):
    own = {"student": str(teacher.folder), "task_options": {"context": 16, "tokenizer": str(teacher.folder)}}
    recipe = make_recipe(fields(text, **own, epochs=1, lr=1e-6, pretrained=True))
    run = pldistill.train(recipe, out=tmp_path / "tuned", device="cpu")
    assert run.result["perplexity_last"] == pytest.approx(teacher.result["perplexity_last"], rel=1e-3)
    drawn = make_recipe({**recipe.to_dict(), "pretrained": False})
    run = pldistill.train(drawn, out=tmp_path / "drawn", device="cpu")
    assert run.result["perplexity_last"] > 2 * teacher.result["perplexity_last"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"student": "lama"}, "unknown language model 'lama'; did you mean llama"),
        ({"student": "llama:hiden_size=8"}, "unknown key of llama 'hiden_size'; did you mean hidden_size"),
        ({"student": "llama:hidden_size"}, "expected llama:key=value,... with each key once, got 'hidden_size'"),
        ({"student": "llama:hidden_size=7,num_attention_heads=2"}, "student 'llama:hidden_size=7"),
        ({"student": TINY + ",max_position_embeddings=8"}, "expected positions for 16 tokens, got 8"),
        ({"student": TINY, "pretrained": True}, "pretrained: expected a folder with weights"),
        ({"data": "glyphs"}, "data: expected .* language|glyphs has images and no text"),
        ({"method": "at", "teacher": "x"}, "unknown method of language 'at'"),
        ({"image_size": 32}, "image_size: expected None in language, got 32: the length of a sequence is"),
        ({"mixup": 0.1}, "mixup: expected .* in language"),
        ({"method": "kd", "teacher": "ensemble:a+b"}, "expected the folder of one language model"),
        ({"method": "kd", "teacher": "nowhere"}, "teacher: expected a tokenizer.json or a folder with one"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_file_is_written(text, tmp_path, change, says):
    given = fields(text, **change)
    if "teacher" in change:
        given["task_options"] = {"context": 16}
    with pytest.raises(ValueError, match=says):
        pldistill.train(make_recipe(given), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_tokens_is_refused(teacher, text, tmp_path):
    recipe = distilled(text, teacher, "kd", task_options={"context": 16, "tokenizer": "bpe:270"})
    with pytest.raises(ValueError, match=r"expected the data's 270 tokens, got 280"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe"])
def test_damaged_folders_are_refused_in_a_line(teacher, tmp_path, name, content):
    for file in teacher.folder.iterdir():
        if file.is_file() and file.name != "result.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"^teacher: ") as caught:
        load_model(tmp_path, "teacher")
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_not_drawn_at_random(teacher, tmp_path):
    from safetensors.torch import save_file

    for file in teacher.folder.iterdir():
        if file.is_file() and file.name != "result.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit the model: 1 missing keys"):
        load_model(tmp_path)


def test_a_vocabulary_padded_to_a_round_number_is_cut(text):
    tokenizer = train_tokenizer([text.read_text()], 280)
    model = build_model(TINY, tokenizer, 280, context=16, pretrained=False)
    model.model.resize_token_embeddings(320)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).logits.shape == (10, 280)


def test_the_introduction_and_the_record(teacher, capsys, text, tmp_path):
    line = ["train", "--task", "language", "--data", f"text:{text},train=16", "--student", TINY, "--method", "ce"]
    options = ["--task-option", "context=16", "--task-option", "tokenizer=bpe:280", "--epochs", "1", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        main([*line, *options, "--out", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "16 training" in out
    assert "sequences of 16 tokens, a vocabulary of 280" in " ".join(out.split())
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["task_options"]["tokenizer"] == "bpe:280"


def test_a_report_ranks_the_lower_perplexity_first_and_calls_models_by_short_names(teacher, text, tmp_path):
    other = pldistill.train(distilled(text, teacher, "kd"), out=tmp_path / "kd", device="cpu")
    worse = pldistill.train(distilled(text, teacher, "kd", epochs=1, seed=3), out=tmp_path / "worse", device="cpu")
    lines = summarize(group_runs([run.record for run in (worse, other, teacher)]))
    ranked = lines[lines["method"] == "kd"]
    assert set(ranked["student"]) == {"llama-hs16-is32-nhl1-nah2-twe"}
    alike = summarize(group_runs([run.record for run in (_again(teacher, tmp_path), teacher)]))
    assert alike["score"].tolist() == sorted(alike["score"])
    assert alike["best"].tolist() == [True, False]
    page = write_report([other.record, teacher.record], tmp_path / "page.html").read_text()
    assert "Perplexity" in page
    assert "Perplexity (%)" not in page


def _again(teacher, tmp_path):
    """The same run with a larger learning rate, which does worse."""
    recipe = make_recipe({**teacher.recipe.to_dict(), "lr": 1.0})
    return pldistill.train(recipe, out=tmp_path / "again", device="cpu")


def test_a_language_model_is_calibrated_as_its_record_says(teacher, tmp_path):
    shutil.copytree(teacher.folder, tmp_path / "run")
    figures = calibrate(pldistill.load_run(tmp_path / "run"), device="cpu")
    assert figures["temperature"] == pytest.approx(teacher.result["temperature_last"], rel=1e-3)
    assert math.exp(figures["nats"]) == pytest.approx(teacher.result["perplexity_last"], rel=1e-3)
    assert math.exp(figures["nats_scaled"]) == pytest.approx(teacher.result["scaled_perplexity_last"], rel=1e-3)
    assert figures["ece"] == pytest.approx(teacher.result["token_ece_last"], abs=0.1)


@pytest.mark.parametrize("kind", ["bert", "electra", "roformer"])
def test_a_model_that_reads_the_tokens_it_predicts_is_refused(text, tmp_path, kind):
    name = f"{kind}:hidden_size=16,intermediate_size=32,num_hidden_layers=1,num_attention_heads=2"
    with pytest.raises(ValueError, match=r"expected a causal language model, got \w+, whose answers depend on"):
        pldistill.train(make_recipe(fields(text, student=name)), out=tmp_path / "run", device="cpu")


def test_weights_of_other_tokens_are_refused_and_their_own_are_the_default(teacher, text, tmp_path):
    own = fields(text, student=str(teacher.folder), pretrained=True, epochs=1)
    with pytest.raises(ValueError, match="expected weights of the data's 270 tokens, got those of another tokenizer"):
        pldistill.train(
            make_recipe({**own, "task_options": {"context": 16, "tokenizer": "bpe:270"}}),
            out=tmp_path / "a",
            device="cpu",
        )
    run = pldistill.train(make_recipe({**own, "task_options": {"context": 16}}), out=tmp_path / "b", device="cpu")
    assert (run.folder / "tokenizer.json").read_bytes() == (teacher.folder / "tokenizer.json").read_bytes()
    shutil.copytree(teacher.folder, tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    (tmp_path / "short" / "result.json").unlink()
    short = {**own, "student": str(tmp_path / "short"), "task_options": {"context": 16}}
    with pytest.raises(ValueError, match="expected positions for 16 tokens, got 8"):
        pldistill.train(make_recipe(short), out=tmp_path / "c", device="cpu")


def test_a_text_that_changed_is_not_gone_on_with(text, tmp_path):
    file = tmp_path / "own.txt"
    file.write_text(text.read_text())
    recipe = make_recipe(fields(file, data=f"text:{file},validation=8"))

    class Stop:
        wants_time = False

        def __getattr__(self, name):
            return lambda *given: None

        def epoch(self, row):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu", callback=Stop())
    file.write_text(text.read_text().replace("cat", "cow"))
    with pytest.raises(ValueError, match=r"resume: data .* is not what the run began with: its \w+ part differs"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu", resume=True)
    file.write_text(text.read_text())
    pldistill.train(recipe, out=tmp_path / "run", device="cpu", resume=True)


def test_predict_is_for_images(teacher, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(teacher.folder), str(text)])
    assert "predict: expected a run that says something of an image, got one of language" in capsys.readouterr().err
