"""Bad input is refused in words that say what was expected and what came."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from losses_list import ALL_LOSSES
from pldistill import losses
from pldistill.losses import dist, kd, listmle, p_listmle, plackett_luce, pld, standardize, teacher_optimal_ranking

every_loss = pytest.mark.parametrize("loss", ALL_LOSSES, ids=str)
STUDENT, TEACHER, LABELS = torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1])
POSITIONS = torch.zeros(2, 3, 4, 5)

BAD_TENSORS = [
    ([[1.0]], TEACHER, LABELS, r"student_logits must be a torch.Tensor, got list"),
    (STUDENT, None, LABELS, r"teacher_logits must be a torch.Tensor, got NoneType"),
    (STUDENT.long(), TEACHER, LABELS, r"student_logits must be floating point, got torch.int64"),
    (STUDENT, TEACHER.to(torch.complex64), LABELS, r"teacher_logits must be floating point, got torch.complex64"),
    (STUDENT[0], TEACHER[0], LABELS[0], r"student_logits must have shape \(N, C\) .* got \(3,\)"),
    (STUDENT[:, :0], TEACHER[:, :0], LABELS, r"student_logits must have .* C >= 1, got \(2, 0\)"),
    (STUDENT, torch.zeros(2, 4), LABELS, r"teacher_logits has 4 classes but student_logits 3"),
    (STUDENT, torch.zeros(3, 3), LABELS, r"teacher_logits must have student_logits's shape \(2, 3\), got \(3, 3\)"),
    (STUDENT, POSITIONS, LABELS, r"teacher_logits must have student_logits's shape \(2, 3\), got \(2, 3, 4, 5\)"),
    (STUDENT, TEACHER.to("meta"), LABELS, r"teacher_logits is on meta but student_logits on cpu"),
    (STUDENT, TEACHER, [0, 1], r"labels must be a torch.Tensor, got list"),
    (STUDENT, TEACHER, LABELS.float(), r"labels must be class indices of an integer dtype, got torch.float32"),
    (STUDENT, TEACHER, LABELS.bool(), r"labels must be class indices of an integer dtype, got torch.bool"),
    (STUDENT, TEACHER, LABELS[:1], r"labels must have shape \(2,\) for logits of shape \(2, 3\), got \(1,\)"),
    (STUDENT, TEACHER, LABELS[:, None], r"labels must have shape \(2,\) for logits of shape \(2, 3\), got \(2, 1\)"),
    (
        POSITIONS,
        POSITIONS,
        LABELS,
        r"labels must have shape \(2, 4, 5\) for logits of shape \(2, 3, 4, 5\), got \(2,\)",
    ),
    (STUDENT, TEACHER, LABELS.to("meta"), r"labels are on meta but the logits on cpu"),
]


@every_loss
@pytest.mark.parametrize(("student", "teacher", "labels", "words"), BAD_TENSORS)
def test_bad_tensors(loss, student, teacher, labels, words):
    with pytest.raises(ValueError, match=words):
        loss(student, teacher, labels)


@every_loss
@pytest.mark.parametrize("label", [3, -1, 1000])
def test_labels_out_of_range(loss, label):
    with pytest.raises(IndexError, match=rf"labels must be in 0\.\.2 or ignore_index=-100, got {label}"):
        loss(STUDENT, TEACHER, torch.tensor([0, label]))


@every_loss
def test_labels_of_any_integer_dtype(loss):
    expected = loss(STUDENT + torch.arange(3), TEACHER, LABELS)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(loss(STUDENT + torch.arange(3), TEACHER, LABELS.to(dtype)), expected)


@every_loss
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "4", None, torch.tensor(4.0)])
def test_bad_temperatures(loss, value):
    if "temperature" in loss.options:
        with pytest.raises(ValueError, match="temperature must be a positive finite number, got"):
            loss(STUDENT, TEACHER, LABELS, temperature=value)
    for name in {"alpha", "beta", "gamma"} & loss.options.keys():
        if value != 0:
            with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got"):
                loss(STUDENT, TEACHER, LABELS, **{name: value})


@every_loss
def test_bad_reductions_and_ignore_indices(loss):
    with pytest.raises(ValueError, match=r"reduction must be .*'mean'.*got 'means'"):
        loss(STUDENT, TEACHER, LABELS, reduction="means")
    with pytest.raises(ValueError, match=r"ignore_index must be an integer, got 1\.5"):
        loss(STUDENT, TEACHER, LABELS, ignore_index=1.5)


def test_near_names_are_offered():
    with pytest.raises(ValueError, match="one of 'mean', 'sum', 'none', got 'means'; did you mean 'mean'"):
        kd(STUDENT, TEACHER, reduction="means")
    with pytest.raises(
        ValueError, match="weights must be one of 'uniform', 'sum', got 'uniforms'; did you mean 'uniform'"
    ):
        listmle(STUDENT, TEACHER, LABELS, weights="uniforms")
    with pytest.raises(ValueError, match="normalize must be True or False, got 1"):
        p_listmle(STUDENT, TEACHER, LABELS, normalize=1)
    with pytest.raises(ValueError, match="tau_squared must be True or False, got 'no'"):
        kd(STUDENT, TEACHER, tau_squared="no")


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_dist_has_the_mean_alone(reduction):
    with pytest.raises(ValueError, match=f"reduction must be 'mean' for dist, which couples .* got '{reduction}'"):
        dist(STUDENT, TEACHER, reduction=reduction)


TOKENS = STUDENT[:, None]
STORE = losses.teacher_top_k(TEACHER, 2, LABELS)
SIDE = losses.ChunkedLogits(TEACHER.expand(2, 2, 3), LABELS.expand(2, 2), torch.tensor([[-1, 0], [-1, 1]]))
SAME = losses.Projection(torch.arange(3), torch.arange(3), torch.ones(3))
MAPS, SCALE = torch.ones(2, 3, 4, 4), torch.ones(3)
TENSORS = {
    "pld_weights": {"teacher_logits": TEACHER, "labels": LABELS},
    "teacher_optimal_ranking": {"teacher_logits": TEACHER, "labels": LABELS},
    "plackett_luce": {"student_logits": STUDENT, "ranking": TEACHER.argsort(1), "weights": torch.ones(3)},
    "standardize": {"logits": STUDENT + torch.arange(3)},
    "attention_transfer": {"student": MAPS, "teacher": MAPS},
    "hint": {"student": MAPS, "teacher": MAPS},
    "vid": {"mean": MAPS, "teacher": MAPS, "log_scale": SCALE},
    "cwd": {"student": MAPS, "teacher": MAPS},
    "pkt": {"student": STUDENT, "teacher": TEACHER},
    "rkd": {"student": STUDENT, "teacher": TEACHER},
    "sp": {"student": MAPS, "teacher": MAPS},
    "teacher_top_k": {"teacher_logits": TEACHER},
    "pld_from_top_k": {"student_logits": STUDENT, "labels": LABELS},
    "pld_top_k_bound": {"student_logits": STUDENT, "labels": LABELS},
    "tokens": {"student_logits": TOKENS, "labels": LABELS[:, None]},
    "fused_linear": {"hidden": TOKENS, "weight": STUDENT, "labels": LABELS[:, None]},
    "align_tokens": {"student_ends": LABELS[:, None], "teacher_ends": LABELS[:, None]},
    "h_kl": {"common": torch.tensor([[0, 1]])},
    "uld": {},
    "p_kl": {},
    "projected_tokens": {},
    "common_tokens": {},
    "teacher_weights": {},
}
BESIDE = {  # what these want besides their tensors
    "teacher_top_k": {"top_k": 2},
    "pld_from_top_k": {"teacher": STORE},
    "pld_top_k_bound": {"teacher": STORE},
    "tokens": {"loss": losses.pld, "teacher_logits": TOKENS},
    "fused_linear": {"loss": losses.pld, "teacher": losses.TeacherHead(TOKENS, STUDENT)},
    **{name: {"student": SIDE, "teacher": SIDE} for name in ("uld", "h_kl")},
    "p_kl": {"student": SIDE, "teacher": SIDE, "projection": SAME},
    "projected_tokens": {"loss": losses.pld, "student": SIDE, "teacher": SIDE, "projection": SAME},
    "common_tokens": {"projection": SAME},
    "teacher_weights": {"teachers": [SIDE]},
}
ON_LOGITS = {"student_logits": STUDENT, "teacher_logits": TEACHER, "labels": LABELS}
CALLS = [
    *((str(loss), loss.function, ON_LOGITS, loss.needs_labels) for loss in ALL_LOSSES),
    *((str(loss) + " module", loss.module(**loss.options), ON_LOGITS, loss.needs_labels) for loss in ALL_LOSSES),
    *((name, partial(getattr(losses, name), **BESIDE.get(name, {})), given, True) for name, given in TENSORS.items()),
]


@pytest.mark.parametrize(("function", "tensors", "needs_labels"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_what_is_no_tensor_is_refused_by_its_argument_s_name(function, tensors, needs_labels):
    function(**tensors)  # as it should be
    for name in tensors:
        for value in (None, 3, 1.5, "0", [0, 1], np.zeros((2, 3)), {"logits": STUDENT}, object):
            if value is None and name == "labels" and not needs_labels:
                continue
            with pytest.raises(ValueError, match=rf"^{name} must be a torch.Tensor, got {type(value).__name__}$"):
                function(**{**tensors, name: value})


def test_every_loss_is_asked():
    asked = {loss.function.__name__ for loss in ALL_LOSSES} | TENSORS.keys()
    assert asked == {name for name in losses.__all__ if not isinstance(getattr(losses, name), type)}


def test_options_are_keywords():
    with pytest.raises(TypeError):
        pld(STUDENT, TEACHER, LABELS, 4.0)


RANKING, WEIGHTS = torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.ones(2, 3)

BAD_RANKINGS = [
    (RANKING.float(), WEIGHTS, ValueError, r"ranking must be class indices of an integer dtype, got torch.float32"),
    (RANKING[:, :2], WEIGHTS, ValueError, r"ranking has 2 classes but student_logits 3"),
    (RANKING[:1], WEIGHTS, ValueError, r"ranking must have student_logits's shape \(2, 3\), got \(1, 3\)"),
    (RANKING + 1, WEIGHTS, IndexError, r"ranking must be in 0\.\.2 or ignore_index=-100, got 3"),
    (RANKING.clamp(max=1), WEIGHTS, ValueError, r"every class once in each row, got \[0, 1, 1\] .* row \(0,\)"),
    (RANKING.masked_fill(RANKING == 1, -100), WEIGHTS, ValueError, r"every class once .* got \[0, -100, 2\]"),
    (RANKING, WEIGHTS.long(), ValueError, r"weights must be floating point, got torch.int64"),
    (RANKING, WEIGHTS[:, :2], ValueError, r"weights must have shape \(2, 3\) or \(3,\), got \(2, 2\)"),
    (RANKING, -WEIGHTS, ValueError, r"weights must be finite and at least 0, got -1.0"),
    (RANKING, WEIGHTS * math.nan, ValueError, r"weights must be finite and at least 0, got nan"),
    (RANKING, WEIGHTS * math.inf, ValueError, r"weights must be finite and at least 0, got inf"),
    (RANKING, WEIGHTS.to("meta"), ValueError, r"weights are on meta but student_logits on cpu"),
]


@pytest.mark.parametrize(("ranking", "weights", "error", "words"), BAD_RANKINGS)
def test_bad_rankings_and_weights(ranking, weights, error, words):
    with pytest.raises(error, match=words):
        plackett_luce(STUDENT, ranking, weights)


def test_bad_input_of_the_others():
    with pytest.raises(IndexError, match=r"labels must be in 0\.\.2"):
        teacher_optimal_ranking(TEACHER, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"at least 2 classes to be standardised, got shape \(2, 1\)"):
        standardize(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="logits must be floating point"):
        standardize(torch.zeros(2, 3).int())
