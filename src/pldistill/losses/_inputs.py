"""What the losses refuse, with which words; a batch of any shape as rows of classes; pairs of activations.

Every loss is written for (M, C) alone. A *row* is one sample, or one position of one sample where the logits have
shape (N, C, d1, ...). The classes lie along dim `class_dim` of whatever has the logits' shape; `to_rows` and
`from_rows` move them.

Shapes, dtypes, devices and options are looked at always. Values inside tensors (is a label in range?) are looked at
only for eager CPU tensors: anywhere else the look would stop the device or break the compiled graph.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

REDUCTIONS = ("mean", "sum", "none")
LEAST, MOST = 1e-6, 1e6  # of a temperature; a factor is at most as large
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def is_eager_cpu(tensor: Tensor) -> bool:
    """Whether values of `tensor` may be looked at, and branched on, for free."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not is_mapped(tensor)


def is_mapped(tensor: Tensor) -> bool:
    """Whether `torch.vmap`, or autograd with `is_grads_batched`, runs over `tensor`, so that its values are many."""
    if functorch.is_legacy_batchedtensor(tensor):
        return True
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def is_plain_eager(*tensors: Tensor) -> bool:
    """Whether what is done to these tensors happens now and once, and may be differentiated backward alone.

    So nobody compiles, traces, maps or fakes them, or runs torch's forward mode.
    """
    return (
        not torch.compiler.is_compiling()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
    )


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if isinstance(value, str) and value in known:
        return
    near = get_close_matches(value, known, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}{hint}")


def check_reduction(reduction: object) -> None:
    check_choice("reduction", reduction, REDUCTIONS)


def check_ignore_index(ignore_index: object) -> None:
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise ValueError(f"ignore_index must be an integer, got {ignore_index!r}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index must fit into 64 bits, got one of {ignore_index.bit_length()} bits")


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_temperature(temperature: object, name: str = "temperature") -> None:
    """Beyond `LEAST` and `MOST` τ² or z / τ leaves float32; the softmax is one-hot or uniform long before."""
    if not (_is_finite_number(temperature) and temperature > 0):
        raise ValueError(f"{name} must be a positive finite number, got {_shown(temperature)}")
    if not LEAST <= temperature <= MOST:
        raise ValueError(f"{name} must be from {LEAST:g} to {MOST:g}, got {_shown(temperature)}")


def check_factor(name: str, value: object) -> None:
    """A factor of a term of the loss: zero switches the term off, a negative one would reward a bad student."""
    if not (_is_finite_number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {_shown(value)}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST:g}, got {_shown(value)}")


def check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {_shown(value)}")


def check_fraction(name: str, value: object) -> None:
    """A part of a whole."""
    if not (_is_finite_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number in [0, 1], got {_shown(value)}")


def _is_finite_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and -math.inf < value < math.inf  # pyright: ignore


def _shown(value: object) -> str:
    """A value in a message: a whole number of hundreds of digits by their number."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)


def check_class_dim(class_dim: object) -> None:
    if isinstance(class_dim, bool) or not isinstance(class_dim, int):
        raise ValueError(f"class_dim must be an integer, got {class_dim!r}")


def _along(class_dim: int) -> str:
    return f"the classes are expected along dim {class_dim} (class_dim={class_dim})"


def check_logits(name: str, logits: object, class_dim: int) -> None:
    check_class_dim(class_dim)
    check_floats(name, logits)
    assert isinstance(logits, Tensor)
    shape = tuple(logits.shape)
    if logits.dim() >= 2 and not -logits.dim() <= class_dim < logits.dim():
        least, most = -logits.dim(), logits.dim() - 1
        raise ValueError(f"class_dim must be in {least}..{most} for {name} of shape {shape}, got {class_dim}")
    if logits.dim() < 2 or logits.shape[class_dim] == 0:
        known = (
            "(N, C) or (N, C, d1, ...)" if class_dim == 1 else "(N, C) or (N, d1, ...) and one more for the classes,"
        )
        raise ValueError(f"{name} must have shape {known} with C >= 1, got {shape}; {_along(class_dim)}")


def check_pair(student_logits: Tensor, teacher_logits: Tensor, class_dim: int) -> None:
    check_logits("student_logits", student_logits, class_dim)
    check_logits("teacher_logits", teacher_logits, class_dim)
    check_alike("teacher_logits", teacher_logits, "student_logits", student_logits, class_dim)


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor, class_dim: int) -> None:
    """Refuse two tensors of different shapes, with a word of its own for class counts, the usual mistake."""
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} but {other_name} on {other.device}")
    if tensor.shape == other.shape:
        return
    along = _along(class_dim)
    if tensor.dim() == other.dim() and tensor.shape[class_dim] != other.shape[class_dim]:
        counts = f"{tensor.shape[class_dim]} classes but {other_name} {other.shape[class_dim]}"
        raise ValueError(f"{name} has {counts}: shapes {tuple(tensor.shape)} and {tuple(other.shape)}; {along}")
    raise ValueError(f"{name} must have {other_name}'s shape {tuple(other.shape)}, got {tuple(tensor.shape)}; {along}")


def check_labels(labels: object, logits: Tensor, ignore_index: int, class_dim: int) -> None:
    """Refuse labels that do not belong to `logits`.

    Raises:
        ValueError: not an integer tensor on the device of `logits`, of their shape without the classes.
        IndexError: a label outside 0..C-1 that is not `ignore_index` (eager CPU tensors only).
    """
    check_integers("labels", labels, "class indices")
    assert isinstance(labels, Tensor)
    expected = _positions(logits, class_dim)
    if labels.shape != expected:
        fitting = [dim for dim in range(logits.dim()) if labels.shape == _positions(logits, dim)]
        told = f"; the labels fit class_dim={fitting[0]}" if len(fitting) == 1 else ""
        shapes = f"{expected} for logits of shape {tuple(logits.shape)}, got {tuple(labels.shape)}"
        raise ValueError(f"labels must have shape {shapes}; {_along(class_dim)}{told}")
    if labels.device != logits.device:
        raise ValueError(f"labels are on {labels.device} but the logits on {logits.device}")
    if is_eager_cpu(labels):
        _check_range("labels", labels, logits.shape[class_dim], ignore_index)


def check_ranking(ranking: object, logits: Tensor, ignore_index: int, class_dim: int) -> None:
    """Refuse what is not, along `class_dim`, permutations of the classes (eager CPU) or rows of `ignore_index`."""
    check_integers("ranking", ranking, "class indices")
    assert isinstance(ranking, Tensor)
    check_alike("ranking", ranking, "student_logits", logits, class_dim)
    if not is_eager_cpu(ranking):
        return
    _check_range("ranking", ranking, logits.shape[class_dim], ignore_index)
    ignored = ranking == ignore_index
    seen = torch.zeros_like(ranking).scatter_(class_dim, ranking.masked_fill(ignored, 0).long(), 1)
    wrong = (seen == 0).any(class_dim) & ~ignored.all(class_dim)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        found = ranking.movedim(class_dim, -1)[at].tolist()
        raise ValueError(
            f"ranking must hold every class once in each row, got {found[:8]} (of {len(found)}) in row {at}"
        )


def check_weights(name: str, weights: object, logits: Tensor, class_dim: int) -> None:
    """Refuse weights that are not non-negative constants, one for each rank, for all rows or for each row."""
    check_floats(name, weights)
    assert isinstance(weights, Tensor)
    for_all = logits.shape[class_dim : class_dim + 1 or None]
    if weights.shape != logits.shape and weights.shape != for_all:
        shapes = f"{tuple(logits.shape)} or {tuple(for_all)}, got {tuple(weights.shape)}"
        raise ValueError(f"{name} must have shape {shapes}; {_along(class_dim)}")
    if weights.device != logits.device:
        raise ValueError(f"{name} are on {weights.device} but student_logits on {logits.device}")
    dual = forward_ad._current_level >= 0 and forward_ad.unpack_dual(weights).tangent is not None
    if dual or (weights.requires_grad and torch.is_grad_enabled()):
        raise ValueError(f"{name} must not require grad: they are constants of the loss; pass {name}.detach()")
    check_not_negative(name, weights)


def check_not_negative(name: str, values: Tensor) -> None:
    """Refuse values below 0, infinite ones and NaN (eager CPU)."""
    if is_eager_cpu(values):
        wrong = ~((values >= 0) & (values < math.inf))
        if wrong.any():
            raise ValueError(f"{name} must be finite and at least 0, got {values[wrong][0].item()}")


def check_class_weight(value: object) -> None:
    """Refuse what cannot be a weight for each class of any logits."""
    if value is None:
        return
    check_floats("class_weight", value)
    assert isinstance(value, Tensor)
    if value.dim() != 1:
        raise ValueError(f"class_weight must have shape (C,), got {tuple(value.shape)}")


def check_stage_weights(value: object) -> None:
    """Refuse what cannot be weights of stages for any logits."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (whole or isinstance(value, Tensor) or (isinstance(value, str) and value == "teacher")):
        raise ValueError(f"stage_weights must be 'teacher', an integer of at least 1 or a tensor, got {value!r}")


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def check_integers(name: str, value: object, what: str) -> None:
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype not in INTEGERS:
        hint = f"; {name}.long() makes them one" if str(value.dtype).startswith("torch.uint") else ""
        raise ValueError(f"{name} must be {what} of an integer dtype, got {value.dtype}{hint}")
    check_strided(name, value)


def _check_range(name: str, indices: Tensor, classes: int, ignore_index: int) -> None:
    if indices.numel() == 0:
        return
    least, most = torch.aminmax(indices)  # one pass says that all is well, as it nearly always is
    if least.item() >= 0 and most.item() < classes:
        return
    wrong = ((indices < 0) | (indices >= classes)) & (indices != ignore_index)
    if wrong.any():
        got = indices[wrong][0].item()
        raise IndexError(f"{name} must be in 0..{classes - 1} or ignore_index={ignore_index}, got {got}")


def to_rows(tensor: Tensor, class_dim: int) -> Tensor:
    """(N, C, d1, ...) -> (N * d1 * ..., C), C being along `class_dim`."""
    if tensor.dim() == 2 and class_dim in (1, -1):
        return tensor
    return tensor.movedim(class_dim, -1).flatten(0, -2)


def _positions(logits: Tensor, class_dim: int) -> tuple[int, ...]:
    """(N, d1, ...), the shape of the logits without the classes."""
    sizes = list(logits.shape)
    del sizes[class_dim]
    return tuple(sizes)


def savable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors as autograd will keep them: of those made under `torch.inference_mode()`, copies.

    Everything that a loss hands to autograd and that may come from a teacher or a user goes through here.
    """
    return tuple(tensor.clone() if tensor.is_inference() else tensor for tensor in tensors)


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 where any tensor is: half precision is never computed in."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def kept_rows(labels: Tensor, ignore_index: int) -> Tensor:
    """(M,) bool, False where the label is `ignore_index`. Elsewhere None in its place means that every row counts."""
    return (labels != ignore_index).flatten()


def blank(tensor: Tensor, kept: Tensor | None) -> Tensor:
    """Zero the rows that do not count, so that nothing in them, a NaN included, reaches loss or gradient."""
    return tensor if kept is None else tensor.masked_fill(~kept.view(-1, *[1] * (tensor.dim() - 1)), 0)


def reduce_rows(losses: Tensor, kept: Tensor | None, reduction: str, logits: Tensor, class_dim: int) -> Tensor:
    """Reduce (M,) losses as torch's cross_entropy does: the mean is over the rows that count, NaN if there are none."""
    losses = blank(losses, kept)
    if reduction == "none":
        return losses.view(_positions(logits, class_dim))
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if kept is None else _mean_over(losses.sum(), kept)


def _mean_over(total: Tensor, kept: Tensor) -> Tensor:
    """`total` / count, where no row at all gives NaN with a zero gradient: backward never meets a division by zero."""
    count = kept.sum()
    return (total / count.clamp(min=1)).masked_fill(count == 0, math.nan)


def from_rows(rows: Tensor, like: Tensor, class_dim: int) -> Tensor:
    """(M, C) -> the shape of `like`, (N, C, d1, ...), C being along `class_dim`."""
    return rows.view(*_positions(like, class_dim), rows.shape[1]).movedim(-1, class_dim)


def check_maps(student: object, teacher: object, name: str = "student") -> None:
    """Refuse what is not two (N, C, H, W) maps of the same images, of which the first is the argument `name`."""
    _check_pair(student, teacher, name)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"expected maps (N, C, H, W), got {shapes(student, teacher)}")


def check_vectors(student: object, teacher: object) -> None:
    """Refuse what is not two (N, D) features of the same images; D may differ."""
    _check_pair(student, teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() != 2 or teacher.dim() != 2:
        raise ValueError(f"expected pooled features (N, D), got {shapes(student, teacher)}")


def check_samples(student: object, teacher: object) -> None:
    """Refuse what is not two (N, ...) features of the same images."""
    _check_pair(student, teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.dim() < 2 or teacher.dim() < 2:
        raise ValueError(f"expected features (N, ...) of at least 2 dimensions, got {shapes(student, teacher)}")


def check_equal(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"expected features of one shape, got {shapes(student, teacher)}")


def shapes(student: Tensor, teacher: Tensor) -> str:
    return f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"


def computed(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that is computed in, the teacher as a constant."""
    dtype = computing_dtype(student, teacher)
    return student.to(dtype), teacher.detach().to(dtype)


def unit(vectors: Tensor, dim: int = 1, *, extra: float = 0.0) -> Tensor:
    """v / (|v| + extra) along `dim`. A vector of length 0 has no direction: it stays 0, and no gradient reaches it."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / (length.masked_fill(length <= 1e-12, math.inf) + extra)


def check_floats(name: str, value: object) -> None:
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype not in FLOATS:
        known = "float16, bfloat16, float32 or float64"
        more = f", {known}" if value.is_floating_point() else ""
        raise ValueError(f"{name} must be floating point{more}, got {value.dtype}")
    check_strided(name, value)


def check_strided(name: str, value: Tensor) -> None:
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {value.layout}; {name}.to_dense() is")


def _check_pair(student: object, teacher: object, name: str = "student") -> None:
    check_floats(name, student)
    check_floats("teacher", teacher)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    if student.device != teacher.device:
        raise ValueError(f"student is on {student.device} but teacher on {teacher.device}")
    if student.shape[:1] != teacher.shape[:1] or 0 in (student.numel(), teacher.numel()):
        raise ValueError(f"expected features of the same images, at least one, got {shapes(student, teacher)}")
