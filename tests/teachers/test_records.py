"""Records of a teacher's answers: float16 to its rounding, the weights of the stored places exact, the tail even."""

import pytest
import torch

from pldistill.methods import METHODS
from pldistill.tasks.registry import find_method
from pldistill.teachers.cache import RecordFormat


def drawn(rows, classes, scale=5.0, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator) + offset


def read(form, logits, labels):
    records = form.encode(logits, labels)
    assert records.nbytes == len(logits) * form.dtype.itemsize
    return form.decode(torch.frombuffer(bytearray(records.tobytes()), dtype=torch.uint8).view(len(logits), -1))


def labels_of(logits, seed=1):
    return torch.randint(0, logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))


def stored_of(logits, labels, places):
    """Which classes are stored: the label and the largest others, of equal ones the earlier."""
    keys = logits.scatter(1, labels[:, None], torch.inf).sort(dim=1, descending=True, stable=True).indices
    return torch.zeros(logits.shape, dtype=torch.bool).scatter(1, keys[:, :places], True)


def grid(rows, classes, seed=0):
    """Logits that float16 holds exactly, the largest of each row 0: what is left is the tail's own error."""
    logits = (drawn(rows, classes, seed=seed) * 64).round() / 64
    return logits - logits.amax(1, keepdim=True)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e5])
@pytest.mark.parametrize("classes", [2, 100, 300])
def test_all_classes_come_back_to_the_rounding_of_float16(classes, offset):
    logits = drawn(20, classes, offset=offset)
    found = read(RecordFormat(classes, classes), logits, labels_of(logits))
    below = logits - logits.amax(1, keepdim=True)
    # 2^-11 of the distance from the largest, and what float32 rounds the logits themselves to
    assert torch.all((found - logits).abs() <= below.abs() * 2.0**-11 + logits.abs() * 2.0**-23 + 1e-7)
    assert torch.equal(found.amax(1), logits.amax(1))


def test_a_distance_beyond_float16_stays_finite():
    logits = torch.tensor([[0.0, -1e6, -1.0]])
    assert read(RecordFormat(3, 3), logits, torch.tensor([0])).tolist() == [[0.0, -65504.0, -1.0]]


@pytest.mark.parametrize(("classes", "size"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_a_class_takes_as_few_bytes_as_will_do(classes, size):
    form = RecordFormat(classes, 3, 4.0)
    assert form.dtype.itemsize == 8 + 3 * (2 + size)
    assert RecordFormat(classes, classes).dtype.itemsize == 8 + 2 * classes
    logits = torch.zeros(1, classes)
    logits[0, -1], logits[0, 1] = 9.0, 8.0
    found = read(form, logits, torch.tensor([classes - 2]))
    assert found.topk(2).indices.tolist() == [[classes - 1, 1]]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("places", [1, 2, 7, 29])
def test_the_weights_of_the_stored_places_are_exact_and_the_others_share_the_rest(places, temperature):
    logits = drawn(50, 30, offset=100.0)
    labels = labels_of(logits)
    found = read(RecordFormat(30, places, temperature), logits, labels)
    stored = stored_of(logits, labels, places)
    assert stored.gather(1, labels[:, None]).all()
    exact, read_back = ((rows.double() / temperature).softmax(1) for rows in (logits, found))
    error = (logits - logits.amax(1, keepdim=True)).abs() * 2.0**-11 / temperature + 1e-6
    off = (read_back / exact - 1).abs()[stored]
    # each weight by the rounding of its logit; where the tail is nearly nothing, by the rounding of all the others too
    assert torch.all(off <= (2 * error[stored]).clamp(min=2e-3))
    tail = read_back.masked_fill(stored, 0)
    assert torch.all((tail.sum(1) - exact.masked_fill(stored, 0).sum(1)).abs() < 2e-3)
    assert torch.all((tail.amax(1) - tail.sum(1) / (30 - places)).abs() < 1e-6)


@pytest.mark.parametrize("places", [2, 5])
def test_the_order_of_the_largest_is_the_teacher_s(places):
    logits = grid(200, 40)
    labels = torch.full((200,), -1)
    found = read(RecordFormat(40, places, 4.0), logits, labels)
    expected = logits.sort(dim=1, descending=True, stable=True).indices[:, :places]
    least = logits.gather(1, expected)[:, -1:]
    assert torch.equal(found.gather(1, expected), logits.gather(1, expected))
    assert torch.all(found.scatter(1, expected, -torch.inf) <= least)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if spec.tail_temperature is not None])
def test_the_gradient_is_off_by_four_times_the_tail_s_mass_at_most(method, temperature):
    teacher, student = grid(60, 50), drawn(60, 50, scale=3.0, seed=4)
    labels, places = labels_of(teacher), 6
    loss = find_method(method).build(**find_method(method).complete_options({"temperature": temperature})).loss
    found = read(RecordFormat(50, places, temperature), teacher, labels)
    gradients = []
    for logits in (teacher.double(), found.double()):
        s = student.double().requires_grad_()
        gradients += torch.autograd.grad(loss(s, logits, labels, temperature=temperature, reduction="sum"), s)
    stored = stored_of(teacher, labels, places)
    off = (gradients[0] - gradients[1]).abs()
    mass = (teacher.double() / temperature).softmax(1).masked_fill(stored, 0).sum(1)
    assert off[stored].max() < 1e-5
    factor = temperature if method == "kd" else 1.0  # τ² of the loss, 1 / τ of the chain rule
    assert torch.all(off.sum(1) <= 4 * factor * mass + 1e-5)
    assert torch.any(off.sum(1) > 0.05 * factor * mass)  # a bound that is nowhere near would say nothing


def test_only_methods_that_read_every_class_by_its_mass_may_do_with_some():
    assert [name for name, spec in METHODS.items() if spec.tail_temperature is not None] == ["kd", "pld"]
    kd = find_method("kd")
    assert kd.tail_temperature(kd.complete_options({"temperature": 2})) == 2.0
    assert kd.tail_temperature(kd.complete_options({"standardize": "both"})) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_answer_that_is_not_finite_is_refused(value):
    logits = torch.zeros(2, 3)
    logits[1, 2] = value
    with pytest.raises(ValueError, match="expected finite logits of the teacher"):
        RecordFormat(3, 3).encode(logits, torch.tensor([0, 1]))
