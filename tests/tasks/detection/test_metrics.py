"""COCO's average precision: worked out by hand, and by the other library."""

import contextlib
import itertools
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_files import box, content, image, write
from pldistill.tasks.detection import metrics
from pldistill.tasks.detection.coco import annotation_rows
from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, BoxData, DrawnBoxes, make_box_loader
from pldistill.tasks.detection.metrics import COLUMNS, CocoFigures, DetectorValidation, coco_figures
from pldistill.tasks.detection.sources import open_boxes
from pldistill.types import Detections
from tiny_detectors import detector


def split(*images, ids=None):
    """Images of 400 x 500, each a list of (box, label) or (box, label, area, crowd)."""
    rows = [
        (*row, *([(row[0][2] - row[0][0]) * (row[0][3] - row[0][1]), False][len(row) - 2 :]))
        for p in images
        for row in p
    ]
    boxes, labels, areas, crowds = zip(*rows, strict=True)
    objects = BoxAnnotations(
        torch.tensor(boxes, dtype=torch.float64),
        torch.tensor(labels),
        torch.tensor(areas, dtype=torch.float64),
        torch.tensor(crowds),
    )
    count = len(images)
    numbers = tuple(range(50, 50 + count))
    known = Annotations(
        torch.tensor([[400, 500]] * count), objects, torch.tensor([len(p) for p in images]), numbers, ("x",) * count
    )
    return DrawnBoxes(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), known, ids)


def found(*rows):
    """Detections of (box, label, score)."""
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long(), torch.tensor(scores))


LEFT, RIGHT, FAR = (10, 10, 60, 60), (100, 10, 150, 60), (300, 300, 350, 350)  # 50 x 50, all medium


def test_by_hand():
    """Two objects; the surest detection is right, the next wrong, the third right: precision 1, then 2/3.

    Recall 1/2 is reached at precision 1 and recall 1 at 2/3: of the 101 recalls 0, 0.01 ... 1 the first 51 have 1. The
    third detection lies 10 of 50 pixels off: its IoU of 40 / 60 = 2/3 counts at 0.50, 0.55, 0.60 and 0.65 alone.
    """
    truth = split([(LEFT, 1), (RIGHT, 1)])
    answer = found((LEFT, 1, 0.9), (FAR, 1, 0.8), ((110, 10, 160, 60), 1, 0.7))
    figures = coco_figures({0: answer}, truth, 2)
    both, first = 100 * (51 + 50 * 2 / 3) / 101, 100 * 51 / 101
    wanted = {"AP": (4 * both + 6 * first) / 10, "AP50": both, "AP75": first, "APs": None, "APl": None}
    wanted["APm"] = wanted["AP"]
    assert figures.overall == pytest.approx(wanted)
    assert tuple(figures.overall) == COLUMNS
    assert figures.by_class == (figures.overall, dict.fromkeys(COLUMNS))  # of label 2 there is nothing to find


def test_some_of_the_classes_score_as_they_do_among_all():
    """Data with two of a detector's three classes in another order: the mean of what these two have among all."""
    truth = split([(LEFT, 1), (RIGHT, 2)], [(LEFT, 3), (RIGHT, 1)])
    answers = {0: found((LEFT, 1, 0.9), (FAR, 2, 0.8), (RIGHT, 2, 0.7)), 1: found((LEFT, 3, 0.6), (FAR, 1, 0.5))}
    whole = coco_figures(answers, truth, 3)
    some = split([(LEFT, 2)], [(LEFT, 1), (RIGHT, 2)])  # of classes "c" and "a"; the boxes of "b" are not annotated
    about = {"mean": (0, 0, 0), "std": (1, 1, 1), "image_size": 8, "max_side": 8, "hflip": False, "data_warnings": {}}
    data = BoxData("x", ("c", "a"), (7, 9), train=some.subset([]), val=some, **about)
    named = data.among(("a", "b", "c"), [2, 0])
    assert named.val.annotations.objects.labels.tolist() == [1, 3, 1]
    figures = coco_figures(answers, named.val, 3)
    assert figures.by_class[1]["AP"] is None
    assert figures.by_class[::2] == whole.by_class[::2]
    assert figures.overall["AP"] == pytest.approx((whole.by_class[0]["AP"] + whole.by_class[2]["AP"]) / 2)
    assert 0 < figures.overall["AP"] < 100


def test_what_is_found_in_an_image_does_not_depend_on_its_batch(tmp_path, monkeypatch):
    """Images of three shapes, in batches of 1, 2 and 5."""
    generator = np.random.default_rng(0)
    sizes = [(40, 70), (64, 64), (40, 70), (70, 40), (64, 64)]
    rows = [image(number, width, height) for number, (height, width) in enumerate(sizes, start=1)]
    boxes = [box(number, number, [3, 4, 20, 20]) for number in range(1, 6)]
    write(tmp_path, content(rows, boxes), content(rows, boxes))
    for number, (height, width) in enumerate(sizes, start=1):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / f"{number}.png")
    data = open_boxes(f"coco:{tmp_path}", image_size=64)
    model, seen = detector(0, options={"score_threshold": 0.0}), []
    monkeypatch.setattr(metrics, "coco_figures", lambda found, *_: seen.append(found) or CocoFigures({"AP": 0.0}, ()))
    for count in (1, 2, 5):
        shown = {"short_side": 64, "max_side": 200, "hflip": False, "seed": 0, "shuffle": False}
        loader = make_box_loader(data.val, batch_size=count, device=torch.device("cpu"), **shown)
        DetectorValidation(loader, replace(data, classes=()), None, contextlib.nullcontext)(model)
    for other in seen[1:]:
        assert list(other) != []
        for number, alone in seen[0].items():
            assert len(alone.boxes) > 0
            torch.testing.assert_close(other[number].boxes, alone.boxes, rtol=1e-4, atol=1e-3)
            assert torch.equal(other[number].labels, alone.labels)
            torch.testing.assert_close(other[number].scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_classes_with_something_to_find():
    truth = split([(LEFT, 1), (RIGHT, 3)], [(LEFT, 1)])
    figures = coco_figures({0: found((LEFT, 1, 0.5), (FAR, 2, 0.9)), 1: found()}, truth, 3)
    assert figures.by_class[0]["AP"] == pytest.approx(100 * 51 / 101)
    assert figures.by_class[1]["AP"] is None
    assert figures.by_class[2]["AP"] == 0
    assert figures.overall["AP"] == pytest.approx(100 * 51 / 101 / 2)


def test_areas_are_the_annotations_own_and_others_are_ignored():
    """A box of 50 x 50 whose mask has 1000 pixels is small; what finds it does not count for or against the medium."""
    truth = split([(LEFT, 1, 1000.0, False), (RIGHT, 1)])
    figures = coco_figures({0: found((LEFT, 1, 0.9), (RIGHT, 1, 0.8))}, truth, 1).overall
    assert figures == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100, "APs": 100, "APm": 100, "APl": None})
    large = split([((0, 0, 96, 96.5), 1)], [((0, 0, 32, 31), 1)])
    assert [coco_figures({0: found(), 1: found()}, large, 1).overall[name] for name in COLUMNS[3:]] == [0, None, 0]


def test_what_is_found_in_a_crowd_counts_neither_way():
    crowd = ((0, 0, 200, 200), 1, 40_000.0, True)
    inside = found((LEFT, 1, 0.9), (RIGHT, 1, 0.8), (FAR, 1, 0.7))
    beside = split([crowd, (FAR, 1)])
    assert coco_figures({0: inside}, beside, 1).overall["AP"] == pytest.approx(100)
    assert coco_figures({0: inside}, split([(FAR, 1)]), 1).overall["AP"] == pytest.approx(100 / 3)
    assert set(coco_figures({0: inside}, split([crowd]), 1).overall.values()) == {None}


def test_nothing_found_is_zero_and_silence_is_kept(capfd):
    figures = coco_figures({0: found()}, split([(LEFT, 1)]), 1)
    assert figures.overall == {"AP": 0, "AP50": 0, "AP75": 0, "APs": None, "APm": 0, "APl": None}
    assert capfd.readouterr() == ("", "")


def test_a_hundred_detections_of_a_class_and_image_count():
    many = [(FAR, 1, 0.9 - 0.001 * k) for k in range(100)]
    assert coco_figures({0: found(*many, (LEFT, 1, 0.1))}, split([(LEFT, 1)]), 1).overall["AP"] == 0
    assert coco_figures({0: found(*many[:99], (LEFT, 1, 0.1))}, split([(LEFT, 1)]), 1).overall["AP"] == pytest.approx(1)


def random_case(seed):
    """Forty images of six classes, of all sizes, some crowds; detections near and far, two of equal score."""
    generator = np.random.default_rng(seed)
    images, answers = [], {}
    for number in range(40):
        rows, answer = [], []
        for _ in range(generator.integers(0, 7)):
            side = np.exp(generator.uniform(np.log(8), np.log(200), 2))
            corner = generator.uniform(0, (500 - side[0], 400 - side[1]))
            box, label = [*corner, *(corner + side)], int(generator.integers(1, 6))
            rows.append((box, label, float(side.prod() * generator.uniform(0.5, 1)), bool(generator.random() < 0.1)))
            for _ in range(generator.integers(0, 3)):
                moved = np.array(box) + generator.normal(0, 0.1, 4) * np.tile(side, 2)
                moved[2:] = np.maximum(moved[:2] + 1, moved[2:])
                wrong = generator.random() < 0.2
                answer.append((moved.tolist(), 6 if wrong else label, round(float(generator.random()), 2)))
        images.append(rows)
        answers[number * 3] = found(*answer)
    return split(*images, ids=torch.arange(40) * 3), answers


@pytest.mark.parametrize("seed", [0, 1])
def test_the_other_library_agrees(seed):
    truth, answers = random_case(seed)
    figures = coco_figures(answers, truth, 6)
    theirs = COCO()
    theirs.dataset = {
        "info": {},
        "images": [{"id": number, "width": 500, "height": 400} for number in truth.image_ids],
        "categories": [{"id": label, "name": str(label)} for label in range(1, 7)],
        "annotations": annotation_rows(truth, range(1, 7)),
    }
    rows = [
        {"image_id": image, "category_id": label, "bbox": [x, y, right - x, bottom - y], "score": score}
        for image, answer in zip(truth.image_ids, answers.values(), strict=True)
        for (x, y, right, bottom), label, score in zip(
            answer.boxes.tolist(), answer.labels.tolist(), answer.scores.tolist(), strict=True
        )
    ]
    with redirect_stdout(StringIO()):
        theirs.createIndex()
        scored = COCOeval(theirs, theirs.loadRes(rows), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert list(figures.overall.values()) == pytest.approx(list(100 * scored.stats[:6]), abs=1e-9)
    precision = scored.eval["precision"][:, :, :, 0, -1]
    for label, column in enumerate(figures.by_class):
        expected = precision[:, :, label]
        assert column["AP"] == (None if (expected == -1).all() else pytest.approx(100 * expected.mean()))
    assert 10 < figures.overall["AP"] < 90


def test_the_order_of_the_images_changes_nothing():
    truth, answers = random_case(2)
    places = list(reversed(range(len(truth))))
    turned = dict(reversed(answers.items()))
    assert coco_figures(turned, truth, 6) == coco_figures(answers, truth, 6)
    figures, again = coco_figures(answers, truth, 6), coco_figures(answers, truth.subset(places), 6)
    for name in COLUMNS:
        assert figures.overall[name] == pytest.approx(again.overall[name], abs=1e-9)


def test_answers_that_do_not_fit():
    truth = split([(LEFT, 1)], [(LEFT, 1)])
    for answers, more in (({0: found()}, "got 1, 0 of"), ({0: found(), 2: found()}, "got 2, 1 of")):
        with pytest.raises(ValueError, match=f"expected one entry for each of the 2 images, {more} other images"):
            coco_figures(answers, truth, 1)
    for label in (0, 2):
        with pytest.raises(ValueError, match=rf"detections: expected labels in 1..1, got \[{label}\]"):
            coco_figures({0: found((LEFT, label, 0.5)), 1: found()}, truth, 1)


def test_images_are_told_apart():
    """The same box in two images: found in one of them, it is half found."""
    truth = split([(LEFT, 1)], [(LEFT, 1)])
    for place, other in itertools.permutations((0, 1)):
        figures = coco_figures({place: found((LEFT, 1, 0.9)), other: found()}, truth, 1)
        assert figures.overall["AP50"] == pytest.approx(100 * 51 / 101)
