"""A BatchNorm behind global pooling cannot train on one image: refused before the first step, or never met."""

import pytest
import torch

import pldistill
from pldistill import models
from pldistill.models import NormalizedModel
from pldistill.recipe import make_recipe
from pldistill.training.single_images import check_single_images, single_value_layer

ONE = {"student": "resnet18", "method": "ce", "epochs": 1, "image_size": 8, "amp": "off"}  # 8 / 32 pixels: one


def student(name, size):
    model = models.build(name, num_classes=10, image_size=size)
    return NormalizedModel(model, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_the_layer_is_found_and_nothing_moves():
    model = student("resnet18", 8)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    layer = single_value_layer(model, 8)
    assert layer == "layer2.0.bn1"
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel"):  # what torch would say in the run
        model.train()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("resnet8", 8), ("test_vit", 32)])
def test_a_model_that_can_train_on_one_image_has_no_such_layer(name, size):
    assert single_value_layer(student(name, size), size) is None


def test_it_is_refused_before_the_run_has_a_folder(tmp_path):
    recipe = make_recipe({"data": "glyphs:train=100,val=100", **ONE, "batch_size": 1})
    with pytest.raises(ValueError, match=r"batch_size: expected at least 2, for the student's BatchNorm '.*, got 1$"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_too_few_images_are_refused_and_two_are_not():
    with pytest.raises(
        ValueError, match=r"data: expected two training images for each process, .*, got 1 in the small"
    ):
        check_single_images(student("resnet18", 8), 8, 128, 1)
    check_single_images(student("resnet18", 8), 8, 128, 2)
    check_single_images(student("resnet18", 64), 64, 1, 1)


def test_a_last_batch_of_one_joins_the_one_before_it(tmp_path):
    recipe = make_recipe({"data": "glyphs:train=101,val=100", **ONE, "batch_size": 50})  # 101 = 2 * 50 + 1
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert run.result["epochs"] == 1
