"""A model on images as they are stored: normalization, taps, and what must not happen while listening."""

import copy
import gc
import weakref

import pytest
import timm
import torch
from torch import nn

from cifar_models import TABLE
from pldistill.models import NormalizedModel, build, list_models, probe, resolve_taps, stages

HALF = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}


def draw_images(count=4, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("last", [False, True])
def test_images_are_normalised_with_the_models_own_statistics(last):
    seen = []
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    body.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    images = draw_images(size=4)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    kept = images.clone()
    NormalizedModel(body, **HALF)(images)
    mean, std = (torch.tensor(HALF[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(seen[0], (images.float() / 255 - mean) / std, rtol=1e-6, atol=1e-6)
    assert seen[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert torch.equal(images, kept)


def test_the_state_is_the_models():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[1, "pooled"])
    assert model.state_dict().keys() == {f"model.{name}" for name in model.model.state_dict()}


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 8, 8).byte()]
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\) uint8, got"):
        NormalizedModel(build("resnet8", num_classes=3), **HALF)(images)


@pytest.mark.parametrize("change", [{"mean": (0.5,)}, {"std": (1.0, 1.0)}, {"std": (1.0, 0.0, 1.0)}])
def test_wrong_statistics_are_refused(change):
    with pytest.raises(ValueError, match="mean and std must be three numbers each, std positive"):
        NormalizedModel(build("resnet8", num_classes=3), **HALF | change)


@pytest.mark.parametrize("name", TABLE)
def test_stages_and_pooled_have_the_shapes_of_the_table(name):
    *_, maps, width = TABLE[name]
    model = NormalizedModel(build(name, num_classes=5), **HALF, taps=[*range(len(maps)), -1, "pooled"])
    outputs = probe(model, 32)
    expected = {str(i): (1, channels, size, size) for i, (channels, size) in enumerate(maps)}
    expected |= {"-1": expected[str(len(maps) - 1)], "pooled": (1, width)}
    assert {key: tuple(value.shape) for key, value in outputs.features.items()} == expected
    assert outputs.logits.shape == (1, 5)


def test_what_is_heard_is_what_the_model_computed():
    model = NormalizedModel(
        build("wrn_40_1", num_classes=5), **HALF, taps=["pooled", -1, "block2.layer.0.conv1"]
    ).eval()
    outputs = model(draw_images())
    assert list(outputs.features) == ["pooled", "-1", "block2.layer.0.conv1"]
    inner = model.model
    torch.testing.assert_close(inner.fc(outputs.features["pooled"]), outputs.logits)
    torch.testing.assert_close(inner.relu(inner.bn1(outputs.features["-1"])).mean((2, 3)), outputs.features["pooled"])
    assert outputs.features["-1"].min() < 0
    assert outputs.features["-1"].requires_grad


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("mobilenetv3_small_050", 64, 5),
        ("mobilenetv4_conv_small", 64, 5),
        ("resnet10t", 64, 5),
        ("vit_tiny_patch16_224", 32, 12),
        ("regnety_002", 64, 5),
    ],
)
def test_stages_of_timms_models(name, size, count):
    model = build(name, num_classes=5, image_size=size)
    assert len(stages(model)) == count
    outputs = probe(NormalizedModel(model, **HALF, taps=[*range(count), "pooled"]), size)
    channels = [info["num_chs"] for info in model.feature_info]
    maps = [outputs.features[str(i)] for i in range(count)]
    assert [m.shape[1] if m.ndim == 4 else m.shape[2] for m in maps] == channels
    assert outputs.features["pooled"].shape == (1, model.head_hidden_size)


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        (4, r"tap 4: CifarResNet has 4 stages; stages: 0 = relu, 1 = layer1, 2 = layer2, 3 = layer3; 'pooled'"),
        (-5, "tap -5: CifarResNet has 4 stages"),
        ("layer9", r"no module 'layer9'; did you mean layer[123].*; stages: 0 = relu"),
        ("", "no module ''"),
    ],
)
def test_an_unknown_tap_is_refused_with_the_stages(tap, message):
    model = build("resnet8", num_classes=3)
    with pytest.raises(ValueError, match=message):
        resolve_taps(model, [tap])
    with pytest.raises(ValueError, match=message):
        NormalizedModel(model, **HALF, taps=[0, tap])
    assert hooks(model) == 0


def test_models_without_stages_or_head_say_so():
    with pytest.raises(ValueError, match="Linear has 0 stages; stages: none known"):
        resolve_taps(nn.Linear(1, 1), [0])
    with pytest.raises(ValueError, match="timm names no classifier for Linear"):
        resolve_taps(nn.Linear(1, 1), ["pooled"])


def test_a_probe_moves_nothing():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[0])
    model.model.layer1.eval()  # a frozen part stays frozen
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count = hooks(model)
    probe(model, 32)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks(model) == count


def test_a_size_that_the_model_cannot_take_is_refused():
    model = NormalizedModel(nn.Sequential(nn.AvgPool2d(32), nn.Flatten()), **HALF)
    with pytest.raises(ValueError, match="Sequential cannot take images of 16x16 pixels"):
        probe(model, 16)
    assert model.training


def test_a_tap_that_is_overwritten_in_place_is_refused():
    model = timm.create_model("resnet10t", num_classes=2)  # its activations work in place
    probe(NormalizedModel(model, **HALF, taps=["layer1.0.act1"]), 32)
    with pytest.raises(ValueError, match=r"tap 'layer1\.0\.bn1' is overwritten in place"):
        probe(NormalizedModel(model, **HALF, taps=["layer1.0.bn1"]), 32)


def test_a_tap_that_does_not_run_is_refused():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Flatten(), nn.Flatten()

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="tap 'unused': the module does not run"):
        probe(NormalizedModel(Idle(), **HALF, taps=["unused"]), 8)


def test_no_hook_is_left_after_release():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[0, 1, "pooled"])
    assert hooks(model.model) == 3
    model.release()
    assert hooks(model.model) == 0
    assert not model(draw_images()).features


def test_nothing_heard_is_kept_alive():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[1])
    outputs = model(draw_images())
    heard = weakref.ref(outputs.features["1"])
    del outputs
    gc.collect()
    assert heard() is None
    model.model(torch.randn(1, 3, 32, 32))  # the bare model: nobody listens
    assert not model._recorder.heard


def test_an_error_in_the_model_leaves_no_recording_behind():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[0])
    model.model.fc = nn.Linear(1, 1)
    with pytest.raises(RuntimeError):
        model(draw_images())
    assert not model._recorder.on
    assert not model._recorder.heard


def test_a_copy_listens_to_itself():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[-1]).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layer3[0].bn2.bias.add_(1)
        mine, its = model(draw_images()), other(draw_images())
    assert not torch.equal(mine.features["-1"], its.features["-1"])
    torch.testing.assert_close(
        its.features["-1"].mean((2, 3)) @ other.model.fc.weight.T + other.model.fc.bias, its.logits
    )


def test_two_models_may_listen_to_one_model():
    model = build("resnet8", num_classes=3).eval()
    first, second = NormalizedModel(model, **HALF, taps=[0]), NormalizedModel(model, **HALF, taps=[1])
    assert list(first(draw_images()).features) == ["0"]
    assert list(second(draw_images()).features) == ["1"]


def test_a_compiled_model_is_the_model_without_a_graph_break():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[1, "pooled"])
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        got, expected = compiled(draw_images(seed=seed)), twin(draw_images(seed=seed))
        for a, b in [
            (got.logits, expected.logits),
            *((got.features[k], expected.features[k]) for k in ("1", "pooled")),
        ]:
            torch.testing.assert_close(a, b)
        for outputs in (got, expected):
            (outputs.logits.square().sum() + outputs.features["1"].sum()).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_bfloat16_and_channels_last_train():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[-1]).to(memory_format=torch.channels_last)
    images = draw_images().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(images)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.features["-1"].is_contiguous(memory_format=torch.channels_last)
    outputs.logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_every_model_of_ours_has_stages_and_a_pooled_feature():
    for name in list_models():
        if name in ("cifar_resnet50", "resnet32x4"):
            continue  # in the table above
        assert set(resolve_taps(build(name, num_classes=2), [0, -1, "pooled"])) == {"0", "-1", "pooled"}


def test_a_model_listens_elsewhere_from_then_on():
    model = NormalizedModel(build("resnet8", num_classes=3), **HALF, taps=[1])
    count = hooks(model)
    model.listen([2, "pooled"])
    assert model.taps == (2, "pooled")
    assert list(model(draw_images()).features) == ["2", "pooled"]
    assert hooks(model) == count + 1
    with pytest.raises(ValueError, match="tap 'nowhere'"):
        model.listen([0, "nowhere"])
    assert list(model(draw_images()).features) == ["2", "pooled"]
    model.listen([])
    assert not model(draw_images()).features
    assert hooks(model) == 0
