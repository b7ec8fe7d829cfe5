"""A recipe refuses what does not fit, writes defaults out, and comes back from its file the same."""

import json
import math

import pytest

from pldistill import methods
from pldistill.recipe import Ramp, Recipe, completed, make_recipe, parse_weight, read_recipe
from pldistill.specs import schema_of
from pldistill.training.optim import learning_rate

BASE = {"data": "glyphs", "student": "resnet8", "method": "ce"}
KD = {**BASE, "method": "kd", "teacher": "somewhere"}


def test_defaults_are_the_documented_ones():
    recipe = make_recipe(BASE)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.05, 0.9, 5e-4)
    assert (recipe.schedule, recipe.batch_size, recipe.epochs, recipe.amp, recipe.seed) == (
        "cosine",
        128,
        20,
        "auto",
        0,
    )


def test_method_defaults_are_written_out():
    recipe = make_recipe(KD)
    assert recipe.options == {"temperature": 4.0, "tau_squared": True, "standardize": "none"}
    assert recipe.weights == {"task": 0.1, "kd": 0.9}


def test_given_options_and_weights_take_the_type_of_their_default():
    recipe = make_recipe({**KD, "options": {"temperature": "2", "tau_squared": "false"}, "weights": {"kd": "3"}})
    assert recipe.options == {"temperature": 2.0, "tau_squared": False, "standardize": "none"}
    assert recipe.weights == {"task": 0.1, "kd": 3.0}


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_comes_back_from_json(name):
    teacher = "t" if methods.METHODS[name].needs_teacher else None
    recipe = make_recipe({**BASE, "method": name, "teacher": teacher})
    assert make_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "kdd"}, "unknown method 'kdd'; did you mean"),
        ({"method": None}, "method: expected a text, got None"),
        ({"epochs": 0}, "epochs: expected a whole number from 1 to 1,000,000, got 0"),
        ({"lr": -1}, "lr: expected a number above 0, at most 1,000,000, got -1"),
        ({"lr": math.nan}, "lr: "),
        ({"amp": "int8"}, "unknown amp 'int8'; known: auto, bf16, fp16, off"),
        ({"schedule": "sawtooth"}, "unknown schedule 'sawtooth'"),
        ({"batchsize": 3}, "unknown recipe field 'batchsize'; did you mean batch_size"),
        ({"options": {"tau": 1}}, "unknown option 'tau'"),
        ({"teacher": "x"}, "asks no teacher, got teacher='x'"),
        ({"method": "kd"}, "method 'kd' needs a teacher"),
        ({**KD, "options": {"temprature": 1}}, "unknown option 'temprature'; did you mean temperature?"),
        ({**KD, "options": {"temperature": "warm"}}, "option temperature: expected a number, got 'warm'"),
        ({**KD, "options": {"tau_squared": "maybe"}}, "option tau_squared: expected true or false, got 'maybe'"),
        ({**KD, "weights": {"pld": 1}}, "unknown weight 'pld'"),
        ({**KD, "weights": {"kd": "much"}}, "expected a number from 0"),
        ({**KD, "weights": {"kd": -1}}, "expected a number from 0"),
        ({**KD, "weights": {"kd": "1@2"}}, "PART in (0, 1]"),
        ({**KD, "weights": {"kd": 0, "task": 0}}, "expected one above 0"),
        ({"teacher_checkpoint": "f"}, "teacher_checkpoint: expected the teacher's name beside it"),
        ({"pretrained": True, "student_checkpoint": "f"}, "expected one of them, got both"),
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs: expected fewer than the 2 epochs, got 2"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        make_recipe({**BASE, **change})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="student: expected a value, got none"):
        make_recipe({"data": "glyphs", "method": "ce"})


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        make_recipe(BASE).epochs = 3


def test_ramps_rise_by_epoch_and_keep_their_shape_in_a_shorter_run():
    original = Ramp(1.0, 20 / 240)
    assert [original.at(epoch, 240) for epoch in (0, 9, 19, 20, 239)] == pytest.approx([1 / 20, 10 / 20, 1, 1, 1])
    assert [original.at(epoch, 24) for epoch in (0, 1, 2)] == pytest.approx([0.5, 1, 1])
    assert parse_weight("2@0.25") == Ramp(2.0, 0.25)


def test_reading_a_recipe_file_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_recipe(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json': expected a JSON object, got '{' \("):
        read_recipe(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_recipe(tmp_path / "list.json")


def test_cosine_goes_from_the_top_to_zero():
    recipe = make_recipe({**BASE, "epochs": 4, "lr": 0.1})
    rates = [learning_rate(recipe, step, 10) for step in range(40)]
    assert rates[0] == 0.1
    assert rates[20] == pytest.approx(0.05)
    assert rates[39] == pytest.approx(0.1 * (1 + math.cos(math.pi * 39 / 40)) / 2)
    assert rates == sorted(rates, reverse=True)


def test_steps_divide_by_ten_where_the_public_code_does():
    recipe = make_recipe({**BASE, "epochs": 240, "schedule": "step"})
    rates = [learning_rate(recipe, epoch * 7, 7) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


def test_warmup_rises_to_the_top_and_the_schedule_takes_over():
    recipe = make_recipe({**BASE, "epochs": 4, "lr": 1.0, "warmup_epochs": 0.5})
    rates = [learning_rate(recipe, step, 10) for step in range(40)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[6:] == sorted(rates[6:], reverse=True)


def test_name_is_a_folder_name():
    kd = {"student": "resnet8", "method": "kd", "teacher": "/x/y"}
    assert Recipe(data="folder:/a,/b", **kd).name() == "folder-resnet8-from-y-kd-seed0"
    named = Recipe(data="cifar100:/a b,c/d=e,train=10000,validation=500", **kd).name()
    assert named == "cifar100-train10000-validation500-resnet8-from-y-kd-seed0"


def test_an_earlier_version_s_record_is_completed_with_defaults() -> None:
    now = make_recipe({"data": "glyphs", "student": "resnet8", "method": "kd", "teacher": "t"}).to_dict()
    before = {name: value for name, value in now.items() if name not in ("mixup", "relation")}
    before["options"] = {name: value for name, value in now["options"].items() if name != "standardize"}
    assert completed(before) == now
    assert completed(now) == now
    assert completed({**before, "mixup": 0.2})["mixup"] == 0.2


@pytest.mark.parametrize("name", [name for name, field in Recipe.model_fields.items() if field.annotation is not str])
@pytest.mark.parametrize("value", ["1e308", "1" + "0" * 400, "nan", "inf", "-1e308", "100000001"])
def test_a_number_beyond_its_bounds_is_refused_by_name(name, value):
    schema = schema_of(Recipe, name)
    if schema.get("type") not in ("integer", "number") or (name.endswith("seed") and value == "100000001"):
        return
    with pytest.raises(ValueError, match=f"^{name}: expected a (whole )?number (from|above) .*, got "):
        make_recipe({**BASE, name: value})


@pytest.mark.parametrize("weight", ["1e308", "1" + "0" * 400, "1e308@0.5", "nan..1@0.5"])
def test_a_weight_beyond_its_bounds_is_refused(weight):
    with pytest.raises(ValueError, match=r"expected a number from 0 to 1e\+09, or TO@PART"):
        make_recipe({**BASE, **KD, "weights": {"kd": weight}})
