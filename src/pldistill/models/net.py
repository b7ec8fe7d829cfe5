"""A classifier that takes pictures as they are stored and says what a method wants to hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pldistill.models.taps import POOLED, resolve_taps
from pldistill.types import Outputs


@dataclass
class _Recorder:
    """What the taps heard in the forward pass that is under way; deaf between passes, so nothing is kept alive."""

    on: bool = False
    heard: dict[str, Tensor] = field(default_factory=dict)

    def hear(self, key: str, value: Tensor) -> None:
        if self.on:
            self.heard[key] = value


class Net(nn.Module):
    """Normalise with the net's own statistics, run the net, collect the tapped activations.

    The weights live in `model`, whose state dict is timm's; mean and std are buffers outside any state dict.

    Args:
        model: a classifier `(N, 3, H, W) -> (N, C)`.
        mean: channel means of pictures in [0, 1].
        std: channel standard deviations, positive.
        taps: where to listen (see `resolve_taps`); the features' names are `str(tap)`.

    Raises:
        ValueError: statistics that are not three numbers each, or an unknown tap.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, *, mean: Sequence[float], std: Sequence[float], taps: Sequence[str | int] = ()
    ) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std must be three numbers each, std positive; got {tuple(mean)}, {tuple(std)}")
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self._recorder = _Recorder()
        self._handles: list[RemovableHandle] = []
        self.listen(taps)

    def forward(self, images: Tensor) -> Outputs:
        """Answer a batch.

        Args:
            images: `(N, 3, H, W)` uint8; their memory format (channels_last or not) is kept.

        Returns:
            Logits `(N, C)` and the tapped features.

        Raises:
            ValueError: images of another type or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
        recorder = self._recorder
        recorder.on = True
        try:
            logits = self.model(images.float().div_(255).sub_(self.mean).div_(self.std))
            features = {key: recorder.heard[key] for key in self._names}
        finally:
            recorder.on = False
            recorder.heard.clear()
        if POOLED in features:  # some heads are 1x1 convolutions
            features[POOLED] = features[POOLED].flatten(1)
        return Outputs(logits, features)

    def around(self, model: nn.Module) -> Net:
        """The same net with other weights: `model` with these statistics, on their device, without taps."""
        net = Net(model, mean=self.mean.flatten().tolist(), std=self.std.flatten().tolist())
        return net.to(self.mean.device)

    def listen(self, taps: Sequence[str | int]) -> None:
        """Listen at `taps` from now on, and nowhere else.

        Raises:
            ValueError: an unknown tap.
        """
        resolved = resolve_taps(self.model, taps)
        self.release()
        self.taps, self._names = tuple(taps), tuple(resolved)
        self._handles = [tap.listen(self.model, partial(self._recorder.hear, key)) for key, tap in resolved.items()]

    def release(self) -> None:
        """Remove the taps from the net, for a net that lives on without this one."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.taps = self._names = ()
