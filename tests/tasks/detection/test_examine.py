"""Is a detector's teacher better than chance? Background is an answer, so a common class hides nothing."""

import pytest
import torch
from accelerate import Accelerator
from torchvision.ops import box_iou

from pldistill.tasks.detection.dataset import Annotations, BoxAnnotations, BoxData, DrawnBoxes
from pldistill.tasks.detection.examine import OVERLAP, background_boxes, best_look
from pldistill.tasks.detection.faster_rcnn import Detector
from pldistill.teachers.live import LiveTeacher
from pldistill.training.preflight import preflight
from pldistill.training.progress import SilentCallback
from pldistill.types import Outputs
from tiny_detectors import NET, detector, recipe

SIDE = 64


def test_boxes_of_background_are_in_the_image_and_beside_every_true_box():
    boxes = torch.tensor([[4.0, 4, 30, 20], [28, 40, 60, 62], [0, 50, 10, 64]])
    found = background_boxes(boxes, (64, 80), 7)
    assert found.shape == (3, 4)
    assert found.dtype == torch.float32
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= torch.tensor([80, 64])).all()
    assert (found[:, 2:] > found[:, :2]).all()
    assert box_iou(found, boxes).max() < OVERLAP
    assert torch.equal(background_boxes(boxes, (64, 80), 7), found)
    assert not torch.equal(background_boxes(boxes, (64, 80), 8), found)
    assert background_boxes(boxes[:0], (64, 80), 7).shape == (0, 4)


def test_where_no_place_is_left_there_is_no_background():
    rows = torch.arange(0, 33, 8.0)
    corners = torch.cartesian_prod(rows, rows)
    halves = torch.cat([corners, corners + 32], dim=1)  # every place of half the image's sides
    assert len(background_boxes(halves, (64, 64), 0)) == 25  # a part of each
    assert len(background_boxes(torch.cat([halves, torch.tensor([[0.0, 0, 64, 64]])]), (64, 64), 0)) == 25
    (one,) = background_boxes(torch.tensor([[0.0, 0, 64, 64]]), (64, 64), 0)  # a part of what fills the image
    assert (one[2] - one[0]) * (one[3] - one[1]) < OVERLAP * 64 * 64


class Saying(Detector):
    """Says of a true box what `classes` maps its label to, and of all else background; or always one answer."""

    def __init__(self, columns, classes=None, always=None):
        super().__init__(detector(columns=columns).model, mean=(0.5,) * 3, std=(0.5,) * 3)
        self.classes, self.always = classes, always

    def answer(self, batch):
        said = []
        for regions, objects in zip(batch.regions, batch.targets, strict=True):
            for region in regions:
                here = (objects.boxes == region).all(1).nonzero().flatten().tolist()
                label = int(objects.labels[here[0]]) if here else 0
                said.append(self.always if self.always is not None else self.classes.get(label, label) if label else 0)
        return Outputs(torch.nn.functional.one_hot(torch.tensor(said), self.width).float())


def data(labels, classes):
    """Images of two objects each."""
    count = len(labels)
    boxes = torch.tensor([[4.0, 4, 24, 30], [36, 20, 60, 60]], dtype=torch.float64).repeat(count // 2, 1)
    objects = BoxAnnotations(boxes, torch.tensor(labels), torch.ones(count), torch.zeros(count, dtype=torch.bool))
    ids = tuple(range(count // 2))
    sizes = torch.full((count // 2, 2), SIDE)
    known = Annotations(sizes, objects, torch.full((count // 2,), 2), ids, tuple(map(str, ids)))
    split = DrawnBoxes(torch.zeros(count // 2, 3, SIDE, SIDE, dtype=torch.uint8), known)
    ones = (1.0, 1.0, 1.0)
    names = tuple("abc"[:classes])
    ids = tuple(range(1, classes + 1))
    return BoxData("boxes", names, ids, ones, ones, SIDE, SIDE, False, split, split, {})


def check(labels, count, **saying):
    asked = data(labels, count)
    made = recipe(method="kd", teacher=f"{NET}@some.pth", trust_teacher=False)
    teacher = LiveTeacher(Saying(count + 1, **saying))
    return preflight(made, asked, teacher, accelerator=Accelerator(cpu=True), workers=0, callback=SilentCallback())


COMMON = [1] * 52 + [2] * 4 + [3] * 4  # 86.7 % of the objects are of one class
SWAPPED = {1: 2, 2: 1}


@pytest.mark.parametrize(
    ("labels", "count", "chance"),
    [
        ([1] * 40, 1, 40 / 80),
        (COMMON, 3, 52 / 112),  # of 60 boxes of background 52 count, as many as of the commonest class
        ([1, 2, 3, 1] * 10, 3, 20 / 60),
    ],
)
def test_a_teacher_that_knows_passes_however_common_a_class_is(labels, count, chance):
    found = check(labels, count, classes={})
    assert found["hits"] == found["images"]
    assert found["chance"] == pytest.approx(chance)
    assert found["p"] < 1e-6


@pytest.mark.parametrize(
    ("labels", "count", "saying"),
    [
        ([1] * 40, 1, {"always": 1}),
        ([1] * 40, 1, {"always": 0}),
        (COMMON, 3, {"always": 1}),
        (COMMON, 3, {"always": 0}),
        (COMMON, 3, {"classes": SWAPPED}),  # labels in another order
        ([1, 2, 3, 1] * 10, 3, {"classes": {1: 2, 2: 3, 3: 1}}),
    ],
)
def test_a_teacher_of_one_answer_or_of_other_labels_is_refused(labels, count, saying):
    with pytest.raises(ValueError, match=r"validation RoIs right .* where chance is \d\d\.\d %"):
        check(labels, count, **saying)


def test_a_weak_teacher_that_calls_every_box_background_is_known_by_its_classes():
    labels = torch.tensor([1, 2, 3] * 20 + [0] * 60)
    logits = torch.nn.functional.one_hot(labels, 4).float()
    logits[:, 0] = 5
    hits, right = best_look(logits, labels)
    assert (hits, right.tolist()) == (60, sorted(labels.tolist())[60:])


def test_a_teacher_that_knows_the_common_class_and_background_alone_passes():
    labels = torch.tensor([1] * 90 + [2] * 5 + [3] * 5 + [0] * 100)
    logits = torch.nn.functional.one_hot((labels > 0).long(), 4).float()
    hits, right = best_look(logits, labels)
    assert (hits, len(right)) == (180, 190)


def test_where_there_is_one_answer_nothing_can_be_told():
    hits, right = best_look(torch.rand(7, 2), torch.ones(7, dtype=torch.int64))
    assert (hits, len(right)) == (0, 0)
