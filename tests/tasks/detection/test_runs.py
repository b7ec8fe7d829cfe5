"""A run of detection, there and back: its record, its folder as a teacher, a stop in mid-epoch."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import pldistill
from pldistill.launch import Interrupted
from pldistill.recipe import completed, make_recipe
from pldistill.tasks.detection.coco import write_coco
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.sources import open_boxes
from pldistill.tasks.detection.task import Detection
from pldistill.tasks.detection.teachers import open_detector
from pldistill.tasks.detection.weights import load_detector
from tiny_detectors import CE, NET, SMALL, detector, distilled, recipe, scenes
from tiny_runs import StopAt, assert_same_run, rows

AP = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def train(made, out, **given):
    return pldistill.train(made, out=out, device="cpu", workers=0, **given)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train(recipe(epochs=1), tmp_path_factory.mktemp("detection") / "teacher")


def test_a_run_leaves_its_figures_and_its_model(teacher, tmp_path):
    run = train(recipe(method="pld", teacher=str(teacher.folder), ema=0.5), tmp_path / "run")
    result, lines = run.result, rows(run.folder)
    assert set(AP) < set(result) > {"AP_best", "best_epoch", "teacher_AP", "per_class", "teacher_parameters"}
    assert [result[name] for name in AP] == [lines[-1][name] for name in AP]
    assert set(lines[-1]["terms"]) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "pld"}
    assert result["teacher_AP"] == pytest.approx(teacher.result["AP"])
    assert result["parameters"] == result["teacher_parameters"]
    assert list(result["per_class"]) == list(open_boxes(CE["data"]).classes)
    assert json.loads((run.folder / "recipe.json").read_text())["task_options"]["rois_per_image"] == 16
    figures = pldistill.evaluate(run, device="cpu", workers=0, batch_size=2)
    assert figures == {
        **{name: pytest.approx(result[name]) for name in AP},
        "images": 4,
        "notes": [],
        "precision": figures["precision"],
    }
    model = run.load_detector().model
    (found,) = model.detect((open_boxes(CE["data"]).val.image(0),))
    assert found.boxes.shape == (len(found.labels), 4)


def test_a_detector_is_scored_on_data_of_some_of_its_classes(teacher, tmp_path):
    """A test split of three of the twelve classes, by name: other ids, another order, no training part."""
    root = tmp_path / "mine"
    write_coco(open_boxes(CE["data"]), root)
    file = root / "instances_test.json"
    (root / "val").rename(root / "test")
    content = json.loads((root / "instances_val.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    content["categories"] = [{"id": 50, "name": "H"}, {"id": 60, "name": "A"}, {"id": 70, "name": "2"}]
    ids = {row["name"]: row["id"] for row in content["categories"]}
    boxes = [row for row in content["annotations"] if names[row["category_id"]] in ids]
    content["annotations"] = [{**row, "category_id": ids[names[row["category_id"]]]} for row in boxes]
    assert boxes
    file.write_text(json.dumps(content))
    for name in ("instances_train.json", "instances_val.json"):
        (root / name).unlink()
    shutil.rmtree(root / "train")
    figures = pldistill.evaluate(teacher, data=f"coco:{root}", device="cpu", workers=0)
    assert figures["images"] == 4
    assert figures["AP"] is not None
    content["categories"][1]["name"] = "a4"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"or some of them, got 3 \(H, a4, 2\): unknown class 'a4'; did you mean 4"):
        pldistill.evaluate(teacher, data=f"coco:{root}", device="cpu", workers=0)


def test_a_detector_is_shown_few_images_at_a_time(teacher, monkeypatch):
    counts = []
    make = Detection.loader
    monkeypatch.setattr(
        Detection,
        "loader",
        lambda self, split, given, *rest, **more: (
            counts.append(given.batch_size) or make(self, split, given, *rest, **more)
        ),
    )
    few = pldistill.evaluate(teacher, device="cpu", workers=0)
    many = pldistill.evaluate(teacher, device="cpu", workers=0, batch_size=3)
    assert counts == [8, 3]
    assert few.pop("notes") == many.pop("notes") == []
    assert few == pytest.approx(many)


def test_images_of_one_name_keep_their_own_files(tmp_path):
    data = open_boxes(CE["data"])
    root = tmp_path / "mine"
    write_coco(data, root)
    content = json.loads((root / "instances_val.json").read_text())
    for place, row in enumerate(content["images"]):
        new = f"folder{place}/same.png"
        (root / "val" / f"folder{place}").mkdir()
        (root / "val" / row["file_name"]).rename(root / "val" / new)
        row["file_name"] = new
    (root / "instances_val.json").write_text(json.dumps(content))
    run = train(recipe(epochs=1, data=f"coco:{root}", image_size=64), tmp_path / "run")
    left = run.record.read_detections()["images"]
    assert [row["file"] for row in left] == [f"images/folder{place}/same.jpg" for place in range(4)]
    for place, row in enumerate(left):
        with Image.open(run.folder / row["file"]) as stored:
            pixels = torch.from_numpy(np.asarray(stored).copy()).permute(2, 0, 1).float()
        assert (pixels - data.val.image(place)).abs().mean() < 16  # of JPEG; of another scene it is far more


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, every_step):
    """The samplers' draws come from torch's generator, whose state is in the checkpoint."""
    made = distilled(accumulate=2, batch_size=2)
    whole = train(made, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(made, tmp_path / "stopped", callback=StopAt(1, 2))
    train(made, tmp_path / "stopped", resume=True)
    assert_same_run(whole.folder, tmp_path / "stopped")


def test_a_teacher_by_file_or_by_name(teacher, tmp_path):
    data = open_boxes(CE["data"])
    file = teacher.folder / "model.safetensors"
    by_run = open_detector(recipe(method="pld", teacher=str(teacher.folder)), data)
    by_file = open_detector(recipe(method="pld", teacher=f"{NET}@{file}"), data)
    beside = open_detector(recipe(method="pld", teacher=NET, teacher_checkpoint=str(file)), data)
    assert by_run.fingerprint() == by_file.fingerprint() == beside.fingerprint()
    drawn = [open_detector(distilled(seed=seed), data).fingerprint() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"teacher": NET},
            r"must name its weights: fasterrcnn:resnet50\.coco_v1; or give a run folder or a checkpoint",
        ),
        ({"teacher": "resnet50"}, "teacher: expected fasterrcnn:BACKBONE in detection, got 'resnet50'"),
        ({"teacher": "a/b"}, "teacher: expected a run folder or a model's name, got 'a/b', which is no folder"),
        ({"teacher": "fasterrcnn:resnet50.coco_v1"}, "resnet50.coco_v1': unknown class of the teacher 'A'"),
        (
            {"teacher": "fasterrcnn:resnet50.coco_v1", "task_options": {**SMALL, "unused_ids": "keep"}},
            "expected logits for the background and the data's 12 classes, 13 in all, got 91",
        ),
    ],
)
def test_teachers_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        open_detector(recipe(method="pld", **change), open_boxes(CE["data"]))


def test_a_teacher_of_other_classes_is_refused_before_the_first_step(teacher, tmp_path):
    config = json.loads((teacher.folder / "config.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").symlink_to(teacher.folder / "model.safetensors")
    names = config["label_names"]
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "label_names": ["Aa", *names[1:]]}))
    with pytest.raises(ValueError, match="unknown class of the teacher 'A'; did you mean Aa"):
        train(recipe(method="pld", teacher=str(tmp_path / "other")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    torch.save(detector(columns=4).model.state_dict(), tmp_path / "four.pth")
    with pytest.raises(
        ValueError, match="expected logits for the background and the data's 12 classes, 13 in all, got 4"
    ):
        open_detector(recipe(method="pld", teacher=f"{NET}@{tmp_path / 'four.pth'}"), open_boxes(CE["data"]))


def test_a_teacher_s_classes_are_found_by_name(teacher, tmp_path):
    """A run of the same classes in another order, and of more than the data's."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").symlink_to(teacher.folder / "model.safetensors")
    config = json.loads((teacher.folder / "config.json").read_text())
    names = config["label_names"]
    data = open_boxes(CE["data"])
    for classes in (names[::-1], ["x", *names[1:]]):
        (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "label_names": classes}))
        few = replace(data, classes=tuple(names[1:]), category_ids=tuple(range(1, 12)))
        asked = open_detector(recipe(method="pld", teacher=str(tmp_path / "other")), few)
        batch = scenes(((96, 96),), ((1,),), (torch.tensor([[3.0, 4, 50, 60], [20, 30, 90, 80]]),))
        whole = load_detector(teacher.folder).model.answer(batch).logits
        wanted = whole[:, [0, *(1 + classes.index(name) for name in few.classes)]]
        torch.testing.assert_close(asked(batch).logits, wanted)


def coco_data(classes, ids=None):
    """Data of these classes, of which no image is looked at."""
    data = open_boxes(CE["data"])
    return replace(data, classes=tuple(classes), category_ids=tuple(ids or range(1, len(classes) + 1)))


def test_a_teacher_of_coco_s_columns_teaches_some_of_its_classes(tmp_path):
    """A file of 91 columns as torchvision's: a dog is 18, a person 1, a zebra 24, wherever the data has them."""
    whole = detector(3, columns=91)
    torch.save(whole.model.state_dict(), tmp_path / "coco.pth")
    made = recipe(method="pld", teacher=f"{NET}@{tmp_path / 'coco.pth'}")
    batch = scenes(regions=(torch.tensor([[3.0, 4, 50, 60]]), torch.tensor([[20.0, 30, 60, 60]])))
    for ids in ((1, 2, 3), (1, 18, 90)):  # of the last one a table by id would be as wide, and another
        data = coco_data(("dog", "person", "zebra"), ids)
        teacher = open_detector(made, data)
        expected = detector(3, columns=91, mean=data.mean, std=data.std).eval().answer(batch).logits
        torch.testing.assert_close(teacher(batch).logits, expected[:, [0, 18, 1, 24]])
        assert teacher.model.detect(batch.images)[0].labels.max() <= 3
    task = Detection(DetectionOptions(**SMALL))
    student = task.student(made, data)
    assert student.width == 4
    found = task.pair(student.train(), teacher, scenes())
    assert found.student.logits.shape == found.teacher.logits.shape
    assert found.teacher.logits.shape[1] == 4
    with pytest.raises(ValueError, match=r"unknown class of the teacher 'zebras'; did you mean zebra"):
        open_detector(made, coco_data(("dog", "person", "zebras")))


def test_ninety_classes_of_one_s_own_are_no_coco_classes(tmp_path):
    torch.save(detector(3, columns=91).model.state_dict(), tmp_path / "own.pth")
    made = recipe(method="pld", teacher=f"{NET}@{tmp_path / 'own.pth'}")
    data = coco_data([f"class {number}" for number in range(90)])
    assert open_detector(made, data).model.columns.tolist() == list(range(91))
    gaps = coco_data(("one", "two"), (7, 90))
    assert open_detector(made, gaps).model.columns.tolist() == [0, 7, 90]


def test_a_teacher_at_chance_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"validation RoIs right .* go on with --trust-teacher"):
        train(
            recipe(method="pld", teacher=str(untrained(tmp_path)), data="scenes:train=6,val=40", trust_teacher=False),
            tmp_path / "run",
        )


def untrained(folder):
    return train(recipe(epochs=1, lr=1e-9), folder / "untrained").folder


def test_the_recipe_has_the_tasks_defaults():
    made = make_recipe({"task": "detection", "data": "scenes", "student": NET, "method": "dkd", "teacher": "t"})
    assert (made.batch_size, made.lr, made.weight_decay, made.epochs) == (8, 0.01, 1e-4, 12)
    assert made.options == {"alpha": 1.0, "beta": 0.25, "temperature": 1.0, "standardize": "none"}
    assert made.weights == {
        "loss_classifier": 1,
        "loss_box_reg": 1,
        "loss_objectness": 1,
        "loss_rpn_box_reg": 1,
        "dkd": 1,
    }
    assert make_recipe(json.loads(json.dumps(made.to_dict()))) == made
    stored = made.to_dict()
    del stored["task_options"]["anchor"]
    assert completed(stored) == made.to_dict()
    assert "/" not in made.name()
    assert ":" not in made.name()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixup": 0.1}, "mixup: expected 0.0 in detection, got 0.1"),
        ({"label_smoothing": 0.1}, "label_smoothing: expected 0.0 in detection"),
        ({"repeats": 2}, "repeats: expected 1 in detection"),
        ({"method": "at", "teacher": "t"}, "unknown method of detection 'at'"),
        (
            {"method": "pld", "teacher": "ensemble:a+b"},
            "teacher: expected one model in detection, got 'ensemble:a\\+b'",
        ),
        ({"task": "detections"}, r"^unknown task 'detections'; did you mean detection "),
        ({"task_options": {"roi_per_image": 1}}, "unknown task option 'roi_per_image'; did you mean rois_per_image"),
        ({"task_options": {"rois_per_image": 0}}, "task option rois_per_image: expected a whole number from 1, got 0"),
        (
            {"task_options": {"rois_per_image": "many"}},
            "task option rois_per_image: expected a whole number from 1, got 'many'",
        ),
        ({"task_options": {"norm": "layer"}}, "unknown task option norm 'layer'"),
        (
            {"task_options": {"trainable_layers": 6}},
            "trainable_layers: expected a whole number from 0 to 5, got 6",
        ),
        (
            {"task_options": {"positive_fraction": 2}},
            "positive_fraction: expected a number from 0 to 1, got 2",
        ),
        ({"task_options": {"short_sides": "800"}}, "task option short_sides: expected LEAST-MOST in pixels"),
        ({"task": "classification", "task_options": {"norm": "batch"}}, "unknown task option 'norm'"),
        (
            {"method": "dist", "teacher": "t", "relation": "global", "task_options": {"background_rows": False}},
            "relation: expected local where background_rows is false",
        ),
    ],
)
def test_what_detection_cannot_take_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        recipe(**change)


def test_other_students_and_sides_are_refused(tmp_path):
    with pytest.raises(ValueError, match="student: expected fasterrcnn:BACKBONE in detection, got 'resnet18'"):
        train(recipe(student="resnet18"), tmp_path / "run")
    with pytest.raises(ValueError, match="task option short_sides: expected at most max_side, 100, got 200"):
        train(recipe(task_options={**SMALL, "short_sides": "64-200", "max_side": 100}), tmp_path / "run")
