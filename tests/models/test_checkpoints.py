"""Checkpoints as people have them, written here byte for byte in their layouts; and those that must be refused."""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pldistill.models import build, load_weights, save_folder
from pldistill.models.checkpoints import NUMBERS


def fresh(seed, classes=10, name="resnet8"):
    torch.manual_seed(seed)
    model = build(name, num_classes=classes)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def source():
    return fresh(1)


def same(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def options():
    return argparse.Namespace(model_s="resnet8", lr=0.05, decay=[150, 180], trial="1", nested=argparse.Namespace(t=4))


LAYOUTS = {
    "plain": lambda s: s,
    "library of 2020": lambda s: {"opt": options(), "model": s, "accuracy": np.float64(75.61), "epoch": 240},
    "library of 2022": lambda s: {
        "epoch": 240,
        "model": prefixed(s, "module."),
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": []},
        "best_acc": np.float32(76.5),
    },
    "whole distiller": lambda s: {
        "model": prefixed(s, "module.student.")
        | prefixed({k: v + 1 for k, v in s.items()}, "module.teacher.")
        | {"module.connector.weight": torch.ones(3)}
    },
    "state_dict": lambda s: {"state_dict": s, "arch": "resnet8", "step": np.int64(3)},
    "averaged first": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
    "averaged absent": lambda s: {"state_dict": s, "state_dict_ema": None},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in parallel": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "student": lambda s: prefixed(s, "student.") | {"method.scale": torch.ones(1)},
    "compiled student in a model": lambda s: prefixed(s, "student._orig_mod.model."),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_files_load_whole(tmp_path, source, layout, zipped):
    path = tmp_path / "model.pth"
    torch.save(LAYOUTS[layout](source.state_dict()), path, _use_new_zipfile_serialization=zipped)
    model = fresh(2)
    load_weights(model, path)
    assert same(model, source.state_dict())


@pytest.mark.parametrize("layout", ["plain", "compiled", "student"])
def test_safetensors_load_whole(tmp_path, source, layout):
    path = tmp_path / "model.safetensors"
    save_file(dict(LAYOUTS[layout](source.state_dict())), path)
    model = build("resnet8", num_classes=10, checkpoint=path)
    assert same(model, source.state_dict())


def test_a_run_folder_loads_and_another_architecture_is_refused(tmp_path, source):
    save_folder(source, tmp_path, classes="abcdefghij", mean=(0.5,) * 3, std=(0.2,) * 3, image_size=32)
    assert same(build("resnet8", num_classes=10, checkpoint=tmp_path), source.state_dict())
    with pytest.raises(ValueError, match="holds a resnet8, expected a resnet20"):
        build("resnet20", num_classes=10, checkpoint=tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        build("resnet8", num_classes=10, checkpoint=tmp_path)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_numpy_numbers_of_either_major_version_are_let_through(tmp_path, monkeypatch, source, module, dtype):
    path = tmp_path / "model.pth"

    class Scalar(pickle._Pickler):
        """Names NumPy's scalar as the other major version of NumPy would."""

        def save_global(self, obj, name=None):
            if getattr(obj, "__name__", "") == "scalar":
                self.write(b"c" + module.encode() + b"\nscalar\n")
                return self.memoize(obj)
            return super().save_global(obj, name)

        dispatch = pickle._Pickler.dispatch | {type(np.dtype): save_global}

    fake = argparse.Namespace(**vars(pickle))
    fake.Pickler = Scalar
    torch.save({"model": source.state_dict(), "best": dtype.type(1)}, path, pickle_module=fake)
    assert module.encode() in path.read_bytes()
    model = fresh(2)
    load_weights(model, path)
    assert same(model, source.state_dict())


class Evil:
    """A pickle that would create a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, source, zipped):
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    torch.save({"model": source.state_dict(), "opt": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    model = fresh(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"evil\.pth was refused: .*Unsupported global: GLOBAL (builtins\.)?(getattr|pathlib)"
    ) as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    assert not mark.exists()
    assert same(model, before)


def test_numpy_objects_are_refused(tmp_path, source):
    class Text:
        """A dtype without the state that NumPy adds, which alone would be refused already."""

        def __reduce__(self):
            return np.dtype, ("S3",)

    class Wrapped:
        def __reduce__(self):
            return np.float64(1).__reduce__()[0], (Text(), b"abc")

    path = tmp_path / "model.pth"
    torch.save({"model": source.state_dict(), "best": Wrapped()}, path)
    with pytest.raises(ValueError, match=r"refused: .*NumPy scalar of type \|S3"):
        load_weights(fresh(2), path)


def test_nothing_stays_allowed_after_loading(tmp_path, source):
    path = tmp_path / "model.pth"
    torch.save(LAYOUTS["library of 2020"](source.state_dict()), path)
    load_weights(fresh(2), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(("name", "content"), [("a.pth", b"<html>404</html>"), ("a.pth", b""), ("a.safetensors", b"x")])
def test_a_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name[:3]}.* (not a readable|refused)") as error:
        load_weights(fresh(2), tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_cut_off_file_is_refused(tmp_path, source):
    path = tmp_path / "a.pth"
    torch.save(source.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable torch file"):
        load_weights(fresh(2), path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.ones(2), {"model": {"lr": 1.0}}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(fresh(2), path)


@pytest.mark.parametrize("name", ["resnet8", "wrn_40_1", "cifar_mobilenetv2", "mobilenetv3_small_050"])
def test_a_head_of_another_size_is_refused_unless_a_new_one_is_wished(tmp_path, name):
    teacher = fresh(1, 100, name)
    path = tmp_path / "model.pth"
    torch.save(teacher.state_dict(), path)
    model = fresh(2, 10, name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"head of 100 classes, the model has 10; new_head=True"):
        load_weights(model, path)
    assert same(model, before)
    load_weights(model, path, new_head=True)
    after, loaded = model.state_dict(), teacher.state_dict()
    head = tuple(f"{model.pretrained_cfg['classifier']}.{part}" for part in ("weight", "bias"))
    assert all(torch.equal(after[key], (before if key in head else loaded)[key]) for key in after)


def test_a_new_head_is_new_even_where_the_old_one_fits(tmp_path, source):
    path = tmp_path / "model.pth"
    torch.save(source.state_dict(), path)
    torch.manual_seed(3)
    model = build("resnet8", num_classes=10, checkpoint=path, new_head=True)
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    assert not torch.equal(model.fc.weight, source.fc.weight)


def test_names_and_shapes_that_differ_are_shown(tmp_path, source):
    state = source.state_dict()
    state["extra.weight"] = torch.ones(1)
    del state["layer1.0.bn1.running_mean"]
    state["conv1.weight"] = torch.ones(8, 3, 3, 3)
    path = tmp_path / "model.pth"
    torch.save(state, path)
    model = fresh(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_weights(model, path)
    message = str(error.value)
    assert "1 missing (layer1.0.bn1.running_mean)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 of another shape (conv1.weight (8, 3, 3, 3), expected (16, 3, 3, 3))" in message
    assert same(model, before)


def test_many_differences_are_cut_short(tmp_path, source):
    path = tmp_path / "model.pth"
    torch.save(source.state_dict(), path)
    with pytest.raises(ValueError, match=r"72 missing \(layer1\.1\.conv1\.weight; [^;]*; [^;]*; \.\.\.\)"):
        load_weights(build("resnet20", num_classes=10), path)


def test_a_timm_training_checkpoint_loads(tmp_path):
    source = timm.create_model("mobilenetv3_small_050", num_classes=4)
    path = tmp_path / "model_best.pth.tar"
    torch.save({"arch": "x", "state_dict": source.state_dict(), "args": options(), "metric": 71.2}, path)
    assert same(build("mobilenetv3_small_050", num_classes=4, checkpoint=path), source.state_dict())
