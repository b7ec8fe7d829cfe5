"""Methods on features: activations place by place (attention transfer, FitNet's hint, variational information,
channel-wise distillation), and how the images of a batch relate, one function of one feature of each model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pldistill import losses
from pldistill.losses.feature import pool_to_smaller
from pldistill.methods.base import Method
from pldistill.types import Outputs

_Pairs = list[tuple[Tensor, Tensor]]


class AttentionTransfer(Method):
    """The sum over stages of the distance between attention maps. No adapter: channels are averaged out."""

    reads_labels = False

    def __init__(self, student: Outputs, teacher: Outputs, *, power: float) -> None:
        super().__init__()
        self.power = power
        self.forward(student, teacher)  # shapes and power that do not fit are refused here

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None = None) -> dict[str, Tensor]:
        terms = [losses.attention_transfer(s, t, power=self.power) for s, t in _maps(student, teacher)]
        return {"at": torch.stack(terms).sum()}


class FitNet(Method):
    """The student's map, through a regressor, against the teacher's at one stage.

    The regressor is a convolution that gives the teacher's size, batch normalization and ReLU.
    """

    reads_labels = False

    def __init__(self, student: Outputs, teacher: Outputs) -> None:
        super().__init__()
        ((ours, theirs),) = _maps(student, teacher)
        channels = theirs.shape[1]
        self.regressor = nn.Sequential(_resizing(ours, theirs), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        ((ours, theirs),) = _maps(student, teacher)
        return {"fitnet": losses.hint(self.regressor(ours), theirs)}


class VariationalInformation(Method):
    """The sum over stages of the teacher's negative log-likelihood, its mean predicted from the student's map."""

    reads_labels = False

    def __init__(self, student: Outputs, teacher: Outputs, *, variance: float) -> None:
        super().__init__()
        if not 1e-3 <= variance < math.inf:
            raise ValueError(f"option variance: expected a finite number from 0.001, got {variance}")
        self.stages = nn.ModuleList(
            _Normal(ours.shape[1], theirs.shape[1], variance) for ours, theirs in _maps(student, teacher)
        )

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.stages, _maps(student, teacher), strict=True)
        return {"vid": torch.stack([stage(*pair) for stage, pair in pairs]).sum()}


class ChannelWise(Method):
    """The student's map, by a 1x1 convolution where its channels are fewer or more, against the teacher's at one stage.

    A teacher's map of another size is resized (bilinear) to the student's.
    """

    reads_labels = False

    def __init__(self, student: Outputs, teacher: Outputs, *, temperature: float) -> None:
        super().__init__()
        ((ours, theirs),) = _maps(student, teacher)
        channels = ours.shape[1], theirs.shape[1]
        # A bias would be a constant of a channel, which the loss does not see.
        self.adapter = nn.Identity() if channels[0] == channels[1] else nn.Conv2d(*channels, 1, bias=False)
        self.temperature = temperature
        self.forward(student, teacher)  # a temperature that is none is refused here

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None = None) -> dict[str, Tensor]:
        ((ours, theirs),) = _maps(student, teacher)
        size = ours.shape[2:]
        if theirs.shape[2:] != size:
            theirs = functional.interpolate(theirs, size, mode="bilinear", align_corners=False)
        return {"cwd": losses.cwd(self.adapter(ours), theirs, temperature=self.temperature)}


class _Normal(nn.Module):
    """The teacher's map given the student's at one stage: a mean by three 1x1 convolutions, a variance a channel."""

    def __init__(self, ours: int, theirs: int, variance: float) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, theirs, 1, bias=False) for width in (ours, theirs, theirs)]
        self.mean = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        # vid() takes softplus(log_scale) + 1e-5 for the variance.
        self.log_scale = nn.Parameter(torch.full((theirs,), math.log(math.expm1(variance - 1e-5))))

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = pool_to_smaller(ours, theirs)
        return losses.vid(self.mean(ours), theirs, self.log_scale)


def _maps(student: Outputs, teacher: Outputs | None) -> _Pairs:
    """Pair the tapped activations, which must be maps."""
    assert teacher is not None  # the recipe refuses to go without one
    pairs = list(zip(student.features.items(), teacher.features.items(), strict=True))
    for (our_tap, ours), (their_tap, theirs) in pairs:
        if ours.dim() != 4 or theirs.dim() != 4:
            raise ValueError(
                f"expected maps (N, C, H, W), got {tuple(ours.shape)} from the student's tap {our_tap} and "
                f"{tuple(theirs.shape)} from the teacher's tap {their_tap}"
            )
    return [(ours, theirs) for (_, ours), (_, theirs) in pairs]


def _resizing(ours: Tensor, theirs: Tensor) -> nn.Module:
    """Choose a convolution from the student's channels and size to the teacher's: halving, doubling, or cropping."""
    channels = (ours.shape[1], theirs.shape[1])
    height, width = sides = list(zip(ours.shape[2:], theirs.shape[2:], strict=True))
    if all(our == 2 * their for our, their in sides):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if all(2 * our == their for our, their in sides):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    if all(our >= their for our, their in sides):
        return nn.Conv2d(*channels, (1 + height[0] - height[1], 1 + width[0] - width[1]))
    raise ValueError(
        "fitnet's regressor fits a student's map of half the teacher's height and width, or of no less than all, "
        f"got student {tuple(ours.shape)} and teacher {tuple(theirs.shape)}"
    )


class RelationMethod(Method):
    """One term: `loss(student_feature, teacher_feature, **options)`, named as the method."""

    reads_labels = False

    def __init__(
        self, term: str, loss: Callable[..., Tensor], student: Outputs, teacher: Outputs, **options: Any
    ) -> None:
        super().__init__()
        self.term = term
        self.loss = loss
        self.options = options
        self.forward(student, teacher)  # shapes and options that do not fit are refused here

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None = None) -> dict[str, Tensor]:
        assert teacher is not None  # the recipe refuses to go without one
        (ours,), (theirs,) = student.features.values(), teacher.features.values()
        return {self.term: self.loss(ours, theirs, **self.options)}

    def extra_repr(self) -> str:
        return ", ".join([self.term, *(f"{name}={value}" for name, value in self.options.items())])
