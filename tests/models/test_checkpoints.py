"""Checkpoints as people have them, written here byte for byte in their layouts; and those that must be refused."""

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from bad_json import NO_OBJECTS
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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1234\n" % (b"0" * 64)
PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected weights, got an empty file"),
        (POINTER, "expected weights, got a Git LFS pointer; `git lfs pull` fetches the file"),
        (PAGE, "expected weights, got an HTML page"),
        (b"<html>404</html>", "expected weights, got an HTML page"),
        (b"x", "(not a readable|was refused)"),
        (b"\xff" * 4096, "(not a readable|was refused)"),
        (b"{}" * 400, "(not a readable|was refused)"),
    ],
)
def test_what_is_saved_in_place_of_weights_is_named(tmp_path, suffix, content, says):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"checkpoint .*a\.{suffix}.* {says}") as error:
        load_weights(fresh(2), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b"null", b'{"a": 3}', b"[" * 100_000, b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": 1}}'],
)
def test_a_damaged_header_of_safetensors_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a readable safetensors file: ") as error:
        load_weights(fresh(2), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_named(tmp_path, source, zipped):
    path = tmp_path / "a.pth"
    torch.save(source, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds a pickled model, not weights: save its state_dict\(\)") as error:
        load_weights(fresh(2), path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_script_is_refused_in_a_line(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(ValueError, match=r"a\.pt: expected weights, got a TorchScript archive") as error:
        load_weights(fresh(2), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (
            "https://example.org/resnet8.pth",
            "got the address 'https://example.org/resnet8.pth': nothing is downloaded",
        ),
        ("fifo.pth", "which is a FIFO"),
        ("nowhere.pth", "which does not exist"),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, monkeypatch, address, says):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.pth")
    with pytest.raises(ValueError, match=rf"checkpoint: expected a file, .*{says}"):
        load_weights(fresh(2), address)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_the_counters_of_batchnorm_loads(tmp_path, layout):
    """As torch before 0.4.1 wrote it; the model's counters stay, as with `load_state_dict`."""
    source, model = fresh(1), fresh(2)
    source.bn1.num_batches_tracked.fill_(5)
    old = {name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(LAYOUTS[layout](old), tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert same(model, {**model.state_dict(), **old})
    assert model.bn1.num_batches_tracked == 0
    del old["bn1.running_mean"]
    torch.save(old, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="2 missing"):
        load_weights(model, tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_position_embeddings_of_another_image_size_are_resampled_as_timm_does(tmp_path, caplog, name):
    source = timm.create_model(name, num_classes=10, img_size=96)
    torch.save({"model": prefixed(source.state_dict(), "module.")}, tmp_path / "a.pth")
    model = build(name, num_classes=10, image_size=64, checkpoint=tmp_path / "a.pth")
    expected = checkpoint_filter_fn(source.state_dict(), model)
    assert expected["pos_embed"].shape != source.pos_embed.shape
    assert same(model, expected)
    (line,) = caplog.messages
    assert f"checkpoint {tmp_path / 'a.pth'}: 1 position embedding of another image size resampled (pos_embed: " in line
    caplog.clear()
    build(name, num_classes=10, image_size=96, checkpoint=tmp_path / "a.pth")
    assert not caplog.messages


def test_a_position_embedding_of_another_width_is_refused(tmp_path):
    source = timm.create_model("test_vit", num_classes=10, img_size=96).state_dict()
    torch.save({**source, "pos_embed": torch.ones(1, 37, 5)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"of another shape \(pos_embed"):
        build("test_vit", num_classes=10, image_size=64, checkpoint=tmp_path / "a.pth")


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_a_configuration_that_is_no_object_is_named(tmp_path, source, kind):
    save_folder(source, tmp_path, classes="abcdefghij", mean=(0.5,) * 3, std=(0.2,) * 3, image_size=32)
    (tmp_path / "config.json").write_bytes(NO_OBJECTS[kind][0])
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object, got ") as error:
        load_weights(fresh(2), tmp_path)
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
