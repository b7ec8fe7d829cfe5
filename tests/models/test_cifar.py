"""The CIFAR models against the published tables, the public checkpoints' names, and their definition written out."""

import copy
import json
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from cifar_models import TABLE
from places import SUPPORT
from pldistill.models import build, list_models
from pldistill.models.cifar import Bottleneck, CifarResNet

KEYS = json.loads((SUPPORT / "cifar_state_dicts.json").read_text(encoding="utf-8"))

# parameters, convolutions, BatchNorms, millions of multiply-adds, maps of the stages, pooled width; all at 32x32
SMALL = ["resnet8", "resnet20", "wrn_40_1", "cifar_mobilenetv2"]


class Written:
    """The models written out as functions of a state dict: what conventions and papers say, without modules."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, stride=1, groups=1):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)

    def bn(self, name, x):
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-5) * weight.view(shape) + bias.view(shape)

    def head(self, name, x):
        return F.linear(x.mean((2, 3)), self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def blocks(self, pattern):
        index = 0
        while any(key.startswith(f"{pattern}.{index}.") for key in self.state):
            yield index, f"{pattern}.{index}"
            index += 1

    def resnet(self, x):
        x = F.relu(self.bn("bn1", self.conv("conv1", x)))
        maps = [x]
        for stage in range(1, 5):
            for index, block in self.blocks(f"layer{stage}"):
                stride = 2 if stage > 1 and index == 0 else 1
                deep = f"{block}.conv3.weight" in self.state
                out = F.relu(self.bn(f"{block}.bn1", self.conv(f"{block}.conv1", x, 1 if deep else stride)))
                out = self.bn(f"{block}.bn2", self.conv(f"{block}.conv2", out, stride if deep else 1))
                if deep:
                    out = self.bn(f"{block}.bn3", self.conv(f"{block}.conv3", F.relu(out)))
                for name in ("downsample", "shortcut"):
                    if f"{block}.{name}.0.weight" in self.state:
                        x = self.bn(f"{block}.{name}.1", self.conv(f"{block}.{name}.0", x, stride))
                x = F.relu(out + x)
            if stage < 4 or "layer4.0.conv1.weight" in self.state:
                maps.append(x)
        return maps, self.head("linear" if "linear.weight" in self.state else "fc", x)

    def wrn(self, x):
        x = self.conv("conv1", x)
        maps = [x]
        for stage in (1, 2, 3):
            for index, block in self.blocks(f"block{stage}.layer"):
                stride = 2 if stage > 1 and index == 0 else 1
                activated = F.relu(self.bn(f"{block}.bn1", x))
                out = F.relu(self.bn(f"{block}.bn2", self.conv(f"{block}.conv1", activated, stride)))
                if f"{block}.convShortcut.weight" in self.state:
                    x = self.conv(f"{block}.convShortcut", activated, stride)
                x = x + self.conv(f"{block}.conv2", out)
            maps.append(x)
        return maps, self.head("fc", F.relu(self.bn("bn1", x)))

    def mobilenet(self, x):
        x = F.relu(self.bn("conv1.1", self.conv("conv1.0", x, 2)))
        maps = [x]
        for group, stride in enumerate((1, 1, 2, 2, 1, 2, 1)):
            for index, block in self.blocks(f"blocks.{group}"):
                out = F.relu(self.bn(f"{block}.conv.1", self.conv(f"{block}.conv.0", x)))
                step = stride if index == 0 else 1
                out = F.relu(self.bn(f"{block}.conv.4", self.conv(f"{block}.conv.3", out, step, out.shape[1])))
                out = self.bn(f"{block}.conv.7", self.conv(f"{block}.conv.6", out))
                x = x + out if out.shape == x.shape and step == 1 else out
            if group in (1, 2, 4, 6):
                maps.append(x)
        return maps, self.head("classifier.0", F.relu(self.bn("conv2.1", self.conv("conv2.0", x))))

    def __call__(self, name, x):
        family = {"wrn": self.wrn, "cifar_mobilenetv2": self.mobilenet}
        return family.get("wrn" if name.startswith("wrn") else name, self.resnet)(x)


def lively(model):
    """Give every BatchNorm statistics and weights of its own, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.2, generator=generator)
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model


def test_the_table_and_the_key_file_name_all_models_of_ours():
    assert set(TABLE) | {"resnet8"} == set(list_models())
    assert set(KEYS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_counts_and_multiply_adds_are_the_published_ones(name):
    parameters, convolutions, norms, millions, _, _ = TABLE[name]
    model = timm.create_model(name, num_classes=100).eval()
    modules = list(model.modules())
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d) for m in modules) == convolutions
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == norms

    products = []
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # each output needs one product for each weight of its own row
            per_output = math.prod(module.weight.shape[1:])
            module.register_forward_hook(lambda _m, _i, out, n=per_output: products.append(out.numel() * n))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert sum(products) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", TABLE)
def test_state_dict_has_the_names_shapes_and_order_of_the_public_checkpoints(name):
    state = timm.create_model(name, num_classes=100).state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(KEYS[name].items())


@pytest.mark.parametrize("name", [*TABLE, "resnet8"])
def test_logits_and_stages_are_the_definition_written_out(name):
    model = lively(build(name, num_classes=7)).double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    heard = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _m, _i, out, key=info["module"]: heard.__setitem__(key, out)
        )
    with torch.no_grad():
        logits = model(x)
        maps, expected = Written(model.state_dict())(name, x)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert len(maps) == len(model.feature_info)
    for info, value in zip(model.feature_info, maps, strict=True):
        torch.testing.assert_close(heard[info["module"]], value, rtol=1e-9, atol=1e-9)
        assert info["num_chs"] == value.shape[1]
        assert info["reduction"] == 32 // value.shape[-1]
    if name.startswith("wrn"):
        assert all(value.min() < 0 for value in maps)  # not activated
    elif name.startswith(("resnet", "cifar_resnet")):
        assert all(value.min() == 0 for value in maps)


@pytest.mark.parametrize("name", [*SMALL, "resnet8x4", "wrn_40_2"])
def test_convolutions_and_norms_start_as_the_papers_say(name):
    torch.manual_seed(0)
    model = build(name, num_classes=100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            count = module.weight.numel()
            assert module.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(count)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_heads_start_as_the_originals_and_again_so_after_a_reset(name, reset):
    torch.manual_seed(0)
    model = build(name, num_classes=3 if reset else 200)
    if reset:
        model.reset_classifier(200)
    head = model.get_classifier()
    bound = 1 / math.sqrt(head.in_features)
    if name == "cifar_mobilenetv2":
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    else:
        assert head.weight.abs().max().item() <= bound
        assert head.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.all(head.bias == 0) if not name.startswith("resnet") else head.bias.abs().max() > bound / 2


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_and_image_size_are_free(name):
    model = lively(build(name, num_classes=5)).double().eval()
    last = build(name, num_classes=5).double().eval()
    last.load_state_dict(model.state_dict())
    last.to(memory_format=torch.channels_last)
    for height, width in ((32, 32), (64, 40)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        with torch.no_grad():
            expected = Written(model.state_dict())(name, x)[1]
            torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                last(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("name", list_models())
def test_timm_manners(name):
    cfg = timm.models.get_pretrained_cfg(name)
    assert (cfg.architecture, cfg.input_size, cfg.num_classes) == (name, (3, 32, 32), 100)
    assert timm.is_model(name)
    assert not timm.models.is_model_pretrained(name)
    if name != "cifar_resnet50":
        assert timm.create_model(name, in_chans=1).in_chans == 1
    if name in ("cifar_resnet50", "resnet32x4"):
        return  # the rest is the same code, only slower
    model = timm.create_model(name, num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        maps = model.forward_features(x)
        pooled = model.forward_head(maps, pre_logits=True)
        assert maps.shape[1] == model.num_features == model.head_hidden_size
        torch.testing.assert_close(pooled, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
        assert torch.equal(model.forward_head(maps), model(x))
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), maps)
        with pytest.raises(ValueError, match="needs pooled maps"):
            model.reset_classifier(3, "")
        body = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
        assert [value.shape[1] for value in body(x)] == body.feature_info.channels()


@pytest.mark.parametrize("name", [*SMALL, "bottlenecks"])
def test_activations_in_place_change_no_bit(name):
    if name == "bottlenecks":
        model = CifarResNet(Bottleneck, (1, 1), (4, 4, 8), num_classes=3)
    else:
        model = build(name, num_classes=3)
    kept = copy.deepcopy(model)
    for module in kept.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    images = torch.randn(2, 3, 16, 16)
    logits, expected = model(images), kept(images)
    logits.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(logits, expected)
    for ours, theirs in zip(model.parameters(), kept.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert all(map(torch.equal, model.buffers(), kept.buffers()))
    with torch.no_grad():
        assert torch.equal(model.eval()(images), kept.eval()(images))
