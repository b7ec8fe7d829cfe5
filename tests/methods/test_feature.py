"""Feature methods on real pairs of models: taps, adapters that fit and train, a teacher that nothing moves."""

import json

import pytest
import torch
from safetensors.torch import load_file

import pldistill
from pldistill.launch import Interrupted
from pldistill.losses import cwd
from pldistill.methods import METHODS
from pldistill.models import NormalizedModel, build, probe, stages
from pldistill.recipe import make_recipe
from pldistill.tasks.classification.task import Classification
from pldistill.teachers.live import LiveTeacher
from pldistill.training import checkpoint
from pldistill.training.distiller import Distiller
from pldistill.training.loop import Loop
from pldistill.types import Batch, Outputs
from tiny_runs import StopAt, assert_same_run

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
KEYS = [key for key, spec in METHODS.items() if spec.taps is not None]
PAIRS = [
    ("wrn_40_2", "wrn_40_1", 32),
    ("resnet56", "resnet20", 32),
    ("resnet32x4", "resnet8x4", 32),
    ("cifar_resnet50", "cifar_mobilenetv2", 32),
    ("resnet10t", "mobilenetv3_small_050", 64),
]
every_method = pytest.mark.parametrize("key", KEYS)


def model(name, size=32):
    return NormalizedModel(build(name, num_classes=5, image_size=size), **HALF)


def tapped(key, student, teacher, size=32, **options):
    """Build a method for two models as a run does."""
    spec = METHODS[key]
    options = spec.complete_options(options)
    for one, taps in zip(
        (student, teacher), spec.taps(stages(student.model), stages(teacher.model), options), strict=True
    ):
        one.listen(taps)
    return spec.build(probe(student, size), probe(teacher, size), **options)


def batch(count=4, size=32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch(images, torch.arange(count) % 5, torch.arange(count), view=0)


def weights(key):
    return {term: float(weight) for term, weight in METHODS[key].weights.items()}


def test_these_are_the_methods_of_features():
    assert KEYS == ["at", "fitnet", "dhkd", "cwd", "pkt", "rkd", "sp", "vid"]
    assert [key for key in KEYS if METHODS[key].couples_batch] == ["pkt", "rkd", "sp"]
    expected = {"at": 1000, "fitnet": 100, "dhkd": 1, "cwd": 3, "pkt": 30000, "rkd": 1, "sp": 3000, "vid": 1}
    assert {key: METHODS[key].weights for key in KEYS} == {key: {"task": 1, key: expected[key]} for key in KEYS}


pair = pytest.mark.parametrize(("teacher", "student", "size"), PAIRS, ids=[f"{t}-{s}" for t, s, _ in PAIRS])


@pair
def test_every_method_fits_every_pair(teacher, student, size):
    torch.manual_seed(0)
    ours, theirs = model(student, size), LiveTeacher(model(teacher, size))
    before = theirs.fingerprint()
    for key in KEYS:
        distiller = Distiller(ours, tapped(key, ours, theirs.model, size), Classification(0.0))
        distiller.zero_grad()
        step = distiller(batch(3, size), theirs, weights(key))
        assert set(step.raw) == {"task", key}
        assert step.raw[key].shape == ()
        (step.loss - step.weighted["task"]).backward()
        grads = [parameter.grad for parameter in distiller.parameters() if parameter.grad is not None]
        assert torch.isfinite(step.loss), key
        assert all(torch.isfinite(grad).all() for grad in grads), key
        assert any(grad.abs().max() > 0 for grad in grads), key
    assert theirs.fingerprint() == before


@every_method
def test_every_parameter_gets_a_gradient_and_moves(key):
    torch.manual_seed(0)
    student, teacher = model("resnet8"), LiveTeacher(model("wrn_40_1"))
    distiller = Distiller(student, tapped(key, student, teacher.model), Classification(0.0)).train()
    before = {name: parameter.detach().clone() for name, parameter in distiller.named_parameters()}
    assert sum(name.startswith("method.") for name in before) == {"fitnet": 4, "vid": 12, "dhkd": 2}.get(key, 0)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, weight_decay=5e-4)
    distiller(batch(), teacher, weights(key)).loss.backward()
    optimizer.step()
    for name, parameter in distiller.named_parameters():
        assert parameter.grad is not None, name
        if name != "method.regressor.0.bias":  # the normalization after it takes it off again
            assert parameter.grad.abs().max() > 0, name
        assert not torch.equal(parameter, before[name]), name


@every_method
def test_probing_and_building_move_nothing_in_either_model(key):
    student, teacher = model("resnet8").train(), model("wrn_40_1").train()
    before = [{name: value.clone() for name, value in one.model.state_dict().items()} for one in (student, teacher)]
    tapped(key, student, teacher)
    for one, state in zip((student, teacher), before, strict=True):
        assert one.training
        assert one.model.training
        assert all(torch.equal(value, state[name]) for name, value in one.model.state_dict().items())


def places(key, student, teacher, **options):
    spec = METHODS[key]
    return [list(taps) for taps in spec.taps(student, teacher, spec.complete_options(options))]


def test_taps_are_the_originals():
    four, five = ["stem", "a", "b", "c"], ["stem", "a", "b", "c", "d"]
    for key in ("at", "vid"):
        assert places(key, four, four) == [[-3, -2, -1]] * 2
        assert places(key, four, five) == places(key, five, four) == [[-3, -2, -1]] * 2
        assert places(key, five, five) == [[-4, -3, -2, -1]] * 2
    assert places("fitnet", four, four) == places("fitnet", four, five) == [[2 - 4]] * 2
    assert places("fitnet", five, five) == [[2 - 5]] * 2
    assert places("fitnet", five, five, layer=0) == [[-5]] * 2
    assert places("sp", four, five) == [[-1]] * 2
    assert places("pkt", [], five) == places("rkd", [], five) == [["pooled"]] * 2


@pytest.mark.parametrize("key", ["at", "vid", "fitnet", "sp"])
def test_models_without_stages_want_named_places(key):
    with pytest.raises(ValueError, match=r"student stages none, teacher stages stem, a; .*student_taps"):
        places(key, [], ["stem", "a"])
    assert places(key, [], ["stem", "a"], student_taps="x.y", teacher_taps="-1") == [["x.y"], [-1]]


def test_named_places_take_the_defaults_place():
    student, teacher = model("resnet8"), model("wrn_40_1")
    method = tapped("at", student, teacher, student_taps="1, layer2.0", teacher_taps="block1, 2")
    assert list(student(batch().images).features) == ["1", "layer2.0"]
    assert list(teacher(batch().images).features) == ["block1", "2"]
    outputs = student(batch().images), teacher(batch().images)
    pairs = zip(*(answer.features.values() for answer in outputs), strict=True)
    expected = sum(pldistill.losses.attention_transfer(*pair) for pair in pairs)
    torch.testing.assert_close(method(*outputs, batch().labels)["at"], expected)


def test_the_terms_are_the_functions_at_the_tapped_places():
    torch.manual_seed(0)
    student, teacher = model("resnet8").eval(), model("wrn_40_2").eval()
    for key, function in {"sp": pldistill.losses.sp, "pkt": pldistill.losses.pkt, "rkd": pldistill.losses.rkd}.items():
        method = tapped(key, student, teacher)
        ours, theirs = student(batch().images), teacher(batch().images)
        value = method(ours, theirs, batch().labels)[key]
        where = "-1" if key == "sp" else "pooled"
        assert torch.equal(value, function(ours.features[where], theirs.features[where]))
    method = tapped("fitnet", student, teacher).eval()
    ours, theirs = student(batch().images), teacher(batch().images)
    value = method(ours, theirs, batch().labels)["fitnet"]
    torch.testing.assert_close(value, (method.regressor(ours.features["-2"]) - theirs.features["-2"]).square().mean())


def test_variational_information_starts_from_its_variance_and_sums_over_stages():
    student, teacher = model("resnet8").eval(), model("resnet32x4").eval()
    method = tapped("vid", student, teacher)
    assert [stage.log_scale.shape[0] for stage in method.stages] == [64, 128, 256]
    for stage in method.stages:
        variance = torch.nn.functional.softplus(stage.log_scale) + 1e-5
        torch.testing.assert_close(variance, torch.full_like(variance, 5.0))
        assert [layer.bias for layer in stage.mean if isinstance(layer, torch.nn.Conv2d)] == [None] * 3
    ours, theirs = student(batch().images), teacher(batch().images)
    expected = torch.zeros(())
    for stage, f_s, f_t in zip(method.stages, ours.features.values(), theirs.features.values(), strict=True):
        expected = expected + ((stage.mean(f_s) - f_t).square() / 5 + torch.tensor(5.0).log()).mean() / 2
    torch.testing.assert_close(method(ours, theirs, batch().labels)["vid"], expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        ((3, 16, 16), (7, 16, 16), "Conv2d(3, 7, kernel_size=(1, 1), stride=(1, 1))"),
        ((3, 16, 16), (7, 8, 8), "Conv2d(3, 7, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"),
        ((3, 8, 8), (7, 16, 16), "ConvTranspose2d(3, 7, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))"),
        ((3, 7, 9), (7, 5, 9), "Conv2d(3, 7, kernel_size=(3, 1), stride=(1, 1))"),
    ],
)
def test_the_regressor_is_chosen_by_size(ours, theirs, kind):
    features = [pldistill.types.Outputs(torch.zeros(2, 5), {"x": torch.randn(2, *shape)}) for shape in (ours, theirs)]
    method = METHODS["fitnet"].build(*features, layer=2)
    assert str(method.regressor[0]) == kind
    assert method.regressor(features[0].features["x"]).shape == (2, *theirs)
    assert (method.regressor(features[0].features["x"]) >= 0).all()


@pytest.mark.parametrize(
    ("key", "models", "options", "says"),
    [
        ("fitnet", ("cifar_mobilenetv2", "resnet8"), {"layer": 4}, r"option layer: expected a stage of 0 to 3, got 4"),
        ("fitnet", ("cifar_mobilenetv2", "resnet8"), {"layer": 3}, r"student \(1, 160, 2, 2\).*\(1, 64, 8, 8\)"),
        ("fitnet", ("resnet8", "resnet8"), {"student_taps": "1,2", "teacher_taps": "1,2"}, "expected one place"),
        ("at", ("resnet8", "resnet8"), {"student_taps": "1,2", "teacher_taps": "1"}, "as many places in each"),
        ("at", ("resnet8", "resnet8"), {"student_taps": "1,1", "teacher_taps": "1,2"}, "each place once, got '1,1'"),
        ("at", ("resnet8", "resnet8"), {"student_taps": "layer9", "teacher_taps": "1"}, "no module 'layer9'"),
        (
            "at",
            ("resnet8", "resnet8"),
            {"student_taps": "fc", "teacher_taps": "1"},
            r"\(1, 5\) from the student's tap fc",
        ),
        ("at", ("resnet8", "resnet8"), {"power": 0.0}, "power must be a finite number of at least 1, got 0.0"),
        ("rkd", ("resnet8", "resnet8"), {"angle": -1.0}, "angle must be a finite number of at least 0, got -1.0"),
        ("vid", ("resnet8", "resnet8"), {"variance": 0.0}, "option variance: .*got 0.0"),
        ("vid", ("vit_tiny_patch16_224", "resnet8"), {}, r"maps \(N, C, H, W\), got \(1, 5, 192\) from the student's"),
        ("at", ("resnet8", "vit_tiny_patch16_224"), {}, r"maps .*\(1, 5, 192\) from the teacher's tap -3"),
    ],
)
def test_what_does_not_fit_is_refused(key, models, options, says):
    student, teacher = (model(name) for name in models)
    with pytest.raises(ValueError, match=says):
        tapped(key, student, teacher, **options)


def test_a_transformer_has_no_maps_but_relations():
    student, teacher = model("resnet8"), model("vit_tiny_patch16_224")
    for key in ("pkt", "rkd", "sp"):
        method = tapped(key, student, teacher)
        value = method(student(batch().images), teacher(batch().images), batch().labels)[key]
        assert torch.isfinite(value)
        assert value > 0


def test_maps_that_a_model_keeps_channels_last_are_heard_channels_first():
    student, teacher = model("resnet8", 64), model("swin_tiny_patch4_window7_224", 64)
    for key in KEYS:
        method = tapped(key, student, teacher, 64, **({"layer": 1} if key == "fitnet" else {}))
        answers = student(batch(size=64).images), teacher(batch(size=64).images)
        assert torch.isfinite(method(*answers, batch().labels)[key])
        if key in ("at", "vid"):
            info = teacher.model.feature_info
            shapes = [(4, stage["num_chs"], 64 // stage["reduction"], 64 // stage["reduction"]) for stage in info]
            assert [tuple(maps.shape) for maps in answers[1].features.values()] == shapes[1:]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    fields = {"data": "glyphs:train=160,val=100", "student": "resnet8", "method": "ce", "epochs": 1, "batch_size": 32}
    fields["trust_teacher"] = True  # at chance after so few steps
    return pldistill.train(make_recipe(fields), out=tmp_path_factory.mktemp("teacher") / "run", device="cpu")


@pytest.mark.parametrize(("key", "adapters"), [("fitnet", 7), ("vid", 12)])
def test_the_checkpoint_has_the_adapters_and_the_export_has_not(teacher, tmp_path, key, adapters):
    fields = {**teacher.recipe.to_dict(), "method": key, "teacher": str(teacher.folder), "student": "resnet8"}
    fields |= {"options": {}, "weights": {}, "ema": 0.5, "seed": 1}
    run = pldistill.train(make_recipe(fields), out=tmp_path / "run", device="cpu")
    plain = build("resnet8", num_classes=100).state_dict()
    assert load_file(run.folder / "model.safetensors").keys() == plain.keys()
    state = checkpoint.load(run.folder / "checkpoint")
    extra = [name for name in state["distiller"] if not name.startswith("student.model.")]
    assert len(extra) == adapters
    assert all(name.startswith("method.") for name in extra)
    again = pldistill.train(make_recipe(fields), out=tmp_path / "again", device="cpu")
    other = checkpoint.load(again.folder / "checkpoint")
    assert all(torch.equal(state["distiller"][name], value) for name, value in other["distiller"].items())
    terms = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["terms"]
    assert set(terms) == {"task", key}


@pytest.mark.parametrize("key", ["fitnet", "vid"])
def test_adapters_resume_bit_for_bit(teacher, tmp_path, monkeypatch, key):
    monkeypatch.setattr(Loop, "LOOK_EVERY", -1.0)
    fields = {**teacher.recipe.to_dict(), "method": key, "teacher": str(teacher.folder), "options": {}, "weights": {}}
    recipe = make_recipe({**fields, "optimizer": "adamw", "lr": 1e-3, "epochs": 2, "amp": "bf16"})
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        pldistill.train(recipe, out=tmp_path / "cut", device="cpu", callback=StopAt(1, 2))
    torch.manual_seed(12345)
    pldistill.train(recipe, out=tmp_path / "cut", device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    states = [checkpoint.load(tmp_path / name / "checkpoint")["distiller"] for name in ("whole", "cut")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_a_pair_that_does_not_fit_is_refused_before_a_file_is_written(teacher, tmp_path):
    fields = {**teacher.recipe.to_dict(), "teacher": str(teacher.folder), "method": "fitnet", "weights": {}}
    recipe = make_recipe({**fields, "student": "cifar_mobilenetv2", "options": {"layer": 3}})
    with pytest.raises(ValueError, match=r"student \(1, 160, 2, 2\) and teacher \(1, 64, 8, 8\)"):
        pldistill.train(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_channel_wise_distillation_brings_channels_and_size_together():
    """A 1x1 convolution of the student's map against the teacher's, resized, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, *shape, generator=generator) for shape in ((3, 4, 4), (5, 2, 2)))
    student, teacher = (Outputs(torch.zeros(2, 5), {"map": maps}) for maps in (ours, theirs))
    method = METHODS["cwd"].build(student, teacher, **METHODS["cwd"].options)
    larger = torch.nn.functional.interpolate(theirs, (4, 4), mode="bilinear")
    expected = cwd(torch.einsum("oc,nchw->nohw", method.adapter.weight[:, :, 0, 0], ours), larger, temperature=4.0)
    torch.testing.assert_close(method(student, teacher, torch.zeros(2))["cwd"], expected)
    alike = METHODS["cwd"].build(student, student, **METHODS["cwd"].options)
    assert not list(alike.parameters())
    assert alike(student, student, torch.zeros(2))["cwd"] == pytest.approx(0, abs=1e-6)
