"""Data that scores a model: no training part is needed, and some of the classes are enough."""

import numpy as np
import pytest
from PIL import Image

import pldistill
from pldistill.__main__ import main
from pldistill.data import open_data
from pldistill.recipe import make_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLDISTILL_CACHE", str(tmp_path / "cache"))


def draw(folder, names, count=4):
    """Bright images of one class and dark ones of the other, which any student tells apart."""
    for label, name in enumerate(("ant", "bee", "cat")):
        if name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = np.random.default_rng(10 * label + i).integers(0, 40, (8, 8, 3))
                Image.fromarray((noise + 100 * label).astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def run(tmp_path):
    for part in ("train", "val"):
        draw(tmp_path / "set" / part, ("ant", "bee", "cat"))
    recipe = {"data": f"folder:{tmp_path / 'set'}", "student": "resnet8", "method": "ce", "epochs": 8, "batch_size": 4}
    return pldistill.train(make_recipe(recipe), out=tmp_path / "run", device="cpu", workers=0)


def scored(run, root):
    return pldistill.evaluate(run, data=f"folder:{root}", device="cpu", workers=0)


@pytest.mark.parametrize("part", ["val", "valid", "validation", "test", "."])
def test_no_training_part_is_needed(run, tmp_path, part):
    draw(tmp_path / "plain" / part, ("ant", "bee", "cat"))
    figures = scored(run, tmp_path / "plain")
    assert figures == pldistill.evaluate(run, device="cpu", workers=0)
    assert figures["images"] == 12


def test_some_of_the_classes_are_scored_under_their_names(run, tmp_path):
    draw(tmp_path / "some", ("bee", "cat"))
    whole, figures = pldistill.evaluate(run, device="cpu", workers=0), scored(run, tmp_path / "some")
    assert figures["images"] == 8
    draw(tmp_path / "rest", ("ant",))
    rest = scored(run, tmp_path / "rest")
    assert 12 * whole["top1"] == pytest.approx(8 * figures["top1"] + 4 * rest["top1"])
    assert 12 * whole["val_loss"] == pytest.approx(8 * figures["val_loss"] + 4 * rest["val_loss"], rel=1e-5)
    assert whole["top1"] > 60  # the labels are not shuffled


def test_a_class_that_the_model_does_not_know_is_named_with_the_near_ones(run, tmp_path):
    draw(tmp_path / "others" / "val", ("ant", "bee"))
    (tmp_path / "others" / "val" / "bee").rename(tmp_path / "others" / "val" / "beee")
    with pytest.raises(ValueError, match=r"or some of them, got 2 .*: unknown class 'beee'; did you mean bee"):
        scored(run, tmp_path / "others")


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_training_takes_any_usual_name_of_the_validation_part(tmp_path, name):
    for part in ("train", name):
        draw(tmp_path / "set" / part, ("ant", "cat"))
    assert f"/{name}/" in open_data(f"folder:{tmp_path / 'set'}").val.paths[0]


def test_loose_images_say_what_is_missing(run, tmp_path):
    draw(tmp_path / "loose", ("ant",))
    for path in (tmp_path / "loose" / "ant").iterdir():
        path.rename(tmp_path / "loose" / path.name)
    (tmp_path / "loose" / "ant").rmdir()
    with pytest.raises(ValueError, match=r"folder: expected a folder for each class in .*loose, found none"):
        scored(run, tmp_path / "loose")


def test_what_a_user_should_know_of_the_data_is_said(run, tmp_path, capsys):
    draw(tmp_path / "odd" / "val", ("ant", "bee", "cat"))
    (tmp_path / "odd" / "val" / "ant" / "photo.heic").write_bytes(b"another format")
    note = f"data 'folder:{tmp_path / 'odd'}': files ignored, which are not read as images: 1 .heic"
    assert scored(run, tmp_path / "odd")["notes"] == [note]
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run.folder), "--data", f"folder:{tmp_path / 'odd'}", "--device", "cpu", "--workers", "0"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"note: {note}\ntop-1 ")
