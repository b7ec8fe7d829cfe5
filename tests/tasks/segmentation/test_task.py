"""Which rows the two models are compared in, what is trained at full size, and how a set of images is scored."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pldistill.losses import cwd, pld
from pldistill.tasks.registry import find_method
from pldistill.tasks.segmentation.metrics import confusion, figures_of
from pldistill.tasks.segmentation.options import SegmentationOptions
from pldistill.tasks.segmentation.segmenter import LOGITS
from pldistill.tasks.segmentation.task import Segmentation
from pldistill.teachers.live import LiveTeacher
from pldistill.training.distiller import Distiller
from pldistill.types import IGNORED
from tiny_segmenters import batch, segmenter


def pair(student, teacher, scene, **options):
    return Segmentation(SegmentationOptions(**options)).pair(student, teacher, scene)


def test_a_row_is_a_pixel_of_the_map_that_has_a_class():
    student, other, scene = segmenter().eval(), segmenter(seed=1).eval(), batch(side=32)
    found = pair(student, LiveTeacher(other), scene)
    logits, theirs = (model.maps(scene.images)[LOGITS] for model in (student, other))
    assert logits.shape == (3, 4, 4, 4)  # stride 8
    expected = []
    for image in range(3):
        for down in range(4):
            for across in range(4):  # the pixel under the center of the map's own
                label = scene.masks[image, 8 * down + 4, 8 * across + 4]
                if label != IGNORED:
                    expected.append((logits[image, :, down, across], theirs[image, :, down, across], label))
    ours, teachers, labels = (torch.stack(column) for column in zip(*expected, strict=True))
    assert 0 < len(labels) < 48
    torch.testing.assert_close(found.student.logits, ours)
    torch.testing.assert_close(found.teacher.logits, teachers)
    assert found.labels.tolist() == labels.tolist()
    assert found.hits == (ours.argmax(1) == labels).sum()
    assert found.counted == len(labels)
    assert not found.teacher.logits.requires_grad


def test_its_own_term_is_the_cross_entropy_of_torchvisions_answer():
    """Of what torchvision's module gives for the normalized images, over all pixels but those of no class."""
    for name in ("lraspp:test_resnet", "lraspp_mobilenet_v3_large"):
        student, scene = segmenter(name).eval(), batch(side=32)
        images = (scene.images.float() / 255 - 0.5) / 0.25
        out = student.model(images)["out"]
        expected = functional.cross_entropy(out, scene.masks, ignore_index=255)
        torch.testing.assert_close(pair(student, None, scene).own()["task"], expected)


def test_a_teacher_of_another_stride_is_resized_to_the_students():
    student, other, scene = segmenter().eval(), segmenter("deeplabv3_mobilenet_v3_large").eval(), batch(side=64)
    theirs = other.maps(scene.images)[LOGITS]
    assert theirs.shape[2:] == (4, 4)
    wanted = functional.interpolate(theirs, (8, 8), mode="bilinear").movedim(1, 3).flatten(0, 2)
    kept = scene.masks[:, 4::8, 4::8].flatten() != IGNORED
    torch.testing.assert_close(pair(student, LiveTeacher(other), scene).teacher.logits, wanted[kept])


def test_the_methods_term_is_the_loss_of_the_rows():
    student, other, scene = segmenter(), segmenter(seed=1), batch()
    method = find_method("pld", "segmentation").build(temperature=1.0)
    distiller = Distiller(student.eval(), method, Segmentation(SegmentationOptions()))
    step = distiller(scene, LiveTeacher(other), {"task": 1.0, "pld": 2.0})
    found = pair(student, LiveTeacher(other), scene)
    expected = pld(found.student.logits, found.teacher.logits, found.labels)
    torch.testing.assert_close(step.loss, found.own()["task"] + 2 * expected)
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in other.parameters())


def test_a_batch_without_a_pixel_of_a_class_is_a_zero_with_a_graph():
    student, scene = segmenter(), batch()
    scene = replace(scene, masks=torch.full_like(scene.masks, IGNORED))
    for name in ("ce", "kd", "pld", "dist"):
        spec = find_method(name, "segmentation")
        distiller = Distiller(student, spec.build(**spec.options), Segmentation(SegmentationOptions()))
        step = distiller(scene, LiveTeacher(segmenter(seed=1)), spec.weights)
        assert step.loss == 0
        step.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_the_figures_are_counted_by_hand():
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 3]])
    answers = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 3]])
    matrix = confusion(truth, answers, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    found = figures_of(matrix, ["sky", "road", "car", "tree"])
    assert found["per_class"] == pytest.approx({"sky": 50.0, "road": 25.0, "car": None, "tree": 100.0})
    assert found["miou"] == pytest.approx((50 + 25 + 100) / 3)  # a pixel is called car, and none is one
    assert found["absent_classes"] == ["car"]
    assert found["pixel_accuracy"] == pytest.approx(100 * 4 / 7)
    nothing = figures_of(torch.zeros(4, 4, dtype=torch.int64), ["sky", "road", "car", "tree"])
    assert (nothing["miou"], nothing["pixel_accuracy"]) == (None, None)


def test_one_matrix_of_the_whole_set_is_no_mean_over_batches():
    scene = batch(count=6, classes=4)
    answers = torch.randint(4, scene.masks.shape, generator=torch.Generator().manual_seed(3))
    whole = confusion(scene.masks, answers, 4)
    parts = sum(confusion(scene.masks[at], answers[at], 4) for at in torch.arange(6).split(2))
    assert whole.tolist() == parts.tolist()
    for label in range(4):
        ours, theirs = scene.masks == label, (answers == label) & (scene.masks != IGNORED)
        expected = 100 * (ours & theirs).sum() / (ours | theirs).sum()
        assert figures_of(whole, "abcd")["per_class"]["abcd"[label]] == pytest.approx(expected.item())


def test_channel_wise_distillation_is_of_the_whole_maps_of_logits():
    """All their pixels, those of no class too, the teacher's resized to the student's."""
    student, other, scene = segmenter().eval(), segmenter("deeplabv3_mobilenet_v3_large").eval(), batch(side=64)
    spec = find_method("cwd", "segmentation")
    taps = spec.taps(student.stages(), other.stages(), spec.options)
    student.listen(taps[0])
    other.listen(taps[1])
    method = spec.build(student.probe(64), other.probe(64), **spec.options)
    step = Distiller(student, method, Segmentation(SegmentationOptions()))(scene, LiveTeacher(other), spec.weights)
    ours, theirs = (model.maps(scene.images)[LOGITS] for model in (student, other))
    expected = cwd(ours, functional.interpolate(theirs, (8, 8), mode="bilinear"), temperature=4.0)
    torch.testing.assert_close(step.raw["cwd"], expected)
    torch.testing.assert_close(step.weighted["cwd"], 3 * expected)


def test_stages_are_tapped_by_name_and_number():
    student = segmenter()
    assert list(student.stages()) == ["low", "high", "logits"]
    student.listen(["low", -1])
    found = student.eval()(batch(side=32).images)
    assert {name: tuple(maps.shape) for name, maps in found.features.items()} == {
        "low": (3, 48, 4, 4),
        "logits": (3, 4, 4, 4),
    }
    with pytest.raises(ValueError, match="unknown stage 'lo'; did you mean low"):
        student.listen(["lo"])


@pytest.mark.parametrize(
    ("name", "stride", "millions"),
    [
        ("lraspp_mobilenet_v3_large", 8, 3.22),
        ("deeplabv3_mobilenet_v3_large", 16, 11.02),
        ("deeplabv3_resnet50", 8, 39.63),
        ("fcn_resnet50", 8, 32.96),
    ],
)
def test_torchvisions_models_are_had_at_their_own_stride(name, stride, millions):
    """Parameters for 21 classes, without an auxiliary head; the map is what torchvision's own forward pass resizes."""
    model = segmenter(name, classes=21).eval()
    assert sum(parameter.numel() for parameter in model.model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    images = batch(count=1, side=64).images
    with torch.no_grad():
        maps = model.maps(images)[LOGITS]
        assert maps.shape == (1, 21, 64 // stride, 64 // stride)
        out = model.model((images.float() / 255 - 0.5) / 0.25)["out"]
        assert torch.equal(model.classes_of(images, (64, 64)), out.argmax(1))
