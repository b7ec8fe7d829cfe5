"""Any shape, stride, dtype and size of logit: value and gradient are finite, or the loss refuses in one line."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from losses_list import ALL_LOSSES
from pldistill.losses._inputs import FLOATS, INTEGERS, LEAST, MOST

every = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# The largest logit of each dtype that a loss must bear: log-sum-exp forms do not overflow.
SIZES = (0.0, 1e-30, 1.0, 30.0, 1e3, 6e4)


@st.composite
def tensors(draw):
    """Student, teacher and labels of one shape, laid out in memory in any way; some classes masked, rows left out."""
    shape = draw(st.sampled_from([(1,), (4,), (3, 2), (2, 2, 2)]))
    classes = draw(st.integers(4, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    student, teacher = (
        (
            draw(st.sampled_from(SIZES))
            * torch.randn(*shape, classes, generator=generator, dtype=torch.float64).clamp(-1, 1)
        ).to(draw(st.sampled_from(FLOATS)))
        for _ in range(2)
    )
    labels = torch.randint(classes, shape, generator=generator)
    if draw(st.booleans()):
        labels.view(-1)[-1] = -100
    if draw(st.booleans()):  # a class that both models mask, and that is no label
        labels = labels.clamp(min=1).where(labels != -100, -100)
        student[..., 0] = teacher[..., 0] = -math.inf
    kind = draw(st.sampled_from([dtype for dtype in INTEGERS if dtype != torch.uint8]))
    return _laid_out(draw, student), _laid_out(draw, teacher), labels.to(kind)


def _laid_out(draw, tensor):
    layout = draw(st.sampled_from(["plain", "strided", "transposed", "expanded"]))
    if layout == "strided":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "transposed":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape)
    return tensor


@every
@quick
@given(given=tensors(), temperature=st.sampled_from([LEAST, 0.05, 1.0, 4.0, 1e3, MOST]), data=st.data())
def test_value_and_gradient_are_finite(loss, given, temperature, data):
    student, teacher, labels = given
    options = {"temperature": temperature} if "temperature" in loss.options else {}
    reductions = ["mean", "sum", "none"] if loss.summed else ["mean"]
    options |= {"reduction": data.draw(st.sampled_from(reductions)), "class_dim": -1}
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, labels, **options)
    assert value.dtype == (torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32)
    nothing_counts = bool((labels == -100).all()) and options["reduction"] == "mean"
    assert nothing_counts or value.isfinite().all()
    value.sum().backward()
    assert leaf.grad.dtype == leaf.dtype
    largest = torch.finfo(leaf.dtype).max
    assert leaf.grad.isfinite().all() or largest < 1e5  # τ² = 1e12 is beyond what a float16 gradient can hold
    assert not leaf.grad[labels == -100].any()


@every
@quick
@given(given=tensors())
def test_the_layout_in_memory_and_the_labels_dtype_change_nothing(loss, given):
    student, teacher, labels = given
    ours = loss(student, teacher, labels, class_dim=-1)
    theirs = loss(student.contiguous(), teacher.contiguous(), labels.long(), class_dim=-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


@every
@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (3, 5, 0)])
def test_an_empty_batch_is_nothing_and_its_mean_is_none(loss, shape):
    student = torch.zeros(shape, requires_grad=True)
    labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    value = loss(student, torch.zeros(shape), labels)
    assert value.isnan()
    value.backward()
    assert student.grad.shape == shape
    if loss.summed:
        assert loss(student, torch.zeros(shape), labels, reduction="sum") == 0
        assert loss(student, torch.zeros(shape), labels, reduction="none").shape == labels.shape


@every
@pytest.mark.parametrize("which", ["student", "teacher"])
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda t: t.to(torch.float8_e4m3fn), "must be floating point, float16, bfloat16, float32 or float64, got"),
        (lambda t: t.to_sparse(), r"must be dense, got torch.sparse_coo; \w+.to_dense\(\) is"),
        (lambda t: t.to(torch.complex64), "must be floating point, got torch.complex64"),
        (lambda t: t.long(), "must be floating point, got torch.int64"),
    ],
    ids=["float8", "sparse", "complex", "integers"],
)
def test_logits_of_another_kind_are_refused(loss, which, made, says):
    logits = {"student": torch.randn(3, 4), "teacher": torch.randn(3, 4)}
    logits[which] = made(logits[which])
    with pytest.raises(ValueError, match=f"^{which}_logits {says}"):
        loss(logits["student"], logits["teacher"], torch.tensor([0, 1, 2]))


@every
@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_labels_that_torch_does_not_compute_in_are_refused(loss, kind):
    labels = torch.tensor([0, 1, 2]).to(getattr(torch, kind))
    with pytest.raises(ValueError, match=rf"^labels must be class indices .* got torch.{kind}; labels.long\(\) makes"):
        loss(torch.randn(3, 4), torch.randn(3, 4), labels)


@every
@pytest.mark.parametrize("value", [10**400, 2**63, -(2**63) - 1])
def test_an_ignore_index_beyond_64_bits_is_refused(loss, value):
    with pytest.raises(ValueError, match=r"^ignore_index must fit into 64 bits, got one of "):
        loss(torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2]), ignore_index=value)


@every
@pytest.mark.parametrize("value", [1e308, 5e-324, 10**400, 1e7, 1e-7])
@pytest.mark.parametrize("name", ["temperature", "alpha", "beta", "gamma"])
def test_numbers_that_leave_float32_are_refused(loss, name, value):
    if name not in loss.options or (name != "temperature" and value < 1):
        return
    with pytest.raises(ValueError, match=rf"^{name} must be (from 1e-06 to 1e\+06|at most 1e\+06), got "):
        loss.module(**{**loss.options, name: value})
