"""A file of annotations: the type of every field, every id, and boxes in other units are refused in one line."""

import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coco_files import CATEGORIES, TRAIN, box, content, image
from pldistill.tasks.detection.instances import read_instances


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("annotations") / "instances_train.json"


def read(file, value):
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_instances(file)


def changed(change):
    """TRAIN with a change."""
    whole = copy.deepcopy(TRAIN)
    change(whole)
    return whole


def annotation(**fields):
    return changed(lambda it: it["annotations"].append({**box(8, 5, [1, 2, 3, 4]), **fields}))


def test_a_file_comes_back_by_rising_ids(file):
    found = read(file, annotation(segmentation=[[1, 2, 3, 4, 5, 6]], iscrowd=True, area=None, more=[{}]))
    assert [row["id"] for row in found.images] == [2, 5, 9]
    assert found.categories == ((3, "cat"), (7, "dog"), (90, "axe"))
    assert found.sizes.tolist() == [[30, 40], [30, 40], [50, 20]]
    assert found.boxes.tolist() == [[1, 2, 10, 20], [0, 0, 8, 6], [1, 2, 3, 4]]
    assert found.places.tolist() == [2, 1, 1]
    assert found.labels.tolist() == [3, 1, 1]
    assert set(found.annotations[2]) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}


WRONG = [
    (annotation(iscrowd="0"), "annotation 8 of image 5: iscrowd: expected 0 or 1, got '0'"),
    (annotation(iscrowd=2), "annotation 8 of image 5: iscrowd: expected 0 or 1, got 2"),
    (annotation(iscrowd=None), "annotation 8 of image 5: iscrowd: expected 0 or 1, got None"),
    (annotation(area="9"), "annotation 8 of image 5: area: expected a finite number of pixels, got '9'"),
    (annotation(image_id="5"), "annotation 8 of image '5': image_id: expected a whole number, got '5'"),
    (annotation(image_id=2**63), f"annotation 8 of image {2**63}: image_id: expected a whole number, got {2**63}"),
    (annotation(category_id=7.5), "annotation 8 of image 5: category_id: expected a whole number, got 7.5"),
    (annotation(category_id=True), "annotation 8 of image 5: category_id: expected a whole number, got True"),
    (annotation(category_id=4), "annotation 8 of image 5: category_id: expected one of the file's categories, got 4"),
    (annotation(id="8"), "annotations[2] of image 5: id: expected a whole number, got '8'"),
    (annotation(id=1), "annotation id: expected each once, got 1 2 times"),
    (
        annotation(bbox=[0, 0, 1]),
        "annotation 8 of image 5: bbox: expected four finite numbers (left, top, width, height in pixels), got [0, 0",
    ),
    (annotation(bbox=None), "annotation 8 of image 5: bbox: expected four finite numbers"),
    (annotation(bbox=[0, 0, 1, float("nan")]), "annotation 8 of image 5: bbox: expected four finite numbers"),
    (annotation(bbox=[0, 0, 1, float("inf")]), "annotation 8 of image 5: bbox: expected four finite numbers"),
    (annotation(bbox=[0, 0, 1, "3"]), "got [0, 0, 1, '3']"),
    (annotation(bbox={"left": 1}), "got {'left': 1}"),
    (changed(lambda it: it["annotations"][1].pop("bbox")), "annotation 2 of image 5: bbox: expected four finite"),
    (
        changed(lambda it: it["annotations"][1].pop("image_id")),
        "annotation 2: image_id: expected a whole number, got n",
    ),
    (changed(lambda it: it["annotations"].append(3)), "annotations[2]: expected an object, got 3"),
    (changed(lambda it: it["images"].append(image(5, name="x"))), "image id: expected each once, got 5 2 times"),
    (
        changed(lambda it: it["images"].append(image(6, name="./5.png"))),
        "image file_name: expected each once, got '5.png' 2 times of image ids 5, 6",
    ),
    (
        changed(lambda it: it["images"][0].update(width="40")),
        "image 5: width: expected a whole number of pixels from 1, got '40'",
    ),
    (changed(lambda it: it["images"][0].update(height=0)), "image 5: height: expected a whole number of pixels from 1"),
    (changed(lambda it: it["images"][0].update(file_name=7)), "image 5: file_name: expected a text, got 7"),
    (changed(lambda it: it["images"][0].pop("file_name")), "image 5: file_name: expected a text, got nothing"),
    (changed(lambda it: it["categories"].append({"id": 7, "name": "x"})), "category id: expected each once, got 7 2"),
    (
        changed(lambda it: it["categories"].append({"id": 8, "name": "dog"})),
        "category name: expected each once, got 'dog' 2 times of category ids 7, 8",
    ),
    (changed(lambda it: it["categories"].append({"id": 8})), "category 8: name: expected a text, got nothing"),
    (changed(lambda it: (it["images"].clear(), it["annotations"].clear())), "images: expected at least one, got none"),
    (changed(lambda it: it["categories"].clear()), "categories: expected at least one, got none"),
    (changed(lambda it: it.pop("categories")), "expected a list of objects under 'categories', as COCO's"),
    (changed(lambda it: it.update(images={})), "expected a list of objects under 'images', as COCO's instances files"),
    ([], "expected an object with images, annotations and categories, got []"),
    (None, "expected an object with images, annotations and categories, got None"),
    ("3", "expected an object with images, annotations and categories, got 3"),
    ("{", "not JSON (EOF while parsing an object at line 1 column 1)"),
    ("[" * 100_000 + "]" * 100_000, "not JSON (recursion limit exceeded"),
    ('{"images": ' + "[" * 100_000, "not JSON (recursion limit exceeded"),
    ("9" * 5_000, "not JSON (number out of range"),
]


@pytest.mark.parametrize(("value", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_is_refused_by_file_and_row(file, value, message):
    with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
        read(file, value)
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert message in said
    assert "\n" not in said
    assert len(said) < len(str(file)) + 300


def test_bytes_that_are_no_text_are_refused(file):
    file.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match=r"instances_train.json: not JSON \("):
        read_instances(file)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["images", "annotations", "categories"]), st.data())
def test_any_value_in_any_field_is_read_or_refused_in_one_line(file, name, data):
    """Whatever stands in a field, an entry or a list: a file is read, or refused with a ValueError that names it."""
    whole = copy.deepcopy(TRAIN)
    value = data.draw(VALUES)
    place = data.draw(st.sampled_from(["list", "entry", *whole[name][0]]))
    if place == "list":
        whole[name] = value
    elif place == "entry":
        whole[name][0] = value
    else:
        whole[name][0][place] = value
    assert outcome(file, whole) in ("read", f"{file}: ")


def outcome(file, value):
    """`read`, or the beginning of a message of one line."""
    try:
        read(file, value)
    except ValueError as error:
        return str(error)[: len(f"{file}: ")] if "\n" not in str(error) else str(error)
    return "read"


def boxes(rows, sizes=((640, 480), (500, 375))):
    """Two images with these boxes."""
    images = [image(number, *size) for number, size in enumerate(sizes, start=1)]
    return content(images, [box(number, 1 + number % 2, bbox) for number, bbox in enumerate(rows)], CATEGORIES)


NORMALIZED = [[0.1, 0.2, 0.5, 0.8], [0, 0, 1, 1], [0.5, 0.25, 0.125, 0.5]]
CORNERS = [[10, 20, 400, 300], [200, 100, 480, 370], [300, 200, 490, 370], [5, 5, 60, 50], [250, 10, 450, 300]]


def test_normalized_boxes_are_refused(file):
    with pytest.raises(
        ValueError, match=r"annotation 0 of image 1: bbox: expected pixels, got \[0.1, .* all 3 boxes"
    ) as e:
        read(file, boxes(NORMALIZED))
    assert "looks like normalized boxes" in str(e.value)
    assert len(read(file, boxes([*NORMALIZED, [3, 4, 1.5, 2]])).annotations) == 4
    assert len(read(file, boxes([[0, 0, 1, 1]], sizes=((1, 1), (1, 1)))).annotations) == 1  # an image of one pixel


def test_corners_in_place_of_a_corner_and_sides_are_refused(file):
    with pytest.raises(
        ValueError, match=r"bbox: expected left, top, width, height within 500x375 pixels, got "
    ) as caught:
        read(file, boxes(CORNERS))
    assert "3 of 5 boxes reach beyond their image, which looks like left, top, right, bottom" in str(caught.value)
    right = [[left, top, width - left, height - top] for left, top, width, height in CORNERS]
    assert read(file, boxes(right)).boxes.tolist() == right
    # A few boxes that are too long are an oddity, which is clipped and counted elsewhere.
    assert len(read(file, boxes([*right, [100, 100, 480, 370], [200, 90, 480, 370]])).annotations) == 7
