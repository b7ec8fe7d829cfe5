"""Both models are asked about the student's RoIs, once; what counts, what is summed and what is trained."""

import pytest
import torch
from torch.nn import functional

from pldistill.losses import pld
from pldistill.tasks.detection.methods import OWN
from pldistill.tasks.detection.options import DetectionOptions
from pldistill.tasks.detection.task import Detection
from pldistill.tasks.registry import TASKS, find_method
from pldistill.teachers.live import LiveTeacher
from pldistill.training.distiller import Distiller
from tiny_detectors import SMALL, detector, scenes


def task(**options):
    return Detection(DetectionOptions(**{**SMALL, **options}))


class Listening:
    """A teacher that keeps what it was asked."""

    def __init__(self, teacher):
        self.teacher, self.asked = teacher, []

    def __call__(self, batch):
        self.asked.append(batch)
        return self.teacher(batch)


def pair(student, teacher, batch, seed=5, **options):
    torch.manual_seed(seed)
    return task(**options).pair(student.train(), teacher, batch)


def by_hand(model, batch, regions):
    """The box head's logits of a model in eval mode, RoI by RoI, each image padded as in the batch."""
    inner, rows = model.eval().model, []
    height = -(-max(image.shape[1] for image in batch.images) // 32) * 32
    width = -(-max(image.shape[2] for image in batch.images) // 32) * 32
    for image, boxes in zip(batch.images, regions, strict=True):
        shown = (image.float() / 255 - model.mean) / model.std
        padded = functional.pad(shown, (0, width - image.shape[2], 0, height - image.shape[1]))
        maps = inner.backbone(padded[None])
        pooled = inner.roi_heads.box_roi_pool(maps, [boxes], [tuple(image.shape[1:])])
        rows.append(inner.roi_heads.box_predictor(inner.roi_heads.box_head(pooled))[0])
    return torch.cat(rows)


def test_the_loss_sees_the_teachers_logits_of_the_students_regions():
    student, other = detector(0), detector(1, mean=(0.1, 0.2, 0.3))
    teacher, batch = Listening(LiveTeacher(other)), scenes()
    found = pair(student, teacher, batch)
    (asked,) = teacher.asked
    assert [len(some) for some in asked.regions] == [16, 16]
    assert asked.images == batch.images
    with torch.no_grad():
        expected = by_hand(other, batch, asked.regions)
    torch.testing.assert_close(found.teacher.logits, expected)
    assert found.student.logits.shape == found.teacher.logits.shape == (32, 4)
    assert not found.teacher.logits.requires_grad
    assert found.labels.unique().tolist() == [0, 1, 2, 3]  # the true boxes are among the RoIs
    # The same step of torchvision's own training forward samples the same RoIs and has the same losses.
    torch.manual_seed(5)
    images = student.pad(batch.images)
    targets = [{"boxes": each.boxes, "labels": each.labels} for each in batch.targets]
    maps = student.maps(images)
    proposals, proposing = student.model.rpn(images, maps, targets)
    _, plain = student.model.roi_heads(maps, proposals, images.image_sizes, targets)
    torch.testing.assert_close(found.own(), {**plain, **proposing})
    assert list(found.own()) == list(OWN)


def test_the_step_is_the_weighted_sum_and_a_term_of_weight_0_has_no_part():
    student, teacher = detector(0).train(), LiveTeacher(detector(1))
    spec, batch = find_method("pld", "detection"), scenes()
    distiller = Distiller(student, spec.build(**spec.options), task())
    torch.manual_seed(5)
    step = distiller(batch, teacher, {**spec.weights, "pld": 2.0, "loss_classifier": 0.0})
    assert set(step.raw) == {*OWN, "pld"} - {"loss_classifier"}
    said = pair(student, teacher, batch)
    torch.testing.assert_close(step.raw["pld"], pld(said.student.logits, said.teacher.logits, said.labels))
    own = said.own()
    expected = own["loss_box_reg"] + own["loss_objectness"] + own["loss_rpn_box_reg"] + 2 * step.raw["pld"]
    torch.testing.assert_close(step.loss, expected)
    assert int(step.hits) == int((said.student.logits.argmax(1) == said.labels).sum())
    assert int(step.labelled) == 32


@pytest.mark.parametrize("name", list(TASKS["detection"].methods))
def test_every_method_trains_every_parameter_of_the_student_and_leaves_the_teacher(name):
    student, teacher = detector(0).train(), LiveTeacher(detector(1))
    spec, given = find_method(name, "detection"), task()
    built = spec.build(**spec.options) if spec.taps is None else tapped(spec, student, teacher.model)
    before = teacher.fingerprint()
    distiller = Distiller(student, built, given).train()
    step = distiller(scenes(), teacher if spec.needs_teacher else None, dict(spec.weights))
    assert set(step.raw) == set(spec.weights) == {*OWN, *({name} if spec.needs_teacher else ())}
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in distiller.parameters())
    assert teacher.fingerprint() == before
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def tapped(spec, student, teacher):
    ours, theirs = spec.taps(("fpn0", "fpn1", "fpn2", "fpn3"), ("fpn0", "fpn1", "fpn2", "fpn3"), spec.options)
    student.listen(ours)
    teacher.listen(theirs)
    batch = scenes(((64, 64),), ((),), (torch.tensor([[0.0, 0, 64, 64]]),))
    training = student.training
    outputs = [model.eval().answer(batch) for model in (student, teacher)]
    student.train(training)
    assert list(outputs[0].features) == ["fpn2"]
    assert outputs[0].features["fpn2"].shape == (1, 16, 4, 4)
    return spec.build(*outputs, **spec.options)


def test_a_frozen_part_gets_no_gradient_and_frozen_statistics_stay():
    model = detector(0, options={"trainable_layers": 3, "norm": "frozen"}).train()
    before = {name: value.clone() for name, value in model.model.named_buffers()}
    found = pair(model, None, scenes())
    sum(found.own().values()).backward()
    fixed = {name.split(".")[2] for name, parameter in model.model.named_parameters() if not parameter.requires_grad}
    assert fixed == {"conv1", "layer1"}
    for parameter in model.parameters():
        assert (parameter.grad is None) is not parameter.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.model.named_buffers())


def test_background_rows_may_stand_back():
    student, teacher = detector(0), Listening(LiveTeacher(detector(1)))
    whole = pair(student, teacher, scenes())
    some = pair(student, teacher, scenes(), background_rows=False)
    kept = whole.labels > 0
    assert 0 < kept.sum() < 32
    assert torch.equal(some.labels, whole.labels[kept])
    assert torch.equal(some.student.logits, whole.student.logits[kept])
    torch.testing.assert_close(some.teacher.logits, whole.teacher.logits[kept])
    assert sum(map(len, teacher.asked[1].regions)) == len(some.labels)
    assert int(some.counted) == 32
    assert torch.equal(some.own()["loss_classifier"], whole.own()["loss_classifier"])


@pytest.mark.parametrize("name", list(TASKS["detection"].methods))
@pytest.mark.parametrize("labels", [((1,), (2, 3)), ((), ())])
def test_a_student_that_proposes_nothing_is_trained(name, labels):
    """On the true boxes alone, and where there are none on its proposals' own terms: no term is NaN."""
    student, teacher = detector(0).train(), LiveTeacher(detector(1))
    student.model.rpn.min_size = 1e9  # every proposal is too small
    spec, given = find_method(name, "detection"), task()
    built = spec.build(**spec.options) if spec.taps is None else tapped(spec, student, teacher.model)
    batch = scenes(labels=labels)
    distiller = Distiller(student, built, given).train()
    step = distiller(batch, teacher if spec.needs_teacher else None, dict(spec.weights))
    assert int(step.labelled) == sum(map(len, labels))
    assert all(torch.isfinite(value) for value in step.raw.values())
    if not any(labels):
        assert step.raw["loss_classifier"] == step.raw["loss_box_reg"] == 0 < step.raw["loss_objectness"]
    step.loss.backward()
    assert all(parameter.grad is None or torch.isfinite(parameter.grad).all() for parameter in distiller.parameters())


def test_a_detector_that_proposes_nothing_finds_nothing(monkeypatch):
    model, batch = detector(0, options={"score_threshold": 0.0}).eval(), scenes()
    with torch.no_grad():
        whole = model.detect(batch.images)
        rpn = model.model.rpn
        every = rpn.filter_proposals
        with monkeypatch.context() as patch:
            first = lambda *given: ([every(*given)[0][0], torch.zeros(0, 4)], [])  # noqa: E731
            patch.setattr(rpn, "filter_proposals", first)
            some = model.detect(batch.images)
        rpn.min_size = 1e9
        none = model.detect(batch.images, batch.sizes)
        torchvisions = model.model([image / 255 for image in batch.images])
    assert torch.equal(some[0].boxes, whole[0].boxes)
    assert len(some[0].boxes) > 0
    for found in (some[1], *none):
        assert (found.boxes.shape, found.labels.shape, found.scores.shape) == ((0, 4), (0,), (0,))
    assert [each["boxes"].shape for each in torchvisions] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("background", [True, False])
def test_images_without_boxes_are_learnt_from(background):
    student, teacher = detector(0).train(), LiveTeacher(detector(1))
    spec = find_method("pld", "detection")
    distiller = Distiller(student, spec.build(**spec.options), task(background_rows=background))
    step = distiller(scenes(labels=((), ())), teacher, dict(spec.weights))
    assert bool(step.raw["pld"] > 0) is background
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


def test_columns_by_category_id_are_dropped_or_kept():
    """Classes of ids 1, 4 and 5: a model with a column for each id up to 5, beside one with a column for each class."""
    columns = [0, 1, 4, 5]
    teacher = LiveTeacher(gapped(1, columns, unused=False))
    found = pair(detector(0), teacher, scenes())
    asked = Listening(LiveTeacher(gapped(1, columns, unused=True)))
    whole = pair(gapped(0, columns, unused=True), asked, scenes(), unused_ids="keep")
    assert found.teacher.logits.shape == (32, 4)
    assert whole.student.logits.shape == whole.teacher.logits.shape == (32, 6)
    assert set(whole.labels.tolist()) == {0, 1, 4, 5}
    torch.testing.assert_close(teacher(asked.asked[0]).logits, whole.teacher.logits[:, columns])


def gapped(seed, columns, unused):
    torch.manual_seed(seed)
    plain = detector(seed, columns=6)
    return type(plain)(plain.model, mean=(0.5,) * 3, std=(0.25,) * 3, columns=columns, unused=unused)


def test_bfloat16_computes_boxes_and_losses_in_float32():
    student, teacher = detector(0), LiveTeacher(detector(1))
    exact = pair(student, teacher, scenes())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = pair(student, teacher, scenes())
    assert half.student.logits.dtype == half.teacher.logits.dtype == torch.float32
    own = half.own()
    assert {value.dtype for value in own.values()} == {torch.float32}
    for name, value in exact.own().items():
        torch.testing.assert_close(own[name], value, rtol=0.2, atol=0.02)


def test_detections_are_torchvisions_in_pixels_of_the_image_before_it_was_resized():
    model, batch = detector(0, options={"score_threshold": 0.0}), scenes()
    with torch.no_grad():
        found = model.eval().detect(batch.images, ((32, 128), (64, 96)))
        plain = model.detect(batch.images)
        inner = model.model.eval()
        inner.transform._skip_resize = True
        inner.transform.image_mean, inner.transform.image_std = (0.5,) * 3, (0.25,) * 3
        inner.transform.min_size, inner.transform.max_size = (64,), 96
        expected = inner([image.float() / 255 for image in batch.images])
    for ours, theirs in zip(plain, expected, strict=True):
        torch.testing.assert_close(ours.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
        assert torch.equal(ours.labels, theirs["labels"])
        torch.testing.assert_close(ours.scores, theirs["scores"], rtol=1e-4, atol=1e-5)
    assert len(found[0].labels) > 0
    torch.testing.assert_close(found[0].boxes, plain[0].boxes * torch.tensor([2, 0.5, 2, 0.5]))
    assert torch.equal(found[1].boxes, plain[1].boxes)
