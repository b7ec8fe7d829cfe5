"""How alike two models answer: against the definitions, pair by pair, ties and many classes included."""

import math

import pytest
import torch

import pldistill.tasks.classification.metrics
from pldistill.data import make_loader, open_data
from pldistill.models import NormalizedModel
from pldistill.tasks.classification.metrics import kendall, same_first, shared_first
from pldistill.tasks.classification.task import Validation
from pldistill.teachers.live import LiveTeacher


def draw(rows, classes, steps=None):
    """Two models that agree somewhat; `steps` rounds their logits, so that many are equal."""
    generator = torch.Generator().manual_seed(classes)
    one = torch.randn(rows, classes, generator=generator)
    other = one + torch.randn(rows, classes, generator=generator)
    return (one, other) if steps is None else ((one * steps).round(), (other * steps).round())


def tau_b(one, other):
    """By the definition, all C² ordered pairs: the cosine of the signs of their differences."""
    ours, theirs = (torch.sign(logits[:, None, :] - logits[:, :, None]).double().flatten(1) for logits in (one, other))
    norms = ours.norm(dim=1) * theirs.norm(dim=1)
    return torch.where(norms == 0, 0.0, (ours * theirs).sum(dim=1) / norms.clamp(min=1)).sum().item()


def test_kendall_by_hand():
    one, other = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[5.0, 1.0, 4.0, 1.0]])
    # Six pairs: 02, 01, 03 and 23 agree, 12 does not, 13 is equal in the second.
    assert kendall(one, other).item() == pytest.approx((4 - 1) / math.sqrt(6 * 5))
    assert kendall(one, one.exp()).item() == pytest.approx(1)
    assert kendall(one, -one).item() == pytest.approx(-1)


@pytest.mark.parametrize("steps", [None, 2.0, 0.3])
@pytest.mark.parametrize("classes", [1, 2, 3, 100, 128, 129, 300])
def test_kendall_is_its_definition(classes, steps):
    one, other = draw(5, classes, steps)
    assert kendall(one, other).item() == pytest.approx(tau_b(one, other), abs=1e-5)
    assert kendall(other, one).item() == pytest.approx(tau_b(one, other), abs=1e-5)


def test_kendall_of_a_row_of_equals_is_zero_and_masked_classes_are_equal():
    one, other = draw(3, 7)
    assert kendall(torch.zeros(3, 7), other).item() == 0
    masked, low = (logits.index_fill(1, torch.tensor([1, 4]), value) for logits, value in ((one, -math.inf), (one, -9)))
    assert kendall(masked, other).item() == kendall(low, other).item()


def test_kendall_does_not_depend_on_how_many_are_ranked_at_once(monkeypatch):
    one, other = draw(20, 40)
    whole = kendall(one, other).item()
    monkeypatch.setattr(pldistill.tasks.classification.metrics, "_AT_ONCE", 100)
    assert kendall(one, other).item() == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("classes", [1000, 21841])
def test_kendall_of_many_classes(classes):
    """Shifting the order by one place turns round C - 1 pairs."""
    one = torch.arange(classes).float()[None]
    opposite = classes - 1
    expected = 1 - 2 * opposite / (classes * (classes - 1) / 2)
    assert kendall(one, one.roll(1)).item() == pytest.approx(expected, rel=1e-6)


def test_first_classes_by_hand():
    one = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3], [9.0, 8, 7, 6, 5, 4, 3]])
    other = torch.tensor([[9.0, 8, 7, 1, 2, 6, 5], [3.0, 4, 5, 6, 7, 8, 9]])
    assert same_first(one, other).item() == 1
    assert shared_first(one, other, 5).item() == pytest.approx(3 / 5 + 3 / 5)
    assert same_first(torch.zeros(1, 3), torch.tensor([[1.0, 0, 1]])).item() == 1


class Linear(torch.nn.Module):
    """A model of the right manners that looks at a few pixels."""

    def __init__(self, seed, classes):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("matrix", torch.randn(3 * 8 * 8, classes, generator=generator))

    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images, images.shape[-1] // 8).flatten(1) @ self.matrix


def validation(teacher_seed, classes):
    data = open_data("glyphs:train=100,val=150").val
    loader = make_loader(
        data, batch_size=64, image_size=32, augment=None, seed=0, shuffle=False, device=torch.device("cpu")
    )
    teacher = None if teacher_seed is None else LiveTeacher(model(teacher_seed, classes))
    return Validation(loader, teacher, lambda: torch.autocast("cpu", enabled=False)), data


def model(seed, classes):
    return NormalizedModel(Linear(seed, classes), mean=(0.5,) * 3, std=(0.25,) * 3)


def test_validation_gives_the_means_over_all_images():
    measure, data = validation(1, 100)
    figures = measure(model(0, 100))
    ours, theirs = (model(seed, 100)(data.images).logits for seed in (0, 1))
    assert figures["teacher_top1"] == pytest.approx(100 * (theirs.argmax(1) == data.labels).float().mean().item())
    assert figures["agreement"] == pytest.approx(100 * (ours.argmax(1) == theirs.argmax(1)).float().mean().item())
    shared = [len(set(a) & set(b)) for a, b in zip(*(x.topk(5).indices.tolist() for x in (ours, theirs)), strict=True)]
    assert figures["overlap5"] == pytest.approx(100 * sum(shared) / 5 / 150)
    assert figures["kendall"] == pytest.approx(tau_b(ours, theirs) / 150, abs=1e-6)
    copy = measure(model(1, 100))
    assert (copy["agreement"], copy["overlap5"], copy["kendall"]) == pytest.approx((100, 100, 1))


def test_validation_without_a_teacher_has_nothing_to_compare():
    figures = validation(None, 100)[0](model(0, 100))
    assert [figures[name] for name in ("kl", "agreement", "overlap5", "kendall", "teacher_top1")] == [None] * 5
