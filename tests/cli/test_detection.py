"""Detection from the command line, end to end: train, distill, resume, evaluate, predict, report; and every mistake."""

import csv
import io
import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

import pldistill
from command_line import run
from pldistill.__main__ import main
from pldistill.launch import Interrupted
from pldistill.recipe import make_recipe
from pldistill.tasks.detection.coco import write_coco
from pldistill.tasks.detection.predict import LEFT
from pldistill.tasks.detection.sources import open_boxes
from pldistill.tasks.registry import TASKS
from tiny_detectors import NET, SMALL
from tiny_runs import KillAt, Killed, StopAt, assert_same_run, rows

BOXES = tuple(TASKS["detection"].metrics)

DATA = "scenes:train=4,val=2"
TINY = ["--task", "detection", "--data", DATA, "--student", NET, "--epochs", "1", "--batch-size", "2"]
TINY += [word for name, value in SMALL.items() for word in ("--task-option", f"{name}={value}")]
TINY += ["--device", "cpu", "--workers", "0"]
METHODS = ["pld", "dkd", "kd", "dist", "listmle", "fitnet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher's folder, by the undistilled detector's method."""
    folder = tmp_path_factory.mktemp("detector") / "teacher"
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--method", "ce", "--out", str(folder)])
    assert stop.value.code == 0
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("detector") / "student"
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--method", "pld", "--teacher", str(trained), "--trust-teacher", "--out", str(folder)])
    assert stop.value.code == 0
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("images") / "an image.png"
    open_boxes(DATA)
    Image.fromarray(open_boxes(DATA).val.image(0).permute(1, 2, 0).numpy()).resize((130, 100)).save(file)
    return file


def test_a_result_begins_with_the_six_columns(student):
    result = json.loads((student / "result.json").read_text())
    assert set(BOXES) <= set(result)
    assert all(result[name] is None or 0 <= result[name] <= 100 for name in BOXES)
    assert list(result["per_class"]) == list(open_boxes(DATA).classes)
    assert result["AP_best"] == result["AP"]
    assert result["teacher_parameters"] == result["parameters"] > 0
    (row,) = rows(student)
    assert {name: row[name] for name in BOXES} == {name: result[name] for name in BOXES}
    terms = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "pld"}
    assert set(row["terms"]) == terms


@pytest.mark.parametrize("method", METHODS)
def test_every_method_distils(capsys, trained, tmp_path, method):
    asked = ["--method", method, "--teacher", trained, "--trust-teacher"]
    code, out, err = run(capsys, "train", *TINY, *asked, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "finished: AP" in out
    assert method in json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["terms"]


def test_evaluate_repeats_the_result(capsys, student):
    code, out, _ = run(capsys, "evaluate", student, "--device", "cpu", "--workers", "0")
    assert code == 0
    assert f"AP {json.loads((student / 'result.json').read_text())['AP']:.2f}" in out


def test_predict_gives_boxes_in_pixels_of_the_file(capsys, student, image, tmp_path):
    code, out, _ = run(capsys, "predict", student, image, "--json", "--score", "0", "--draw", tmp_path / "drawn")
    assert code == 0
    ((found,),) = [json.loads(out)]
    assert found["image"] == str(image)
    assert found["boxes"]
    scores = [box["score"] for box in found["boxes"]]
    assert scores == sorted(scores, reverse=True)
    for box in found["boxes"]:
        left, top, right, bottom = box["box"]
        assert 0 <= left <= right <= 130
        assert 0 <= top <= bottom <= 100
        assert box["class"] in open_boxes(DATA).classes
    (drawn,) = (tmp_path / "drawn").iterdir()
    assert drawn.name == "an image.jpg"
    with Image.open(drawn) as opened:
        assert opened.size == (468, 360)
    code, out, _ = run(capsys, "predict", student, image, "--score", "0")
    lines = out.splitlines()
    assert lines[0] == str(image)
    assert len(lines) == 1 + len(scores)
    assert lines[1].split()[0] == f"{scores[0]:.3f}"
    code, out, _ = run(capsys, "predict", student, image, "--score", "1")
    assert out.splitlines()[1] == "  nothing"


def test_a_run_leaves_images_and_the_page_shows_them(capsys, trained, student, tmp_path):
    left = json.loads((student / "detections.json").read_text())["images"]
    assert len(left) == min(LEFT, 2)
    truth = open_boxes(DATA).val.objects(0)
    assert [box["box"] for box in left[0]["truth"]] == truth.boxes.tolist()
    assert [each["teacher"] is None for each in left] == [False, False]
    own = json.loads((trained / "detections.json").read_text())["images"]
    assert [each["teacher"] for each in own] == [None, None]
    assert [each["student"] for each in own] == [each["teacher"] for each in left]  # the same model, the same images
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, "report", trained, student, "--out", page)
    assert code == 0
    assert page.read_text(encoding="utf-8").count("<img ") == 2
    assert len(list((tmp_path / "page-images").iterdir())) == 2


def test_a_folder_in_coco_s_form_is_read(capsys, tmp_path):
    write_coco(open_boxes(DATA), tmp_path / "mine")
    arguments = [word if word != DATA else f"coco:{tmp_path / 'mine'}" for word in TINY]
    code, _, err = run(capsys, "train", *arguments, "--method", "ce", "--image-size", "64", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert list(json.loads((tmp_path / "run" / "result.json").read_text())["per_class"]) == list(
        open_boxes(DATA).classes
    )


def test_an_image_that_is_damaged_behind_its_header_is_named_in_one_line(capsys, tmp_path):
    write_coco(open_boxes(DATA), tmp_path / "mine")
    file = next((tmp_path / "mine" / "train").iterdir())
    file.write_bytes(file.read_bytes()[:2000])
    arguments = [word if word != DATA else f"coco:{tmp_path / 'mine'}" for word in TINY]
    asked = ["--method", "ce", "--image-size", "64", "--out", tmp_path / "run"]
    code, out, err = run(capsys, "train", *arguments, *asked)
    assert code == 2
    assert f"{file.resolve()}: cannot be read as an image" in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    asked[-1] = tmp_path / "skipped"
    code, out, err = run(capsys, "train", *arguments, *asked, "--on-bad-image", "skip")
    assert code == 0
    assert "1 images of train are left out, which cannot be read" in " ".join((out + err).split())
    assert json.loads((tmp_path / "skipped" / "result.json").read_text())["skipped_images"] == {"train": 1}


def distilled(teacher, **given):
    fields = {"task": "detection", "data": "scenes:train=8,val=2", "student": NET, "method": "dkd", "epochs": 2}
    fields |= {"batch_size": 2, "task_options": SMALL, "teacher": str(teacher), "trust_teacher": True}
    return make_recipe({**fields, **given})


def test_stopped_killed_and_resumed_is_the_uninterrupted_run(trained, tmp_path, every_step):
    recipe = distilled(trained, ema=0.9, clip_grad=1.0)
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu", workers=0)
    cut = tmp_path / "cut"
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=cut, device="cpu", workers=0, callback=StopAt(0, 2, signal.SIGTERM))
    with pytest.raises(Killed):
        pldistill.train(recipe, out=cut, device="cpu", workers=0, resume=True, callback=KillAt(1, 2))
    assert not (cut / "result.json").exists()
    pldistill.train(recipe, out=cut, device="cpu", workers=0, resume=True)
    assert_same_run(tmp_path / "whole", cut)
    whole, again = (json.loads((folder / "detections.json").read_text()) for folder in (tmp_path / "whole", cut))
    assert whole == again


CE = [*TINY, "--method", "ce"]
PLD = [*TINY, "--method", "pld", "--trust-teacher"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*CE, "--data", "scene"], "did you mean scenes"),
        ([*CE, "--data", "coco:/nowhere"], "/nowhere"),
        ([*CE, "--data", "glyphs"], "glyphs has labels and no boxes"),
        ([*CE, "--student", "resnet18"], "fasterrcnn:BACKBONE"),
        ([*CE, "--student", "fasterrcnn:resnet_18"], "did you mean"),
        ([*TINY, "--method", "rkd"], "unknown method of detection 'rkd'"),
        ([*TINY, "--method", "pld"], "method 'pld' needs a teacher"),
        ([*PLD, "--teacher", "/nowhere"], "/nowhere"),
        ([*PLD, "--teacher", "ensemble:a+b"], "expected one model in detection"),
        ([*CE, "--task", "detections"], "detection"),
        ([*CE, "--task-option", "rois_per_image"], "expected KEY=VALUE"),
        ([*CE, "--task-option", "rois_per_image=none"], "rois_per_image"),
        ([*CE, "--task-option", "rois=4"], "unknown task option 'rois'"),
        ([*CE, "--task-option", "norm=layer"], "norm"),
        ([*CE, "--weight", "task=0"], "task"),
        ([*CE, "--mixup", "0.2"], "mixup"),
        ([*CE, "--label-smoothing", "0.1"], "label_smoothing"),
    ],
)
def test_a_mistake_is_one_plain_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "train", *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def scaled(content):
    for row in content["annotations"]:
        row["bbox"] = [side / 96 for side in row["bbox"]]


def cornered(content):
    for row in content["annotations"]:
        left, top, width, height = row["bbox"]
        row["bbox"] = [left, top, left + width, top + height]


ANNOTATIONS = [
    (lambda it: it["annotations"][0].update(iscrowd="0"), "annotation 1 of image 1: iscrowd: expected 0 or 1, got '0'"),
    (
        lambda it: it["images"][1].update(width=95),
        "000000000002.png: expected 95x96 pixels, as in its record, got 9",
    ),
    (
        lambda it: it["images"][1].update(file_name="000000000001.png"),
        "expected each once, got '000000000001.png' 2",
    ),
    (lambda it: it["categories"][1].update(name="A"), "category name: expected each once, got 'A' 2 times"),
    (scaled, "which looks like normalized boxes"),
    (cornered, "which looks like left, top, right, bottom (x1, y1, x2, y2)"),
    (None, "not JSON (recursion limit exceeded"),
]


@pytest.mark.parametrize(("change", "says"), ANNOTATIONS, ids=[says[:20] for _, says in ANNOTATIONS])
def test_a_mistake_in_the_annotations_is_one_plain_line(capsys, tmp_path, change, says):
    root = tmp_path / "mine"
    write_coco(open_boxes(DATA), root)
    file = root / "instances_train.json"
    content = json.loads(file.read_text())
    if change is not None:
        change(content)
    file.write_text("[" * 100_000 if change is None else json.dumps(content))
    arguments = [word if word != DATA else f"coco:{root}" for word in CE]
    code, out, err = run(capsys, "train", *arguments, "--image-size", "64", "--out", tmp_path / "run")
    assert code == 2
    assert str(file) in err
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused_before_the_first_step(capsys, trained, tmp_path):
    data = open_boxes(DATA)
    write_coco(data, tmp_path / "mine")
    for name in ("train", "val"):
        file = tmp_path / "mine" / f"instances_{name}.json"
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "another"
        file.write_text(json.dumps(content))
    arguments = [word if word != DATA else f"coco:{tmp_path / 'mine'}" for word in PLD]
    code, _, err = run(capsys, "train", *arguments, "--teacher", trained, "--out", tmp_path / "run")
    assert code == 2
    assert "unknown class of the teacher 'another'; known: 2, 4, 8, A" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--score", "2"], "score: expected a number in [0, 1], got '2'"),
        (["--score", "high"], "score: expected a number in [0, 1], got 'high'"),
        (["--draw", "."], "draw: expected a folder other than the images' own"),
        (["./a.jpg", "--draw", "drawn"], "draw: expected each image once, got 'a.jpg' several times"),
        (["--json", "--csv"], "csv: expected --json or --csv, got both"),
        (["nothing/*.jpg"], "images: expected files that fit the pattern 'nothing/*.jpg', got none"),
        (["s*"], "images: expected files that fit the pattern 's*', got none"),
        (["missing.jpg"], "missing.jpg"),
    ],
)
def test_what_predict_cannot_do_is_one_plain_line(capsys, student, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for name in ("a.jpg", "sub/a.jpg"):
        Image.new("RGB", (40, 30)).save(name)
    before = Path("a.jpg").read_bytes()
    code, _, err = run(capsys, "predict", student, "a.jpg", *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert Path("a.jpg").read_bytes() == before
    assert not os.path.lexists("drawn")


def test_images_of_one_name_are_drawn_under_their_folders(capsys, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.jpg", "two/a.jpg", "two/b.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(name)
    code, _, err = run(capsys, "predict", student, "one", "two/*", "--draw", "drawn")
    assert (code, err) == (0, "")
    drawn = sorted(path.relative_to("drawn").as_posix() for path in Path("drawn").rglob("*.jpg"))
    assert drawn == ["one/a.jpg", "two/a.jpg", "two/b.jpg"]


def test_boxes_as_a_table(capsys, student, image):
    _, out, _ = run(capsys, "predict", student, image, "--score", "0", "--json")
    (answer,) = json.loads(out)
    code, out, _ = run(capsys, "predict", student, image, "--score", "0", "--csv")
    assert code == 0
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [[line["image"], line["class"], float(line["score"])] for line in lines] == [
        [str(image), box["class"], box["score"]] for box in answer["boxes"]
    ]
    edges = [[float(line[edge]) for edge in ("left", "top", "right", "bottom")] for line in lines]
    assert edges == [box["box"] for box in answer["boxes"]]


def test_what_a_classifier_s_run_has_not_is_refused(capsys, teacher, image):
    for name, value, kinds in (("score", "0.5", "boxes"), ("draw", "drawn", "boxes or masks")):
        code, _, err = run(capsys, "predict", teacher.folder, image, f"--{name}", value)
        assert code == 2
        assert f"{name}: expected a run that finds {kinds}, got one of classification" in err
    code, out, _ = run(capsys, "predict", teacher.folder, image, "--json")
    (answer,) = json.loads(out)
    assert len(answer["classes"]) == 5


def test_lists_name_what_detection_has(capsys):
    for what, names in (
        ("methods", ("--task detection", "loss_classifier=1", "fpn0")),
        ("models", ("fasterrcnn:BACKBONE",)),
        ("data", ("coco:PATH", "scenes", "glyphs")),
        ("tasks", ("rois_per_image=512", "background_rows=true")),
        ("studies", ("table7",)),
    ):
        code, out, _ = run(capsys, "list", what)
        assert code == 0
        assert all(name in " ".join(out.split()) for name in names)
