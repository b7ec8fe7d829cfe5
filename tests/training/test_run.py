"""A run leaves what it promises, trains every method, and leaves its teacher alone."""

import json
import math

import pytest
import timm
import torch
from PIL import Image

import pldistill
from pldistill.data import normalize, open_data
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from pldistill.tasks.classification.task import Validation
from pldistill.training import checkpoint
from pldistill.training.distiller import NonFiniteLoss
from pldistill.training.run import evaluate, predict
from tiny_runs import CE, StopAt, assert_same_run, distill, rows, weights


def test_the_folder_holds_what_is_promised(teacher, tmp_path):
    run = pldistill.train(distill(teacher, epochs=2), out=tmp_path / "run", device="cpu")
    assert {path.name for path in run.folder.iterdir()} == {
        "recipe.json", "env.json", "metrics.jsonl", "result.json", "model.safetensors", "config.json", "checkpoint",
        "best",
    }  # fmt: skip
    result = run.result
    for key in [
        "method",
        "student",
        "teacher",
        "data",
        "seed",
        "epochs",
        "top1_last",
        "top1_best",
        "top5_last",
        "seconds",
        "images_per_second",
    ]:
        assert key in result
    (first, last) = rows(run.folder)
    assert result["top1_last"] == last["top1"]
    assert result["top1_best"] == max(first["top1"], last["top1"])
    assert set(last["terms"]) == {"task", "kd"}
    assert last["terms"]["kd"]["weighted"] == pytest.approx(0.9 * last["terms"]["kd"]["raw"], rel=1e-6)
    assert last["loss"] == pytest.approx(sum(term["weighted"] for term in last["terms"].values()))
    assert last["kl"] > 0
    for name in ("kl", "agreement", "overlap5", "kendall"):
        assert result[f"{name}_last"] == last[name]
    assert 0 <= last["agreement"] <= 100
    assert 0 <= last["overlap5"] <= 100
    assert -1 <= last["kendall"] <= 1
    env = json.loads((run.folder / "env.json").read_text())
    assert {"torch", "timm", "device", "commit", "world_size", "teacher_sha256", "preflight"} <= env.keys()


def test_without_held_out_images_nothing_speaks_of_them(teacher):
    assert not [key for key in [*rows(teacher.folder)[0], *teacher.result] if key.startswith("holdout")]


HELD = {**CE, "data": "glyphs:train=300,val=100,validation=100"}


def test_held_out_images_are_measured_each_epoch_and_resume(tmp_path, every_step):
    recipe = make_recipe({**HELD, "epochs": 2})
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    last = rows(run.folder)[-1]
    loaded, images = run.load(), open_data(recipe.data).holdout
    with torch.no_grad():
        logits = loaded.model.eval()(normalize(images.images, loaded.mean, loaded.std))
    hits = (logits.argmax(1) == images.labels).float().mean().item()
    assert last["holdout_top1"] == pytest.approx(100 * hits)
    loss = torch.nn.functional.cross_entropy(logits, images.labels).item()
    assert last["holdout_loss"] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt(1, 3))
    pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    assert_same_run(run.folder, tmp_path / "cut")


def test_the_best_epoch_is_the_one_that_is_best_on_the_held_out_images(tmp_path, monkeypatch):
    """Whatever the scores: here the held-out images like the second epoch best, the others the first."""
    measure, told = Validation.__call__, iter([(9.0, 1.0), (5.0, 3.0), (7.0, 2.0)])

    def tell(validation, model):
        figures = measure(validation, model)
        assert {"top1", "holdout_top1"} <= figures.keys()
        return {**figures, **dict(zip(("top1", "holdout_top1"), next(told), strict=True))}

    monkeypatch.setattr(Validation, "__call__", tell)
    result = pldistill.train(make_recipe(HELD), out=tmp_path / "run", device="cpu").result
    assert (result["best_epoch"], result["top1_best"], result["holdout_best"]) == (2, 5.0, 3.0)
    assert (result["top1_last"], result["holdout_last"]) == (7.0, 2.0)


def test_the_student_loads_elsewhere_and_its_figure_holds(teacher):
    model = timm.create_model(f"local-dir:{teacher.folder}", pretrained=True).eval()
    config = json.loads((teacher.folder / "config.json").read_text())
    assert len(config["label_names"]) == model.num_classes == 100
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 32, 32)
    figures = evaluate(teacher, device="cpu")
    assert figures["top1"] == pytest.approx(teacher.result["top1_last"])
    assert figures["images"] == 100


@pytest.mark.parametrize("method", pldistill.METHODS)
def test_every_method_trains(teacher, tmp_path, method):
    spec = pldistill.METHODS[method]
    fields = {**CE, "method": method, "epochs": 1, "amp": "bf16"}
    run = pldistill.train(
        make_recipe({**fields, "teacher": str(teacher.folder) if spec.needs_teacher else None}),
        out=tmp_path / "run",
        device="cpu",
    )
    (row,) = rows(run.folder)
    assert math.isfinite(row["loss"])
    assert set(row["terms"]) == {name for name, weight in spec.weights.items() if weight != 0}


def test_the_teacher_is_untouched_and_no_part_of_what_is_trained(teacher, tmp_path):
    before = weights(teacher.folder)
    run = pldistill.train(distill(teacher, epochs=1), out=tmp_path / "run", device="cpu")
    assert all(torch.equal(before[name], value) for name, value in weights(teacher.folder).items())
    state = checkpoint.load(run.folder / "checkpoint")
    names = {name.removeprefix("student.model.") for name in state["distiller"]}
    assert names == set(before)


def test_a_teacher_that_moves_is_caught(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.nn.Module.eval", lambda module: module.train(True))
    with pytest.raises(AssertionError, match="changed during training"):
        pldistill.train(distill(teacher, epochs=1), out=tmp_path / "run", device="cpu")


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pldistill.train(make_recipe({**CE, "epochs": 1, "seed": seed}), out=tmp_path / name, device="cpu")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_a_loss_that_is_not_finite_stops_and_the_last_good_state_stays(tmp_path):
    recipe = make_recipe(CE).model_copy(update={"lr": 1e30})  # beyond what a recipe may say
    with pytest.raises(NonFiniteLoss, match=r"term 'task' of the loss was not finite in epoch \d+, step \d+"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "result.json").exists()
    state = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert state is None or all(torch.isfinite(value).all() for value in state["distiller"].values())


def test_the_average_is_what_is_exported(tmp_path):
    plain = {**CE, "epochs": 1}
    pldistill.train(make_recipe(plain), out=tmp_path / "plain", device="cpu")
    run = pldistill.train(make_recipe({**plain, "ema": 0.5}), out=tmp_path / "ema", device="cpu")
    state = checkpoint.load(run.folder / "checkpoint")
    exported = weights(run.folder)
    assert all(torch.equal(state["average"][f"module.{name}"], value) for name, value in exported.items())
    last = weights(tmp_path / "plain")
    assert all(torch.equal(state["distiller"][f"student.model.{name}"], value) for name, value in last.items())
    assert not torch.equal(exported["fc.weight"], last["fc.weight"])


def test_a_compiled_student_trains_is_heard_and_exports_plain_keys(teacher, tmp_path):
    recipe = distill(teacher, method="at", epochs=1, lr=1e-6)  # too low for roundings to grow
    plain = pldistill.train(recipe, out=tmp_path / "plain", device="cpu")
    compiled = make_recipe({**recipe.to_dict(), "compile": True})
    run = pldistill.train(compiled, out=tmp_path / "run", device="cpu")
    terms = [rows(folder)[0]["terms"]["at"]["raw"] for folder in (plain.folder, run.folder)]
    assert terms[1] == pytest.approx(terms[0], rel=1e-4)
    assert weights(run.folder).keys() == timm.create_model("resnet8", num_classes=100).state_dict().keys()


def test_prediction_gives_five_classes_that_sum_below_one(teacher, tmp_path):
    Image.new("L", (50, 40), 128).save(tmp_path / "gray.png")
    ((first, *others),) = predict(teacher, [tmp_path / "gray.png"])
    assert len(others) == 4
    assert first[1] >= others[0][1] >= others[-1][1] >= 0
    assert first[1] + sum(probability for _, probability in others) <= 1 + 1e-6


def test_a_named_teacher_with_a_checkpoint_is_the_run_it_came_from(teacher, tmp_path):
    named = {"teacher": "resnet8", "teacher_checkpoint": str(teacher.folder / "model.safetensors")}
    pldistill.train(distill(teacher, epochs=1), out=tmp_path / "run", device="cpu")
    pldistill.train(
        make_recipe({**distill(teacher, epochs=1).to_dict(), **named}), out=tmp_path / "named", device="cpu"
    )
    assert_same_run(tmp_path / "run", tmp_path / "named")


def test_a_student_starts_from_a_checkpoint_and_wants_to_be_told_of_a_new_head(teacher, tmp_path):
    fields = {**CE, "epochs": 1, "student_checkpoint": str(teacher.folder), "data": "digits"}
    with pytest.raises(ValueError, match="new_head=True"):
        pldistill.train(make_recipe(fields), out=tmp_path / "run", device="cpu")
    run = pldistill.train(make_recipe({**fields, "new_head": True}), out=tmp_path / "run", device="cpu")
    assert run.load().classes == tuple("0123456789")


def test_the_end_of_an_epoch_reads_none_of_the_rows_before_it(teacher, tmp_path, monkeypatch):
    """Otherwise the memory and time of a long run grow with its epochs."""
    reads, epochs = [], RunRecord.epochs
    monkeypatch.setattr(RunRecord, "epochs", lambda run: reads.append(run.folder.name) or epochs(run))
    for count in (2, 5):
        pldistill.train(distill(teacher, epochs=count), out=tmp_path / str(count), device="cpu")
    assert reads.count("5") == reads.count("2") > 0
