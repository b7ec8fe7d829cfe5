"""Detectors by name: their size, their parts, what they refuse; there and back through a folder or a file."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers.norm_act import FrozenBatchNormAct2d, GroupNormAct
from torch import nn
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import to_tensor

from pldistill.models import count_parameters
from pldistill.tasks.detection.backbones import build_backbone
from pldistill.tasks.detection.faster_rcnn import build_detector
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.predict import detect
from pldistill.tasks.detection.weights import (
    PUBLISHED,
    from_checkpoint,
    load_detector,
    published,
    read_shape,
    save_detector,
)
from tiny_detectors import NET, SMALL, detector, scenes

COCO = PUBLISHED["resnet50.coco_v1"]
OPTIONS = DetectionOptions(**SMALL)
NAMES = {"architecture": NET, "classes": ("a", "b", "c"), "category_ids": (1, 2, 3), "image_size": 96, "max_side": 200}


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 28.73), ("resnet50", 41.76), ("resnet101", 60.70)])
def test_detectors_have_the_published_number_of_parameters(name, millions):
    """As torchvision counts them: frozen statistics and scales are no parameters."""
    with torch.device("meta"):
        model = build_detector(name, columns=91, options=DetectionOptions(norm="frozen"))
        assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.005)
        if name == "resnet50":
            theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
            ours = build_detector(name, columns=91, options=DetectionOptions())
            assert {key: value.shape for key, value in ours.state_dict().items()} == {
                key: value.shape for key, value in theirs.state_dict().items()
            }


def test_the_bodies_maps_are_torchvisions_at_strides_4_to_32():
    image = torch.randn(1, 3, 64, 96)
    for name, whole, stages in (
        ("resnet18", resnet18, ("layer1", "layer2", "layer3", "layer4")),
        ("mobilenet_v2", mobilenet_v2, ("features.3", "features.6", "features.13", "features.17")),
    ):
        torch.manual_seed(0)
        body = build_backbone(name, pretrained=False, norm="batch")
        torch.manual_seed(0)
        model, heard = whole(), []
        for stage in stages:
            model.get_submodule(stage).register_forward_hook(lambda module, given, out, heard=heard: heard.append(out))
        model.eval()(image)
        maps = body.model.eval()(image)
        assert [each.shape[1] for each in maps] == body.channels
        assert [each.shape[3] for each in maps] == [24, 12, 6, 3]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, heard, strict=True))
    assert body.channels == [24, 32, 96, 320]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_timms_bodies_have_the_same_strides(name):
    body = build_backbone(name, pretrained=False, norm="batch")
    with torch.no_grad():
        maps = body.model.eval()(torch.randn(1, 3, 64, 96))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, 64 // stride, 96 // stride) for channels, stride in zip(body.channels, (4, 8, 16, 32), strict=True)
    ]
    shares = []
    for trainable in range(6):
        body.freeze(trainable)
        shares.append(sum(parameter.numel() for parameter in body.model.parameters() if parameter.requires_grad))
    assert shares[0] == 0
    assert sorted(set(shares)) == shares
    assert shares[5] == sum(parameter.numel() for parameter in body.model.parameters())


@pytest.mark.parametrize("trainable", range(6))
def test_the_first_parts_are_frozen(trainable):
    body = build_backbone("resnet18", pretrained=False, norm="batch")
    body.freeze(trainable)
    learns = {name for name, part in body.model.items() if any(each.requires_grad for each in part.parameters())}
    assert learns == set(["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable]) | (
        {"bn1"} if trainable == 5 else set()
    )


def test_norms():
    frozen, *_ = build_backbone("resnet18", pretrained=False, norm="frozen")
    grouped, *_ = build_backbone("mobilenet_v2", pretrained=False, norm="group")
    timms, *_ = build_backbone("test_resnet", pretrained=False, norm="frozen")
    others, *_ = build_backbone("test_efficientnet", pretrained=False, norm="group")
    assert not any(
        isinstance(layer, nn.BatchNorm2d) for model in (frozen, grouped, timms, others) for layer in model.modules()
    )
    assert any(isinstance(layer, FrozenBatchNorm2d | FrozenBatchNormAct2d) for layer in frozen.modules())
    groups = {layer.num_channels: layer.num_groups for layer in grouped.modules() if isinstance(layer, nn.GroupNorm)}
    assert (groups[24], groups[16], groups[144], groups[320]) == (8, 16, 16, 32)
    assert any(isinstance(layer, GroupNormAct) for layer in others.modules())
    torch.manual_seed(0)
    plain, *_ = build_backbone("test_efficientnet", pretrained=False, norm="batch")
    torch.manual_seed(0)
    fixed, *_ = build_backbone("test_efficientnet", pretrained=False, norm="frozen")
    image = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(plain.eval()(image), fixed.eval()(image), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "unknown backbone 'resnet19'; did you mean resnet18"),
        ("resnet18.coco", "unknown weights of backbone resnet18: 'resnet18.coco'; "),
        ("vit_small_patch16_224", "expected a model that takes images of any size"),
        ("resnet8", "expected maps at strides 4, 8, 16 and 32, got"),
    ],
)
def test_other_bodies_are_refused(name, says):
    with pytest.raises(ValueError, match=says):
        build_backbone(name, pretrained=False, norm="batch")


def test_weights_that_cannot_be_fetched_are_a_plain_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", refuse)
    monkeypatch.setattr("timm.create_model", refuse)
    for name in ("resnet18", "test_resnet.r160_in1k"):
        with pytest.raises(
            ValueError, match=f"the weights of '{name}' are not on this machine and could not be fetched"
        ):
            build_backbone(name, pretrained=True, norm="batch")
    with pytest.raises(ValueError, match="task option norm: expected batch or frozen with pretrained weights"):
        build_backbone("resnet18", pretrained=True, norm="group")


def test_a_detector_comes_back_from_its_folder(tmp_path):
    model = detector(columns=4).eval()
    save_detector(model, tmp_path, **NAMES, options=OPTIONS)
    state = torch.get_rng_state()
    loaded = load_detector(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert (loaded.architecture, loaded.classes, loaded.category_ids) == (NET, ("a", "b", "c"), (1, 2, 3))
    assert (loaded.image_size, loaded.max_side) == (96, 200)
    batch = scenes()
    with torch.no_grad():
        for ours, theirs in zip(model.detect(batch.images), loaded.model.detect(batch.images), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes)
            assert torch.equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("size", [(96, 96), (50, 33), (210, 400)])
def test_torchvisions_call_of_a_loaded_detector_finds_what_predict_finds(tmp_path, size):
    """Resized and normalized as the run did: by its own sides and statistics, not torchvision's 800 and 1333."""
    options = DetectionOptions(**{**SMALL, "score_threshold": 0.0})
    model = detector(options={"score_threshold": 0.0}, mean=(0.1, 0.4, 0.6), std=(0.2, 0.3, 0.5))
    save_detector(model, tmp_path, **NAMES, options=options)
    pixels = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    (predicted,) = detect(tmp_path, [tmp_path / "image.png"])
    network = load_detector(tmp_path).model.model
    (found,) = network([to_tensor(Image.open(tmp_path / "image.png"))])
    order = found["scores"].argsort(descending=True, stable=True)
    assert len(predicted) == len(order) > 5
    boxes = torch.tensor([row["box"] for row in predicted])
    torch.testing.assert_close(found["boxes"][order], boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["scores"][order], torch.tensor([row["score"] for row in predicted]))
    assert ["abc"[label - 1] for label in found["labels"][order]] == [row["class"] for row in predicted]
    with pytest.raises(TypeError, match=r"images: expected floating-point pixels in \[0, 1\], got torch.uint8"):
        network([pixels])


def test_torchvisions_call_trains_a_loaded_detector_on_boxes_that_go_with_their_images(tmp_path):
    save_detector(detector(), tmp_path, **NAMES, options=OPTIONS)
    network = load_detector(tmp_path).model.model
    given = {"boxes": torch.tensor([[10.0, 20.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
    images, (shown,) = network.transform([torch.rand(3, 48, 64)], [given])
    assert images.image_sizes == [(96, 128)]
    assert shown["boxes"].tolist() == [[20, 40, 60, 80]]
    losses = network.train()([torch.rand(3, 48, 64)], [given])
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("side", [16, 33, 66])
def test_what_is_said_of_an_image_does_not_depend_on_the_images_before(side):
    """Not on one that is padded by half, whose maps seem to be at other strides."""
    batch = scenes(regions=(torch.tensor([[3.0, 4, 50, 60]]), torch.tensor([[20.0, 30, 60, 60]])))
    fresh, used = detector().eval(), detector().eval()
    with torch.no_grad():
        used.detect([torch.zeros(3, side, side, dtype=torch.uint8)])
        assert torch.equal(used.answer(batch).logits, fresh.answer(batch).logits)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no detector's folder: config\.json is missing"):
        load_detector(tmp_path)
    save_detector(detector(), tmp_path, **NAMES, options=OPTIONS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "task": None}))
    with pytest.raises(ValueError, match="holds a classifier"):
        load_detector(tmp_path)


DAMAGED = [
    (lambda it: it.pop("mean"), "mean: expected a value, got none"),
    (lambda it: it.update(mean=[0, 0]), "mean.2: expected a value, got none"),
    (lambda it: it.update(std=[1, 1, 0]), "std.2: expected"),
    (lambda it: it.update(std=[1, 1, "1"]), "std.2: expected"),
    (lambda it: it.update(mean=[0, 0, float("nan")]), "mean.2: expected"),
    (lambda it: it.update(width="4"), "width: expected a whole number from 2 to 1,000,000, got '4'"),
    (lambda it: it.update(image_size=0), "image_size: expected a whole number from 1"),
    (lambda it: it.update(label_names="abc"), "label_names: expected input should be a valid"),
    (lambda it: it.update(label_names=["a"]), "category_ids: expected 1 for 1 classes, got 3"),
    (lambda it: it.update(columns=[0, 1, 2]), "columns: expected 4 for 3 classes, got 3"),
    (lambda it: it.update(columns=[0, 1, 2, 9]), "columns: expected numbers below width, 4, got 9"),
    (lambda it: it.update(architecture="resnet18"), "architecture: expected"),
    (lambda it: it["options"].update(anchor="big"), "options.anchor: expected"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=[message[:30] for _, message in DAMAGED])
def test_a_damaged_config_is_named_by_its_field(tmp_path, change, message):
    save_detector(detector(), tmp_path, **NAMES, options=OPTIONS)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(f"config.json is damaged: {message}")) as caught:
        load_detector(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "[" * 100_000, "\udcff"])
def test_a_config_of_something_else_is_named(tmp_path, text):
    save_detector(detector(), tmp_path, **NAMES, options=OPTIONS)
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json is damaged: "):
        load_detector(tmp_path)


def test_a_file_says_the_shape_of_its_model(tmp_path):
    state = detector(columns=6).model.state_dict()
    older = {
        name.replace("blocks.0.0.", "blocks.0.").replace("conv.0.0.", "conv."): value for name, value in state.items()
    }
    torch.save({"model": older}, tmp_path / "older.pth")
    shape = read_shape(tmp_path / "older.pth")
    assert shape.columns == 6
    assert shape.options == {"norm": "batch", "head_width": 32, "fpn_channels": 16}
    frozen = from_checkpoint(
        "test_resnet", tmp_path / "older.pth", columns=6, options=DetectionOptions(**{**SMALL, "norm": "frozen"})
    )
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in frozen.modules())
    assert all(torch.equal(value, state[name]) for name, value in frozen.state_dict().items())
    with pytest.raises(
        ValueError, match=r"expected a model of norm batch, head_width 64, .*, got one of norm batch, head_width 32"
    ):
        from_checkpoint(
            "test_resnet", tmp_path / "older.pth", columns=6, options=DetectionOptions(**{**SMALL, "head_width": 64})
        )
    with pytest.raises(ValueError, match="has a head of 6 classes, the model has 4"):
        from_checkpoint("test_resnet", tmp_path / "older.pth", columns=4, options=OPTIONS)
    fresh = from_checkpoint("test_resnet", tmp_path / "older.pth", columns=4, options=OPTIONS, new_head=True)
    body = "backbone.body.conv1.0.weight"
    assert torch.equal(fresh.state_dict()[body], state[body])
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is none of a Faster R-CNN with a feature pyramid"):
        read_shape(tmp_path / "other.safetensors")


def test_torchvisions_weights_are_put_in_under_their_older_names(monkeypatch):
    torch.manual_seed(0)
    theirs = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), num_classes=91)
    older = {
        re.sub(r"(_blocks\.\d)\.0", r"\1", name).replace("conv.0.0.", "conv."): value
        for name, value in theirs.state_dict().items()
    }
    assert "backbone.fpn.inner_blocks.0.weight" in older
    monkeypatch.setattr(type(COCO), "get_state_dict", lambda self, **options: older)
    ours = published("resnet50.coco_v1", options=DetectionOptions())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    # torchvision sets this for these weights, which were trained without.
    assert {layer.eps for layer in ours.modules() if isinstance(layer, FrozenBatchNorm2d)} == {0.0}
    with pytest.raises(ValueError, match="has a head of 91 classes, the model has 13"):
        published("resnet50.coco_v1", options=DetectionOptions(), columns=13)

    def refuse(self, **options):
        raise OSError("no network")

    monkeypatch.setattr(type(COCO), "get_state_dict", refuse)
    with pytest.raises(ValueError, match=r"the weights of fasterrcnn:resnet50\.coco_v1 are not on this machine"):
        published("resnet50.coco_v1", options=DetectionOptions())


def test_levels_are_named(monkeypatch):
    model = detector()
    model.listen(["fpn1", -1])
    assert model.taps == ("fpn1", "fpn3")
    with pytest.raises(ValueError, match="unknown level 'fpn4'"):
        model.listen(["fpn4"])
