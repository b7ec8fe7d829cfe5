"""Segmentation end to end: trained, distilled, resumed bit for bit, measured, read back, refused."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

import pldistill
from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.tasks.base import make_task
from pldistill.tasks.registry import TASKS
from pldistill.tasks.segmentation import shapes
from pldistill.tasks.segmentation.metrics import confusion, figures_of
from pldistill.tasks.segmentation.sources import open_masks
from pldistill.tasks.segmentation.weights import load_segmenter
from tiny_segmenters import CE


def distilled(teacher, method, **more):
    return make_recipe({**CE, "method": method, "teacher": str(teacher.folder), "seed": 1, **more})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = make_recipe({**CE, "data": "shapes:train=32,val=12,validation=8", "epochs": 8, "lr": 0.1})
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("masks") / "teacher", device="cpu")


def test_the_figures_are_those_of_torchvisions_answers(teacher):
    """From the model's own forward pass at full size, all validation images at once."""
    loaded, val = load_segmenter(teacher.folder), open_masks("shapes:train=32,val=12").val
    with torch.no_grad():
        images = (val.images.float() / 255 - loaded.model.mean) / loaded.model.std
        answers = loaded.model.model(images)["out"].argmax(1)
    found = figures_of(confusion(val.masks.long(), answers, 5), loaded.classes)
    result = teacher.result
    assert result["miou_last"] == pytest.approx(found["miou"], rel=1e-5)
    assert result["per_class"] == pytest.approx(found["per_class"])
    assert result["absent_classes"] == []
    assert result["pixel_accuracy_last"] > 60
    assert result["best_by"] == "holdout_miou"


@pytest.mark.parametrize("method", [name for name in TASKS["segmentation"].methods if name != "ce"])
def test_a_student_learns_from_it(teacher, tmp_path, method):
    run = pldistill.train(distilled(teacher, method), out=tmp_path / "run", device="cpu")
    first, last = run.record.epochs()
    assert set(last["terms"]) == {"task", method}
    assert last["loss"] < first["loss"]
    assert run.result["teacher_miou"] == pytest.approx(teacher.result["miou_last"], rel=1e-5)


@pytest.mark.parametrize("crop", [0, 48])
def test_a_run_that_was_stopped_is_the_whole_one(teacher, tmp_path, every_step, crop):
    recipe = distilled(teacher, "pld", task_options={"crop": crop})
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
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_evaluate_says_what_the_run_said(teacher, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(teacher.folder), "--device", "cpu"])
    said = capsys.readouterr().out
    assert f"mIoU {teacher.result['miou_last']:.2f} %" in said
    assert "12 images" in said


def test_a_teacher_at_chance_is_refused(teacher, tmp_path):
    recipe = make_recipe({**CE, "epochs": 1, "lr": 1e-6})
    guessing = pldistill.train(recipe, out=tmp_path / "guessing", device="cpu")
    with pytest.raises(ValueError, match="expected better than chance"):
        pldistill.train(distilled(guessing, "kd", trust_teacher=False), out=tmp_path / "run", device="cpu")


def test_a_folder_opens_again_and_damage_is_said(teacher, tmp_path):
    loaded = load_segmenter(teacher.folder)
    assert loaded.classes == ("background", "disk", "square", "triangle", "cross")
    assert (loaded.image_size, loaded.frame) == (64, (64, 64))
    config = json.loads((teacher.folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((teacher.folder / "model.safetensors").read_bytes())
    for change, says in (
        ({"task": "detection"}, "holds a model of detection, expected one of segmentation"),
        ({"frame": [0, 64]}, "is damaged"),
        ({"architecture": "lraspp:resnet18"}, "does not fit|names"),
        ({"label_names": ["a"]}, "has a head of 5 classes, the model has 1"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=says):
            load_segmenter(tmp_path)
    with pytest.raises(ValueError, match="is missing"):
        load_segmenter(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"student": "lrasp:resnet18"}, "unknown segmentation model 'lrasp:resnet18'"),
        ({"student": "lraspp:resnet81"}, "unknown backbone 'resnet81'; did you mean resnet8"),
        ({"student": "lraspp:vit_tiny_patch16_224"}, "expected a model that takes images of any size"),
        ({"student": "lraspp:resnet20"}, r"expected a map at stride 8 and one after it, got strides \[1, 1, 2, 4\]"),
        ({"data": "glyphs"}, "glyphs has labels and no masks"),
        ({"data": "shape"}, "unknown data with masks 'shape'; did you mean shapes"),
        ({"data": "shapes:train=0"}, "shapes: train: expected 1 to 100,000, got 0"),
        ({"data": "shapes:train=32,val=12,validation=32"}, "validation: expected 1 to 31 images, got 32"),
        ({"task_options": {"crop": 65}}, "task option crop: expected at most 64"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        pldistill.train(make_recipe({**CE, **change}), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixup": 0.2}, "mixup"),
        ({"method": "kd", "teacher": "random:lraspp:resnet18"}, "teacher: expected the folder of one segmentation run"),
        ({"method": "dist", "teacher": "x", "relation": "global"}, "relation: expected local in segmentation"),
        ({"method": "vid", "teacher": "x"}, "unknown method of segmentation 'vid'"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_at_once(change, says):
    with pytest.raises(ValueError, match=says):
        make_recipe({**CE, **change})


def test_a_batch_of_one_image_is_refused_for_a_head_that_cannot_train_on_one(tmp_path):
    """DeepLabV3 normalizes one value a channel behind its pooling; LR-ASPP does not."""
    recipe = make_recipe({**CE, "student": "deeplabv3_mobilenet_v3_large", "batch_size": 1})
    with pytest.raises(ValueError, match=r"batch_size: expected at least 2, for the student's BatchNorm 'class"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    one = make_recipe({**CE, "data": "shapes:train=3,val=2", "batch_size": 1, "epochs": 1})
    assert pldistill.train(one, out=tmp_path / "one", device="cpu").result["epochs"] == 1


def test_published_weights_of_other_classes_start_with_a_fresh_head(tmp_path):
    """A file as torchvision publishes it: 21 classes, and an auxiliary head."""
    torch.manual_seed(1)
    published = torchvision.models.get_model(
        "fcn_resnet50", weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    torch.save(published.state_dict(), tmp_path / "fcn.pth")
    fields = {**CE, "student": "fcn_resnet50", "student_checkpoint": str(tmp_path / "fcn.pth")}
    data = open_masks(CE["data"])
    with pytest.raises(ValueError, match="has a head of 21 classes, the model has 5"):
        make_task(make_recipe(fields)).student(make_recipe(fields), data)
    recipe = make_recipe({**fields, "new_head": True})
    state = make_task(recipe).student(recipe, data).model.state_dict()
    theirs = published.state_dict()
    head = {"classifier.4.weight", "classifier.4.bias"}
    assert head < set(state)
    assert all(torch.equal(value, theirs[name]) for name, value in state.items() if name not in head)
    with pytest.raises(ValueError, match=r"pretrained: .*no weights are fetched; student_checkpoint takes a file"):
        make_recipe({**CE, "pretrained": True})


def as_files(root, part, split, order):
    """A split as files, its classes in another order: index i of the data is `order.index(i)` in them."""
    labels = np.full(256, 255, np.uint8)
    labels[list(order)] = range(len(order))
    for folder in ("images", "masks"):
        (root / part / folder).mkdir(parents=True)
    for place, name in enumerate(split.names):
        image, mask = split.read(place)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / part / "images" / f"{name}.png")
        Image.fromarray(labels[mask.numpy()]).save(root / part / "masks" / f"{name}.png")
    names = [shapes.CLASSES[index] for index in order]
    (root / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def test_files_with_their_classes_in_another_order_give_the_same_figures(teacher, tmp_path):
    data = open_masks("shapes:train=32,val=12")
    as_files(tmp_path / "masks", "val", data.val, (3, 0, 4, 1, 2))
    figures = pldistill.evaluate(teacher, data=f"masks:{tmp_path / 'masks'}", device="cpu")
    assert figures["miou"] == pytest.approx(teacher.result["miou_last"])
    assert figures["images"] == 12
    (tmp_path / "masks" / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(ValueError, match="unknown class 'a'"):
        pldistill.evaluate(teacher, data=f"masks:{tmp_path / 'masks'}", device="cpu")


def test_a_class_that_no_pixel_is_of_is_named_and_left_out(tmp_path):
    """Trained on files whose masks call crosses no class; `cross` is a name all the same."""
    data = open_masks("shapes:train=16,val=6")
    for part, split in (("train", data.train), ("val", data.val)):
        as_files(tmp_path / "masks", part, split, (0, 1, 2, 3))
    (tmp_path / "masks" / "classes.txt").write_text("\n".join(shapes.CLASSES), encoding="utf-8")
    recipe = make_recipe({**CE, "data": f"masks:{tmp_path / 'masks'}", "epochs": 1})
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    per_class = run.result["per_class"]
    assert run.result["absent_classes"] == ["cross"]
    assert per_class.pop("cross") is None
    assert run.result["miou_last"] == pytest.approx(sum(per_class.values()) / 4)
    assert "no pixel of val is of 1 of the 5 classes: cross" in pldistill.evaluate(run, device="cpu")["notes"][-1]
