"""Models by name, published weights, heads that fit or are refused."""

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from pldistill.models import build, list_models, pretrained_statistics, require_tag

TAGGED = "mobilenetv3_small_050.lamb_in1k"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a network and with an empty cache, which is returned."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def downloaded(offline):
    """The same with the weights of TAGGED in the cache, as a download leaves them; returns these weights."""
    torch.manual_seed(5)
    state = timm.create_model(TAGGED, num_classes=1000).state_dict()
    commit = "0" * 40
    repository = offline / f"models--timm--{TAGGED}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    save_file(state, repository / "snapshots" / commit / "model.safetensors")
    return state


@pytest.mark.parametrize("name", ["resnet8", "wrn_40_1", "mobilenetv3_small_050", "mobilenetv3_small_050.lamb_in1k"])
def test_ours_and_timms_are_built_with_the_classes_asked_for(name):
    model = build(name, num_classes=13)
    assert model.num_classes == 13
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 13)


def test_our_names_and_a_filter_of_timms():
    assert "resnet20" in list_models()
    assert "resnet50" not in list_models()
    found = list_models("resnet*0")
    assert found[0] == "resnet20"  # ours first
    assert "resnet50" in found
    assert "wrn_40_1" not in found


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet21", "resnet20"), ("wrn_40", "wrn_40_1"), ("mobilenetv2", "cifar_mobilenetv2"), ("resnet51", "resnet50")],
)
def test_an_unknown_name_is_refused_with_near_names_and_ours(name, near):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; did you mean [^?]*{near}") as error:
        build(name, num_classes=10)
    assert "cifar_resnet50" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_like_nothing_is_refused():
    with pytest.raises(ValueError, match=r"unknown model 'zzz/:qqq'; ours: resnet8"):
        build("zzz/:qqq", num_classes=10)


def test_an_unknown_tag_is_refused_with_the_known():
    with pytest.raises(ValueError, match=r"unknown weights 'a7' of model 'resnet18'; known: .*resnet18\.a1_in1k"):
        build("resnet18.a7", num_classes=10)
    with pytest.raises(ValueError, match=r"unknown weights 'a1' of model 'resnet20'; known: none"):
        build("resnet20.a1", num_classes=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 10, "image_size": 0}, "image_size must be at least 1 pixel, got 0"),
        ({"num_classes": 10, "pretrained": True, "checkpoint": "a.pth"}, "not both"),
        ({"num_classes": 10, "new_head": True}, "new_head=True needs pretrained=True or a checkpoint"),
        (
            {"num_classes": 10, "checkpoint": "nowhere.pth"},
            r"checkpoint: expected a file, got 'nowhere\.pth', which does not exist",
        ),
        ({"num_classes": 10, "pretrained": True}, "'resnet8' has no published weights"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("resnet8", **arguments)


def test_a_pretrained_teacher_names_its_weights():
    require_tag("resnet152.a1_in1k")
    with pytest.raises(ValueError, match=r"must name its weights: .*resnet152\.a1_in1k.*or give a checkpoint"):
        require_tag("resnet152")
    with pytest.raises(ValueError, match="no published weights: give a run folder or a checkpoint"):
        require_tag("resnet20")
    with pytest.raises(ValueError, match="unknown model"):
        require_tag("resnet153.a1_in1k")


def test_a_published_head_that_does_not_fit_is_refused_before_any_download():
    with pytest.raises(ValueError, match=r"head of 1000 classes, not 10; new_head=True"):
        build(TAGGED, num_classes=10, pretrained=True)


def test_published_weights_out_of_reach_are_one_plain_line(offline):
    with pytest.raises(ValueError, match=r"weights of 'mobilenetv3_small_050\.lamb_in1k' are not on this") as error:
        build(TAGGED, num_classes=1000, pretrained=True)
    assert "checkpoint" in str(error.value)
    assert "\n" not in str(error.value)


def test_published_weights_are_loaded(downloaded):
    torch.manual_seed(6)
    model = build(TAGGED, num_classes=1000, pretrained=True)
    assert all(torch.equal(value, downloaded[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_new_head_leaves_the_published_body(downloaded, classes):
    torch.manual_seed(6)
    state = build(TAGGED, num_classes=classes, pretrained=True, new_head=True).state_dict()
    body = [name for name in state if not name.startswith("classifier.")]
    assert all(torch.equal(state[name], downloaded[name]) for name in body)
    assert state["classifier.weight"].shape[0] == classes
    assert not torch.equal(state["classifier.weight"], downloaded["classifier.weight"][:classes])


def test_image_size_shapes_the_models_that_fix_it_and_no_other():
    vit = build("vit_tiny_patch16_224", num_classes=3, image_size=48)
    assert vit.pos_embed.shape[1] == 1 + 9
    assert vit.training
    assert vit.eval()(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    assert build("resnet8", num_classes=3, image_size=48).eval()(torch.zeros(1, 3, 40, 40)).shape == (1, 3)
    with pytest.raises(ValueError, match="'vit_tiny_patch16_224' cannot be built for image_size 7"):
        build("vit_tiny_patch16_224", num_classes=3, image_size=7)


def test_statistics_are_the_ones_the_weights_expect():
    assert pretrained_statistics(build("resnet20", num_classes=2)) == (
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
    )
    vit = build("vit_tiny_patch16_224.augreg_in21k_ft_in1k", num_classes=2, image_size=32)
    assert pretrained_statistics(vit) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"built by timm or pldistill\.models\.build, got Linear"):
        pretrained_statistics(torch.nn.Linear(1, 1))
