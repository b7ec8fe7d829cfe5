"""A run whose answers are not in the teacher cache, or are damaged there, is refused before its first step."""

import json
import shutil

import pytest

from bad_json import NO_OBJECTS
from pldistill.data import open_data
from pldistill.tasks.base import make_task
from pldistill.teachers import cache
from pldistill.teachers.cache import with_cache
from pldistill.teachers.live import open_teacher
from tiny_stores import SMALL, cached, opened


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "expected answers for the run's augment_seed, 1, got those for 0"),
        ({"augment_seed": 7}, "expected answers for the run's augment_seed, 7, got those for 0"),
        ({"amp": "bf16"}, "the run's amp, 'bf16', got those for 'off'"),
        ({"image_size": 40}, "the run's image_size, 40, got those for 32"),
        ({"hflip": True}, "the run's augmentation, "),
        ({"data": "digits"}, "the run's number of classes, 10, got those for 100"),
        ({"data": "glyphs:train=200,val=100"}, "the run's number of images, 200, got those for 100"),
        ({"data": "glyphs:train=100,val=100,seed=3"}, "the run's training images, 'glyphs:train=100,val=100,seed=3'"),
        ({"data": "glyphs:train=100,val=200"}, "the run's validation images, "),
        ({"teacher": "random:resnet8"}, "the run's teacher, 'random:resnet8', whose SHA-256 is "),
        ({"views": 3}, "views: expected at most the 2 of "),
        ({"repeats": 3}, "views: expected at least 3, one for each of an image's copies, got 2"),
        ({"method": "at"}, "method 'at' compares activations, which a teacher cache does not hold"),
        ({"method": "ce"}, "method 'ce' asks no teacher, got teacher_cache="),
        ({"teacher_checkpoint": "x.pt"}, "teacher_checkpoint: expected none beside teacher_cache="),
        ({"class_map": "x.json"}, "class_map: expected none beside teacher_cache="),
        ({"teacher_cache": "nowhere"}, "teacher_cache: expected a teacher cache that `pldistill cache` made, got 'now"),
    ],
)
def test_a_run_whose_answers_are_not_there_is_refused(store, change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(**{"store": store, **change}) if "teacher_cache" not in change else opened(change["teacher_cache"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "dkd"}, "method 'dkd': expected a teacher cache of all classes (--top-k all), got the 10 of"),
        ({"method": "listmle"}, "mass of the others is enough for kd, pld, without standardized logits"),
        ({"options": {"standardize": "both"}}, "method 'kd': expected a teacher cache of all classes"),
        ({"options": {"temperature": 2}}, "temperature: expected the teacher cache's, 4, at which"),
        ({"method": "pld", "mixup": 0.2}, "mixup and cutmix: expected a teacher cache of all classes"),
        ({"cutmix": 0.2}, "mixup and cutmix: expected a teacher cache of all classes"),
    ],
)
def test_a_method_that_needs_more_places_is_refused(few, change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(few, **change)
    assert says in str(caught.value)


WHOLE = ["rkl", "js", "dist", "dkd", "pld", "plkl", "listmle", "plistmle"]
WHOLE += ["nkd", "ttm", "wttm", "rld", "kendall", "cmkd", "rankdistil", "skd"]


@pytest.mark.parametrize("method", WHOLE)
def test_every_method_of_the_logits_takes_a_store_of_all_classes(store, method):
    assert opened(store, method=method).about.form.whole


def test_a_teacher_trained_anew_in_its_folder_is_not_the_store_s(store, teacher, tmp_path, monkeypatch):
    recipe = with_cache(cached(store))
    assert recipe.teacher == str(teacher.folder)
    data = open_data(SMALL)
    trained = open_teacher(recipe, data)
    monkeypatch.setattr(type(trained), "fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="whose SHA-256 is other, got those for"):
        make_task(recipe).teacher(recipe, data)


@pytest.mark.parametrize("name", ["view-0000.bin", "view-0001.bin", "validation.bin"])
def test_a_damaged_file_is_named(store, tmp_path, name):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    content = bytearray((other / name).read_bytes())
    content[1234] ^= 1
    (other / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is damaged: expected SHA-256"):
        opened(other)
    (other / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name}' is damaged: expected 20800 bytes, got 20799"):
        opened(other)
    (other / name).unlink()
    with pytest.raises(ValueError, match=f"{name}', which is missing"):
        opened(other)


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_a_header_that_is_no_object_is_named(tmp_path, kind):
    (tmp_path / cache.HEADER).write_bytes(NO_OBJECTS[kind][0])
    with pytest.raises(ValueError, match=r"header\.json: expected a JSON object, got .*; make the teacher cache anew"):
        cache.read_header(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "key format: expected 1, got 2"),
        ({"about": []}, "key about: expected an object, got []"),
        ({"about": {"teacher": "t"}}, "key about.teacher_sha256: expected a value, got none"),
        ({"about": {"views": 10**12}}, "key about.views: expected less than or equal to 1000000, got 1000000000000"),
        ({"about": {"places": 101}}, "key about: places: expected at most the 100 classes, got 101"),
        ({"about": {"temperature": 0}}, "key about.temperature: expected greater than 0, got 0"),
        ({"about": {"classes": "100"}}, "key about.classes: expected a whole number, got '100'"),
        ({"about": {"later": 1}}, "key about.later: "),
        ({"whole": {"view-0000.bin": "../x"}}, "key whole.view-0000.bin: expected a text of the pattern"),
        (
            {"under_way": {"view-0000.bin": -1}},
            "key under_way.view-0000.bin: expected greater than or equal to 0, got -1",
        ),
    ],
)
def test_a_key_of_a_header_is_named(store, tmp_path, change, says):
    content = json.loads((store / cache.HEADER).read_text())
    if "views" in str(change) or "teacher" not in str(change):
        change = {key: content[key] | value if isinstance(value, dict) else value for key, value in change.items()}
    (tmp_path / cache.HEADER).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r"header\.json, key") as error:
        cache.read_header(tmp_path)
    assert says in str(error.value)


def test_what_is_no_folder_is_no_teacher_cache(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"teacher_cache: expected a teacher cache .*, which is a file"):
        cache.read_header(tmp_path / "file")


def test_a_header_says_what_the_answers_depend_on(few):
    about = json.loads((few / cache.HEADER).read_text())["about"]
    assert (about["views"], about["places"], about["temperature"], about["tail"]) == (2, 10, 4.0, "even")
    assert (about["seed"], about["amp"], about["augment"]["crop"]) == (0, "off", "pad")
    assert len(about["teacher_sha256"]) == 64
