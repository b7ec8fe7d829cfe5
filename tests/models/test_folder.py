"""A saved model is a folder that timm itself reads, bit for bit."""

import json

import pytest
import timm
import torch

from bad_json import NO_OBJECTS
from pldistill import record
from pldistill.models import build, load_folder, save_folder

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
NAMES = ["ant", "bée", "c d"]


def trained(name, **arguments):
    """A model whose running statistics have moved."""
    torch.manual_seed(0)
    model = build(name, num_classes=3, **arguments)
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    return model


def save(model, folder, **changes):
    save_folder(model, folder, **{"classes": NAMES, "mean": MEAN, "std": STD, "image_size": 64} | changes)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet8", None),
        ("wrn_40_1", None),
        ("cifar_mobilenetv2", None),
        ("mobilenetv3_small_050.lamb_in1k", None),
        ("resnet10t", None),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 64),
    ],
)
def test_timm_and_load_folder_give_the_same_model(tmp_path, name, size):
    model = trained(name, image_size=size).eval()
    save(model, tmp_path, extra={"method": "ce"})
    from_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    loaded = load_folder(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(from_timm(x), expected)
        assert torch.equal(loaded.model(x), expected)
    for other in (from_timm, loaded.model):
        state = other.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not loaded.model.training
    assert loaded.architecture == name.partition(".")[0]
    assert (loaded.classes, loaded.mean, loaded.std, loaded.image_size) == (tuple(NAMES), MEAN, STD, 64)
    assert loaded.extra == {"method": "ce"}
    cfg = from_timm.pretrained_cfg
    assert (list(cfg["label_names"]), tuple(cfg["mean"]), tuple(cfg["std"])) == (NAMES, MEAN, STD)
    assert tuple(cfg["input_size"]) == (3, 64, 64)
    assert cfg["num_classes"] == 3


def test_a_model_in_channels_last_is_saved_too(tmp_path):
    model = trained("resnet8").to(memory_format=torch.channels_last)
    save(model, tmp_path)
    state = load_folder(tmp_path).model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_saved_folder_can_be_saved_from_again(tmp_path):
    save(trained("resnet8"), tmp_path / "a")
    first = load_folder(tmp_path / "a")
    save(first.model, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_files_stay_and_none_is_left_over(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    save(trained("resnet8"), tmp_path)
    save(trained("resnet8"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "recipe.json"]


def test_a_save_that_dies_leaves_the_old_weights(tmp_path, monkeypatch):
    save(trained("resnet8"), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def die(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        save(build("resnet8", num_classes=3), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_loading_draws_no_random_number(tmp_path):
    save(trained("resnet8"), tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_folder(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_that_timm_wrote_loads_with_numbers_for_names(tmp_path):
    model = trained("mobilenetv3_small_050").eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = load_folder(tmp_path)
    assert loaded.classes == ("0", "1", "2")
    assert loaded.image_size == 224
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.model(x), model(x))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    save(trained("resnet8"), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=f"is no model folder: {missing} is missing"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match="is no model folder"):
        load_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_a_configuration_that_is_no_object_is_named(tmp_path, kind):
    save(trained("resnet8"), tmp_path)
    (tmp_path / "config.json").write_bytes(NO_OBJECTS[kind][0])
    with pytest.raises(ValueError, match=r"config\.json is damaged or not timm's layout: expected a JSON object"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": 1}, "key architecture: expected a text, got 1"),
        ({"architecture": None}, "key architecture: expected a text, got None"),
        ({"pretrained_cfg": {}}, "key pretrained_cfg.mean: expected a value, got none"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [1, 1, 1], "input_size": [3, 8, 8]}}, "key pretrained_cfg.mean: "),
        (
            {"pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 0, 1], "input_size": [3, 8, 8]}},
            "key pretrained_cfg.std.1: ",
        ),
        ({"pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "input_size": 8}}, "expected a list, got 8"),
        ({"num_classes": 10**15}, "key num_classes: expected less than or equal to 10000000"),
        ({"num_classes": -1}, "key num_classes: expected greater than or equal to 1, got -1"),
        ({"num_classes": 4}, "expected as many label_names as num_classes, got 3 and 4"),
        ({"label_names": "abc"}, "key label_names: expected a list, got 'abc'"),
        ({"label_names": [["a"], "b", "c"]}, "key label_names.0"),
        ({"model_args": [1]}, "key model_args: expected an object, got [1]"),
        ({"model_args": {"nonsense": 3}}, "expected arguments of resnet8, got {'nonsense': 3}: "),
        ({"pldistill": 3}, "key pldistill: expected an object, got 3"),
    ],
)
def test_a_key_of_a_configuration_is_named(tmp_path, change, says):
    save(trained("resnet8"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"config\.json is damaged or not timm's layout[,:]") as error:
        load_folder(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_architecture_and_foreign_weights_are_refused(tmp_path):
    save(trained("resnet8"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, message in (("resnet9", "unknown architecture 'resnet9'"), ("resnet20", "does not fit the model")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": name}))
        with pytest.raises(ValueError, match=message):
            load_folder(tmp_path)


def test_wrong_names_and_foreign_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match="classes has 2 names, the model 3 classes"):
        save(build("resnet8", num_classes=3), tmp_path, classes=["a", "b"])
    with pytest.raises(ValueError, match="built by timm or"):
        save(torch.nn.Linear(2, 3), tmp_path)
    assert not list(tmp_path.iterdir())
