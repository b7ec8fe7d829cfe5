"""Every kind of teacher answers as its parts do, is fingerprinted whole, and is refused in one plain line."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import pldistill
from pldistill import models
from pldistill.data import open_data
from pldistill.models import NormalizedModel
from pldistill.recipe import make_recipe
from pldistill.tasks.classification.task import Classification
from pldistill.tasks.registry import find_method
from pldistill.teachers.live import Ensemble, LiveTeacher, open_teacher, read_class_map
from pldistill.training.distiller import Distiller
from pldistill.types import Batch, Outputs

DATA = open_data("digits")
BASE = {"data": "digits", "student": "resnet8", "method": "kd", "trust_teacher": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models as run folders, `a` with its own statistics, and the weights of `b` as a file."""
    root = tmp_path_factory.mktemp("teachers")
    for seed, (name, mean) in enumerate([("a", (0.5, 0.4, 0.3)), ("b", DATA.mean)]):
        torch.manual_seed(seed)
        model = models.build("resnet8", num_classes=10)
        models.save_folder(model, root / name, classes=DATA.classes, mean=mean, std=DATA.std, image_size=32)
    return root


def opened(teacher, **change):
    return open_teacher(make_recipe({**BASE, "teacher": str(teacher), **change}), DATA)


def batch():
    return Batch(DATA.val.images[:6], DATA.val.labels[:6], DATA.val.ids[:6], 0)


def test_a_random_teacher_is_drawn_from_the_seed_and_from_nothing_else():
    before = torch.get_rng_state()
    first = opened("random:resnet8")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert opened("random:resnet8").fingerprint() == first.fingerprint()
    assert opened("random:resnet8", seed=1).fingerprint() != first.fingerprint()
    torch.manual_seed(0)
    student = models.build("resnet8", num_classes=10)
    assert LiveTeacher(NormalizedModel(student, mean=DATA.mean, std=DATA.std)).fingerprint() != first.fingerprint()
    one, other = opened("ensemble:random:resnet8+random:resnet8").members
    assert one.fingerprint() == first.fingerprint() != other.fingerprint()


def test_a_random_teacher_trains_a_student(tmp_path):
    fields = {**BASE, "data": "glyphs:train=100,val=100", "epochs": 1, "batch_size": 50}
    recipe = make_recipe({**fields, "teacher": "ensemble:random:resnet8+random:resnet8"})
    assert recipe.name() == "glyphs-train100-val100-resnet8-from-random-resnet8-random-resnet8-kd-seed0"
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    env = run.record.read_environment()
    assert env["preflight"]["trusted"] is True
    assert len(env["preflight"]["models"]) == 2


def test_an_ensemble_is_the_mean_of_its_members_logits(folder):
    asked = opened(f"ensemble:{folder / 'a'}+resnet8@{folder / 'b' / 'model.safetensors'}+random:resnet8")
    assert isinstance(asked, Ensemble)
    alone = [opened(folder / "a"), opened(folder / "b"), asked.members[2]]
    logits = [member(batch()).logits for member in alone]
    torch.testing.assert_close(asked(batch()).logits, sum(logits) / 3)
    assert not asked(batch()).logits.requires_grad
    assert asked.members[0].model.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    tempered = torch.stack([logit.div(4).log_softmax(1) for logit in logits]).mean(0).softmax(1)
    torch.testing.assert_close(asked(batch()).logits.div(4).softmax(1), tempered)


def test_the_fingerprint_is_of_all_members(folder):
    asked = opened(f"ensemble:{folder / 'a'}+{folder / 'b'}")
    before = asked.fingerprint()
    assert before == opened(f"ensemble:{folder / 'a'}+{folder / 'b'}").fingerprint()
    asked.members[1].model.model.fc.bias[0] += 1
    assert asked.fingerprint() != before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher": "random:resnet8", "trust_teacher": False}, "'random:resnet8' knows nothing"),
        ({"teacher": "ensemble:a+random:resnet8", "trust_teacher": False}, "--trust-teacher"),
        ({"teacher": "ensemble:a"}, "expected ensemble:A+B with at least two members, got 'ensemble:a'"),
        ({"teacher": "ensemble:a+"}, "expected ensemble:A+B with at least two members"),
        ({"teacher": "ensemble:a+b", "method": "at"}, "method 'at' compares activations: expected one model"),
        ({"teacher": "ensemble:a+b", "teacher_checkpoint": "c"}, "a member with weights is NAME@FILE"),
        ({"teacher": "random:resnet8", "teacher_checkpoint": "c"}, "expected a model's name for a teacher beside it"),
        ({"teacher": "random:resnet8", "class_map": "m"}, "class_map: expected a teacher with classes of its own"),
        ({"teacher": None, "method": "ce", "class_map": "m"}, "class_map: expected a teacher beside it, got none"),
    ],
)
def test_a_recipe_refuses_what_its_text_shows_to_be_wrong(change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        make_recipe({**BASE, **change})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("runs/nowhere", "a model's name or NAME@FILE, got 'runs/nowhere', which is no folder"),
        ("random:resnet21", "unknown model 'resnet21'"),
        ("resnet8@nowhere.pt", "'nowhere.pt', which does not exist"),
        ("ensemble:random:resnet8+resnet50", "must name its weights"),
        ("resnet18.a1_in1k", "expected the data's 10 classes, got 1000; --class-map"),
    ],
)
def test_a_teacher_that_cannot_be_opened_says_why(teacher, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(teacher)
    assert says in str(caught.value)


def test_a_run_brings_its_own_weights(folder):
    with pytest.raises(ValueError, match="expected none beside the run"):
        opened(folder / "a", teacher_checkpoint="x.pt")


def synsets(*moved):
    """A data set that has ImageNet's classes, but for two that are swapped."""
    names = list(models.about_pretrained("resnet18.a1_in1k").classes)
    for first, second in moved:
        names[first], names[second] = names[second], names[first]
    return replace(DATA, classes=tuple(names))


def pretrained(monkeypatch, teacher="resnet18.a1_in1k"):
    """timm's models without their weights, so that nothing is downloaded."""
    built = models.build

    def build(name, *, pretrained=False, **arguments):
        return built(name, **arguments)

    monkeypatch.setattr(models, "build", build)
    return make_recipe({**BASE, "teacher": teacher})


def test_published_weights_are_told_in_the_order_of_the_data(monkeypatch):
    recipe = pretrained(monkeypatch)
    (member,) = open_teacher(recipe, synsets()).members
    assert member.image_size == 224
    with pytest.raises(ValueError, match="expected the data's class 3, 'n01494475', got 'n01491361'"):
        open_teacher(recipe, synsets((3, 4)))


def test_weights_that_are_not_here_are_one_plain_line(monkeypatch):
    def create(*arguments, **more):
        raise FileNotFoundError("a long story\nof many lines")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ValueError, match="are not on this machine and could not be fetched") as caught:
        open_teacher(make_recipe({**BASE, "teacher": "resnet18.a1_in1k"}), synsets())
    assert "\n" not in str(caught.value)


# Class maps: a teacher of six classes, data of ten digits or of two.

SIX = ("cat", "dog", "0", "tabby", "poodle", "car")


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    root = tmp_path_factory.mktemp("six") / "run"
    torch.manual_seed(3)
    model = models.build("resnet8", num_classes=6)
    models.save_folder(model, root, classes=SIX, mean=DATA.mean, std=DATA.std, image_size=32)
    return root


def pets():
    return replace(DATA, classes=("dogs", "cats"))


def mapped(teacher, mapping, tmp_path, **change):
    path = tmp_path / "map.json"
    path.write_text(mapping if isinstance(mapping, str) else json.dumps(mapping))
    recipe = make_recipe({**BASE, "teacher": str(teacher), "class_map": str(path), **change})
    return open_teacher(recipe, pets())


@pytest.mark.parametrize(
    "mapping",
    [
        {"cat": "cats", "tabby": "cats", "dog": "dogs", "poodle": 0},
        {"0": "cats", "3": 1, "1": "0", "poodle": "dogs"},
    ],
)
def test_probabilities_of_classes_that_are_one_add_up(six, tmp_path, mapping):
    """The second map's "0" is the teacher's class of that name, not its first."""
    asked = mapped(six, mapping, tmp_path)
    p = LiveTeacher(asked.model)(batch()).logits.softmax(1)
    cats = [2, 3] if "0" in mapping else [0, 3]
    pair = torch.stack([p[:, [1, 4]].sum(1), p[:, cats].sum(1)], 1)
    torch.testing.assert_close(asked(batch()).logits.softmax(1), pair / pair.sum(1, keepdim=True))


def test_one_class_for_one_is_the_teacher_s_own_logit(six, tmp_path):
    asked = mapped(six, {"car": "cats", "dog": "dogs"}, tmp_path)
    assert torch.equal(asked(batch()).logits, LiveTeacher(asked.model)(batch()).logits[:, [1, 5]])


def test_a_class_map_is_part_of_the_fingerprint(six, tmp_path):
    one, other = (mapped(six, {"car": our, "dog": 1 - our}, tmp_path) for our in (0, 1))
    assert len({one.fingerprint(), other.fingerprint(), LiveTeacher(one.model).fingerprint()}) == 3


def test_a_checkpoint_s_classes_are_numbers(six, tmp_path):
    state = models.load_folder(six).model.state_dict()
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "model.safetensors")
    given = {"teacher_checkpoint": str(tmp_path / "model.safetensors")}
    asked = mapped("resnet8", {"5": "cats", "1": "dogs"}, tmp_path, **given)
    assert torch.equal(asked(batch()).logits, mapped(six, {"car": 1, "dog": 0}, tmp_path)(batch()).logits)
    with pytest.raises(ValueError, match="expected indices for a teacher that names no classes, got 'car'"):
        mapped("resnet8", {"car": "cats", "1": "dogs"}, tmp_path, **given)
    headless = {name: value for name, value in state.items() if not name.startswith("fc.")}
    save_file(headless, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no head of the model's \(fc\)"):
        mapped("resnet8", {"5": "cats", "1": "dogs"}, tmp_path, **given)


def test_every_member_of_an_ensemble_is_mapped(six, tmp_path):
    pair = {"car": "cats", "dog": "dogs"}
    asked = mapped(f"ensemble:{six}+{six}", pair, tmp_path)
    torch.testing.assert_close(asked(batch()).logits, mapped(six, pair, tmp_path)(batch()).logits)


def test_a_class_that_is_several_gives_each_its_part(six, tmp_path):
    """p_c = Σ_i W_ic p_i, given that the image shows a class of the data's."""
    asked = mapped(six, {"cat": {"cats": 0.75, "dogs": 0.25}, "dog": "dogs", "car": {"cats": 0.5}}, tmp_path)
    p = LiveTeacher(asked.model)(batch()).logits.double().softmax(1)
    cats, dogs = 0.75 * p[:, 0] + 0.5 * p[:, 5], 0.25 * p[:, 0] + p[:, 1]
    expected = torch.stack([dogs, cats], 1) / (dogs + cats)[:, None]
    torch.testing.assert_close(asked(batch()).logits.double().softmax(1), expected, rtol=1e-5, atol=0)


def test_parts_are_in_the_fingerprint_and_whole_ones_change_nothing(six, tmp_path):
    maps = [{"cat": {"cats": part}, "dog": "dogs"} for part in (0.5, 0.25, 1, 1.0)]
    prints = [mapped(six, each, tmp_path).fingerprint() for each in maps]
    assert len(set(prints)) == 3
    assert prints[3] == mapped(six, {"cat": "cats", "dog": "dogs"}, tmp_path).fingerprint()


def test_each_member_of_an_ensemble_may_have_its_own_map(six, tmp_path):
    maps = {"a": {"car": "cats", "dog": "dogs"}, "b": {"cat": "cats", "poodle": {"dogs": 0.5}}}
    alone = [mapped(six, each, tmp_path)(batch()).logits for each in maps.values()]
    for name, each in maps.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
    given = f"{tmp_path / 'a.json'}+{tmp_path / 'b.json'}"
    recipe = make_recipe({**BASE, "teacher": f"ensemble:{six}+{six}", "class_map": given})
    torch.testing.assert_close(open_teacher(recipe, pets())(batch()).logits, sum(alone) / 2)
    with pytest.raises(ValueError, match="expected a file for each of the 2 teachers, got 3"):
        open_teacher(recipe.model_copy(update={"class_map": given + "+"}), pets())
    with pytest.raises(ValueError, match="expected the data's 2 classes, got 6"):
        open_teacher(recipe.model_copy(update={"class_map": f"{tmp_path / 'a.json'}+"}), pets())


def three():
    return replace(DATA, classes=("dogs", "zebras", "cats"))


def knowing(teacher, mapping, tmp_path, **change):
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    given = {**BASE, "teacher": str(teacher), "class_map": str(tmp_path / "map.json"), "weights": {"task": 1.0}}
    return make_recipe({**given, **change})


PETS = {"cat": "cats", "dog": "dogs", "(none)": ["zebras"]}


@pytest.mark.parametrize("method", ["kd", "pld", "dist", "dkd"])
def test_images_of_a_class_that_the_teacher_does_not_know_learn_from_their_label_alone(six, tmp_path, method):
    """The method's terms are those of the other images on the other classes; cross-entropy is of all."""
    recipe = knowing(six, PETS, tmp_path, method=method)
    task = Classification()
    teacher = task.teacher(recipe, three())
    assert teacher.known.tolist() == [True, False, True]
    some = replace(batch(), labels=torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])[: len(batch())])
    student = NormalizedModel(models.build("resnet8", num_classes=3), mean=DATA.mean, std=DATA.std).eval()
    pair = task.pair(student, teacher, some)
    logits, kept = student(some.images).logits, some.labels != 1
    spec = find_method(method)
    loss = spec.build(**spec.complete_options({}))
    asked = LiveTeacher(teacher.model)(some).logits[:, [1, 0]]
    expected = loss(Outputs(logits[kept][:, [0, 2]]), Outputs(asked[kept]), some.labels[kept] // 2)[method]
    torch.testing.assert_close(loss(pair.student, pair.teacher, pair.labels)[method], expected)
    torch.testing.assert_close(pair.own()["task"], torch.nn.functional.cross_entropy(logits, some.labels))
    assert (int(pair.counted), len(pair.labels)) == (len(some), int(kept.sum()))


def test_a_batch_of_such_images_alone_has_no_term_but_the_tasks(six, tmp_path):
    task = Classification()
    teacher = task.teacher(knowing(six, PETS, tmp_path, method="pld"), three())
    student = NormalizedModel(models.build("resnet8", num_classes=3), mean=DATA.mean, std=DATA.std)
    spec = find_method("pld")
    distiller = Distiller(student, spec.build(**spec.complete_options({})), task)
    some = replace(batch(), labels=torch.ones(len(batch()), dtype=torch.int64))
    step = distiller(some, teacher, {"task": 1.0, "pld": 1.0})
    assert step.raw["pld"] == step.raw["pld"]  # a number
    step.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize(
    ("mapping", "change", "says"),
    [
        (PETS, {"weights": {"task": 0.0}}, "expected a task weight above 0"),
        (PETS, {"mixup": 0.2}, "expected neither mixup nor cutmix beside classes of '\\(none\\)'"),
        (PETS, {"method": "at"}, "expected a method of the logits beside classes"),
        (
            {"dog": "dogs", "(none)": ["zebras", "cats"]},
            {},
            "expected at least two classes that the teacher knows, got 1",
        ),
        ({**PETS, "car": "zebras"}, {}, "expected 'zebras' under '\\(none\\)' alone, got it for 'car'"),
        ({**PETS, "(none)": ["zebra"]}, {}, "unknown class of the data 'zebra'; did you mean zebras"),
        ({**PETS, "(none)": "zebras"}, {}, "expected a list of the data's classes for '\\(none\\)', got 'zebras'"),
        ({**PETS, "(none)": [True]}, {}, "expected a list of the data's classes"),
    ],
)
def test_what_does_not_go_with_unknown_classes_is_refused(six, tmp_path, mapping, change, says):
    with pytest.raises(ValueError, match=says):
        Classification().teacher(knowing(six, mapping, tmp_path, **change), three())


@pytest.mark.parametrize("method", ["dhkd", "at", "sp"])
def test_methods_of_activations_go_with_a_class_map(six, tmp_path, method):
    mapping = {"0": "0", "car": {str(digit): 0.1 for digit in range(1, 10)}}
    recipe = knowing(six, mapping, tmp_path, method=method, epochs=1, image_size=8, batch_size=256)
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    assert run.record.epochs()[-1]["terms"][method]["raw"] > 0


def test_a_run_with_unknown_classes_has_all_its_figures(six, tmp_path):
    mapping = {"0": "0", "car": "1", "dog": "2", "(none)": list("3456789")}
    recipe = knowing(six, mapping, tmp_path, method="pld", epochs=1, image_size=8, batch_size=128)
    run = pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0)
    (row,) = run.record.epochs()
    assert set(row["terms"]) == {"task", "pld"}
    assert 0 < row["kl"] < 10
    assert 0 < row["terms"]["pld"]["raw"] < 10
    assert row["teacher_top1"] < 40  # of ten classes it knows three


def test_an_ensemble_knows_what_all_its_members_know(six, tmp_path):
    maps = {"a": PETS, "b": {"cat": "cats", "dog": "dogs", "car": "zebras"}}
    for name, each in maps.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(each))
    given = f"{tmp_path / 'a.json'}+{tmp_path / 'b.json'}"
    recipe = make_recipe({**BASE, "teacher": f"ensemble:{six}+{six}", "class_map": given, "weights": {"task": 1.0}})
    assert open_teacher(recipe, three()).known.tolist() == [True, False, True]


def test_published_names_are_synsets(monkeypatch, tmp_path):
    pretrained(monkeypatch)
    asked = mapped("resnet18.a1_in1k", {"n01440764": "cats", "1": "dogs"}, tmp_path)
    assert asked.class_map.columns.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"cat": "cats"}, "for each of the data's 2, got none for dogs"),
        ({"kat": "cats"}, "unknown class of the teacher 'kat'; did you mean cat"),
        ({"cat": "cat"}, "unknown class of the data 'cat'; did you mean cats"),
        ({"6": "cats"}, "expected an index of the teacher's 6 classes, 0 to 5, got '6'"),
        ({"cat": 2}, "expected an index of the data's 2 classes, 0 to 1, got 2"),
        ({"cat": -1}, "0 to 1, got -1"),
        ({"cat": True}, "of a class of the data's for 'cat', or an object of classes and parts, got True"),
        ({"cat": None}, "for 'cat', or an object of classes and parts, got None"),
        ({"cat": {"a": 1}, "dog": 0}, "unknown class of the data 'a'"),
        ({"cat": {}}, "or an object of classes and parts, got {}"),
        ({"cat": {"cats": 0}}, "expected a part above 0 and at most 1 for 'cats' of 'cat', got 0"),
        ({"cat": {"cats": "1"}}, "expected a part above 0 and at most 1 for 'cats' of 'cat', got '1'"),
        ({"cat": {"cats": 0.7, "dogs": 0.4}}, "expected parts of 'cat' that are 1 at most in all, got 1.1"),
        ({"cat": {"cats": 0.5, "1": 0.4}, "dog": 0}, "expected 'cats' once for 'cat', got it twice"),
        ({"poodle": "dogs", "4": "cats"}, "expected each of the teacher's classes once, got 'poodle' and '4'"),
        ('{"cat": 0, "cat": 1}', "the key 'cat' is there twice"),
        ("[1, 2]", "expected a JSON object"),
        ("3", "expected a JSON object"),
        ("{", "expected a JSON object, got '{'"),
    ],
)
def test_a_bad_class_map_is_named(six, tmp_path, mapping, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        mapped(six, mapping, tmp_path)
    assert str(caught.value).startswith("class_map: ")
    assert says in str(caught.value)


def test_a_class_map_that_is_not_there_is_named(six):
    with pytest.raises(ValueError, match=r"expected a file, got 'nowhere\.json'"):
        opened(six, class_map="nowhere.json")


def test_a_teacher_with_other_classes_is_told_of_the_class_map_and_not_of_a_students_flag(tmp_path):
    torch.save(models.build("resnet8", num_classes=1000).state_dict(), tmp_path / "wide.pt")
    for name in (f"resnet8@{tmp_path / 'wide.pt'}", "resnet18.a1_in1k"):
        recipe = make_recipe({"data": "digits", "student": "resnet8", "method": "kd", "teacher": name})
        with pytest.raises(ValueError, match=r"expected the data's \d+ classes, got 1000; --class-map FILE") as told:
            open_teacher(recipe, DATA)
        assert "new-head" not in str(told.value)


def test_imagenets_classes_have_synsets_and_first_words(tmp_path):
    about = models.about_pretrained("resnet18.a1_in1k")
    assert (about.names["tench"], about.classes[0]) == (0, "n01440764")
    assert len(about.names) > 900
    (tmp_path / "map.json").write_text('{"tench": "a", "n01443537": "b", "2": 1}')
    mapping = read_class_map(str(tmp_path / "map.json"), 1000, about.classes, ["a", "b"], about.names)
    assert mapping.columns.tolist() == [[0, 1000], [1, 2]]
