"""The command line: every verb, and every mistake one plain line with exit code 2."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from command_line import run
from pldistill.__main__ import main
from pldistill.methods import METHODS

TINY = [
    "--data",
    "glyphs:train=128,val=100",
    "--student",
    "resnet8",
    "--epochs",
    "1",
    "--batch-size",
    "32",
    "--device",
    "cpu",
    "--trust-teacher",
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "teacher"
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--method", "ce", "--out", str(folder)])
    assert stop.value.code == 0
    return folder


def test_a_file_that_ends_too_soon_is_no_ctrl_d(capsys, monkeypatch):
    """Typer takes every EOFError for one, and ends with 130."""

    def short(path):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("pldistill.training.run.load_run", short)
    code, _, said = run(capsys, "evaluate", "runs/mine")
    assert code == 2
    assert said == "pldistill: a file ends too soon: Ran out of input\n"


def test_an_empty_file_of_weights_is_a_mistake_and_no_stop(capsys, tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    words = [
        "train",
        *TINY,
        "--method",
        "kd",
        "--teacher",
        f"resnet8@{tmp_path / 'empty.pth'}",
        "--out",
        tmp_path / "run",
    ]
    code, _, said = run(capsys, *words)
    assert code == 2
    assert said == f"pldistill: checkpoint {tmp_path / 'empty.pth'}: expected weights, got an empty file\n"


def test_json_of_predictions_is_read_back_whatever_the_output_s_encoding(capsys, teacher, tmp_path, monkeypatch):
    image = tmp_path / "Bäume ✗.png"
    Image.new("RGB", (32, 32)).save(image)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(teacher), str(image), "--json"])
    narrow.flush()
    assert stop.value.code == 0
    assert json.loads(narrow.buffer.getvalue().decode("ascii"))[0]["image"] == str(image)


def test_train_evaluate_predict_report(capsys, teacher, tmp_path):
    student = tmp_path / "student"
    options = ["--option", "temperature=2", "--weight", "pld=1@0.5", "--amp", "bf16"]
    code, out, _ = run(capsys, "train", *TINY, "--method", "pld", "--teacher", teacher, *options, "--out", student)
    assert code == 0
    assert "finished: top-1" in out
    recipe = json.loads((student / "recipe.json").read_text())
    assert recipe["options"]["temperature"] == 2.0
    assert recipe["weights"] == {"task": 0.0, "pld": "1.0@0.5"}

    code, out, _ = run(capsys, "train", "--out", student, "--resume", "--device", "cpu")
    assert code == 0
    assert "finished" in out

    code, out, _ = run(capsys, "evaluate", student, "--device", "cpu")
    assert code == 0
    assert f"top-1 {json.loads((student / 'result.json').read_text())['top1_last']:.2f} %" in out

    image = tmp_path / "an image.png"
    Image.new("RGB", (32, 32), (200, 30, 30)).save(image)
    code, out, _ = run(capsys, "predict", student, image)
    assert code == 0
    assert out.count("%") == 5

    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", student, teacher, "--out", page)
    assert code == 0
    assert "<html" in page.read_text()


def test_a_stored_recipe_runs_again_with_overrides(capsys, teacher, tmp_path):
    again = ["train", "--recipe", teacher / "recipe.json", "--out", tmp_path / "again", "--device", "cpu"]
    code, _, _ = run(capsys, *again, "--seed", "3", "--method", "ls")
    assert code == 0
    recipe = json.loads((tmp_path / "again" / "recipe.json").read_text())
    assert (recipe["seed"], recipe["method"], recipe["options"]) == (3, "ls", {"epsilon": 0.1})


@pytest.mark.parametrize("what", ["methods", "models", "data"])
def test_lists(capsys, what):
    code, out, _ = run(capsys, "list", what)
    assert code == 0
    names = {"methods": METHODS, "models": ["resnet8x4", "cifar_mobilenetv2"], "data": ["glyphs", "folder"]}[what]
    assert all(name in out for name in names)


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("pldistill 0.")


CE = [*TINY, "--method", "ce"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "No such command 'trian'"),
        (["reproduce", "table2000"], "unknown study 'table2000'"),
        (["reproduce", "figure9"], "unknown study 'figure9'"),
        (["landscape", "--methods", "kd", "pdl"], "unknown loss 'pdl'"),
        (["landscape", "--temperatures", "2", "-1"], "temperatures: expected numbers above 0, got '-1'"),
        (["landscape", "--points", "10"], "points"),
        (["reproduce", "table1"], "data: expected the images for scale 'full', as cifar100:PATH, got none"),
        (["reproduce", "table1", "--scale", "smoke", "--pairs"], "--pairs"),
        (["reproduce", "table1", "--scale", "smoke", "--pairs", "a-b"], "unknown pair 'a-b'"),
        (["reproduce", "table1", "--scale", "smoke", "--methods", "ce", "pdl"], "unknown method 'pdl'"),
        (["reproduce", "table1", "--scale", "smoke", "--seeds", "0"], "seeds: expected a whole number from 1, got '0'"),
        (["reproduce", "table1", "--scale", "smoke", "--sweep-scale", "2"], "expected --validation N beside it"),
        (["reproduce", "table1", "--scale", "smoke", "--sweep-scale", "1", "x"], "sweep_scale: expected numbers"),
        (["train", "--epoch", "3"], "No such option: --epoch"),
        (["train", *CE, "--epochs", "three"], "epochs: expected a whole number from 1 to 1,000,000"),
        (["train", *CE, "--epochs", "three"], "got 'three'"),
        (["train", *CE, "--lr", "fast"], "lr: expected a number above 0, at most 1,000,000, got 'fast'"),
        (["train", *CE, "--workers", "-1"], "workers: expected a whole number from 0, got '-1'"),
        (["train", "--student", "resnet8", "--method", "ce"], "data: expected a value, got none"),
        (["train", *TINY, "--method", "pdl"], "unknown method 'pdl'; did you mean pld"),
        (["train", *CE, "--option", "temperature=1"], "unknown option 'temperature'"),
        (["train", *CE, "--option", "temperature"], "option: expected KEY=VALUE, got 'temperature'"),
        (["train", *CE, "--weight", "kd=1"], "unknown weight 'kd'"),
        (["train", *TINY, "--method", "pld"], "method 'pld' needs a teacher"),
        (["train", *TINY, "--method", "pld", "--teacher", "resnet56"], "resnet56"),
        (["train", *CE, "--student", "resnet_8"], "did you mean"),
        (["train", *CE, "--data", "cifar100:/nowhere"], "/nowhere"),
        (["train", *CE, "--data", "folder:/nowhere"], "/nowhere"),
        (["train", *CE, "--data", "glyphs:trian=3"], "trian"),
        (["train", *CE, "--amp", "fp16"], "does nothing there"),
        (["train", *CE, "--amp", "fp8"], "unknown amp 'fp8'; did you mean fp16? known: auto, bf16, fp16, off"),
        (["train", *CE, "--optimizer", "sdg"], "unknown optimizer 'sdg'"),
        (["train", *CE, "--device", "cuda:x"], "device: expected auto, cpu, cuda or mps"),
        (["train", "--recipe", "/nowhere.json"], "does not exist"),
        (["train", "--resume"], "resume: expected the run's folder as --out"),
        (["train", "--resume", "--out", "/nowhere"], "resume: expected a run in '/nowhere', got none"),
        (["evaluate", "/nowhere"], "/nowhere"),
        (["predict", "/nowhere", "x.png"], "/nowhere"),
        (["report", "/nowhere", "--out", "x.html"], "/nowhere"),
        (["list", "method"], "unknown list 'method'; did you mean methods"),
    ],
)
def test_a_mistake_is_one_plain_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def test_a_used_output_folder_is_refused(capsys, teacher):
    code, _, err = run(capsys, "train", *CE, "--out", teacher)
    assert code == 2
    assert "add --resume to go on" in err


def test_images_that_cannot_be_read_are_named(capsys, teacher, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG no more")
    for name in ("torn.png", "missing.png"):
        code, _, err = run(capsys, "predict", teacher, tmp_path / name)
        assert code == 2
        assert name in err
        assert err.count("\n") == 1


def test_predict_takes_quoted_patterns_and_prints_a_table(capsys, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/b.png", "x/deep/a, 1.png", "x/deep/c.jpg", "x/[1].png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), "white").save(name)
    code, out, _ = run(capsys, "predict", teacher, "x/**/*.png", "x/[1].png", "--csv")  # the last is a file's own name
    assert code == 0
    lines = list(csv.DictReader(io.StringIO(out)))
    names = ["x/[1].png", "x/b.png", "x/deep/a, 1.png", "x/[1].png"]
    assert [line["image"] for line in lines] == [name for name in names for _ in range(5)]
    _, out, _ = run(capsys, "predict", teacher, "x/b.png", "--json")
    (answer,) = json.loads(out)
    said = [{"class": line["class"], "probability": float(line["probability"])} for line in lines[5:10]]
    assert [one["class"] for one in said] == [one["class"] for one in answer["classes"]]
    for one, other in zip(said, answer["classes"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)
    code, _, err = run(capsys, "predict", teacher, "x/*.gif")
    assert code == 2
    assert err == "pldistill: images: expected files that fit the pattern 'x/*.gif', got none\n"


def test_predict_takes_folders_and_goes_on_past_what_cannot_be_read(capsys, teacher, tmp_path):
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (20, 30), "white").save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("ignored")
    code, out, err = run(capsys, "predict", teacher, tmp_path / "images", tmp_path / "gone.png", "--json")
    assert code == 2
    assert [Path(answer["image"]).name for answer in json.loads(out)] == ["a.jpg", "b.png"]
    assert "pldistill: 2 of 4 files: " in err
    assert "broken.png: cannot be read as an image" in err
    assert "gone.png: cannot be read as an image" in err
    code, _, err = run(capsys, "predict", teacher, tmp_path / "images" / "deep" / "notes.txt")
    assert code == 2
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "predict", teacher, tmp_path / "empty")
    assert code == 2
    assert "images: expected some in the folder" in err
