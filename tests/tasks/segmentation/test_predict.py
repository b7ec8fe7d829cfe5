"""What a run says of images of any size: plain masks, files, overlays, the command line and the report."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import pldistill
from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from pldistill.reports.html import write_report
from pldistill.tasks.base import make_task
from pldistill.tasks.segmentation.predict import as_mask, as_plain, index_image, overlay, palette
from pldistill.tasks.segmentation.sources import open_masks
from pldistill.tasks.segmentation.weights import load_segmenter
from tiny_segmenters import CE


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = make_recipe({**CE, "epochs": 8, "lr": 0.1})
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("masks") / "teacher", device="cpu")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    recipe = make_recipe({**CE, "method": "pld", "teacher": str(teacher.folder)})
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("masks") / "student", device="cpu")


@pytest.fixture
def images(tmp_path):
    val = open_masks("shapes:train=32,val=12").val
    files = [tmp_path / "one.png", tmp_path / "wide.png"]
    Image.fromarray(val.images[0].permute(1, 2, 0).numpy()).save(files[0])
    Image.fromarray(val.images[1].permute(1, 2, 0).numpy()).resize((200, 128)).save(files[1])
    return files


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return exit_.value.code, said.out, said.err


def test_plain_masks_are_cocos_runs_and_read_back():
    mask = torch.tensor([[0, 2, 2], [0, 0, 2]])
    plain = as_plain(mask, ["sky", "road", "car"])
    # down the columns: 0 0 2 0 2 2
    assert [(one["class"], one["index"], one["share"]) for one in plain] == [("sky", 0, 0.5), ("car", 2, 0.5)]
    assert [one["rle"] for one in plain] == [
        {"size": [2, 3], "counts": [0, 2, 1, 1, 2]},
        {"size": [2, 3], "counts": [2, 1, 1, 2]},
    ]
    assert as_mask(plain).tolist() == mask.tolist()
    drawn = torch.randint(5, (17, 9), generator=torch.Generator().manual_seed(0))
    assert (as_mask(json.loads(json.dumps(as_plain(drawn, "abcde")))) == drawn.numpy()).all()


def test_colors_are_pascal_vocs_and_files_are_indices():
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(color) for color in palette()[:7].tolist()] == first
    assert palette()[8].tolist() == [64, 0, 0]
    assert len({tuple(color) for color in palette()[:255].tolist()}) == 255
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with Image.open(io.BytesIO(index_image(mask))) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == mask).all()
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
    gray = torch.full((3, 2, 3), 100, dtype=torch.uint8)
    assert overlay(gray, torch.from_numpy(mask))[0, 1].tolist() == [round(45 + 0.55 * 128), 45, 45]


def test_an_image_is_answered_at_its_own_size(teacher, images):
    answers = make_task(teacher.recipe).predict(teacher.folder, images)
    loaded = load_segmenter(teacher.folder)
    for file, plain in zip(images, answers, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        seen = (64, round(64 * width / height))
        frame = functional.interpolate(pixels[None].float(), seen, mode="bilinear", antialias=True).round()
        with torch.no_grad():
            maps = loaded.model.maps(frame.to(torch.uint8))["logits"]
        expected = functional.interpolate(maps, (height, width), mode="bilinear").argmax(1)[0]
        assert (as_mask(plain) == expected.numpy()).all()
        assert sum(one["share"] for one in plain) == pytest.approx(1)


def test_the_command_line_prints_shares_and_writes_masks(capsys, teacher, images, tmp_path):
    answers = make_task(teacher.recipe).predict(teacher.folder, images)
    code, out, _ = run(capsys, "predict", teacher.folder, *images, "--draw", tmp_path / "drawn")
    assert code == 0
    assert f"{100 * answers[0][0]['share']:6.2f} %  {answers[0][0]['class']}" in out
    for file, plain in zip(images, answers, strict=True):
        with Image.open(tmp_path / "drawn" / file.name) as image:
            assert (np.asarray(image) == as_mask(plain)).all()
    code, out, _ = run(capsys, "predict", teacher.folder, images[0], "--json")
    assert json.loads(out)[0]["masks"] == answers[0]
    code, out, _ = run(capsys, "predict", teacher.folder, images[0], "--csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["class"] for line in lines] == [one["class"] for one in answers[0]]
    assert float(lines[0]["share"]) == answers[0][0]["share"]
    code, _, err = run(capsys, "predict", teacher.folder, images[0], "--score", "0.5")
    assert (code, "score: expected a run that finds boxes, got one of segmentation" in err) == (2, True)
    code, _, err = run(capsys, "predict", teacher.folder, images[0], "--draw", tmp_path)
    assert (code, "draw: expected a folder other than the images' own" in err) == (2, True)


def test_a_run_leaves_overlays_and_the_report_shows_them(teacher, student, tmp_path):
    files = RunRecord(student.folder).overlays()
    assert [file.name for file in files] == [f"{place + 1}-{place:06d}.png" for place in range(6)]
    val = open_masks("shapes:train=32,val=12").val
    with Image.open(files[1]) as image:
        assert image.size == (4 * 192 + 3 * 6, 192)
        panels = np.asarray(image)
    assert (panels[1::3, 1:192:3] == val.images[1].permute(1, 2, 0).numpy()).all()
    assert (panels[1::3, 199:390:3] == overlay(val.images[1], val.masks[1])).all()
    models = [load_segmenter(one.folder).model for one in (teacher, student)]
    for place, model in enumerate(models):
        said = overlay(val.images[1], model.classes_of(val.images[1:2], (64, 64))[0])
        left = (2 + place) * 198 + 1
        assert (panels[1::3, left : left + 191 : 3] == said).all()
    with Image.open(RunRecord(teacher.folder).overlays()[0]) as image:
        assert image.size[0] == 3 * 192 + 2 * 6
    page = write_report([RunRecord(teacher.folder), RunRecord(student.folder)], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 12
    assert "2-000001: image, ground truth, teacher, student" in text
    assert "mIoU" in text
    files[0].write_bytes(files[0].read_bytes()[:50])
    with pytest.raises(ValueError, match=r"1-000000.png: cannot be read as an image"):
        write_report([RunRecord(student.folder)], tmp_path / "again.html")
