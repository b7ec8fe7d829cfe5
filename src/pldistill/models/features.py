"""A classifier that takes images as they are stored and says what a method wants to hear.

Where to listen inside a model: a stage by its number, `"pooled"`, or any module by its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pldistill.models.base import TaskModel
from pldistill.models.checkpoints import classifier_names
from pldistill.types import Batch, Outputs

POOLED = "pooled"


@dataclass(frozen=True)
class Tap:
    """A place in a model.

    Attributes:
        module: the module's name.
        before: listen to the module's input, not its output.
        channels: of a stage whose map is heard as (N, C, H, W), also where the model computes in (N, H, W, C).
    """

    module: str
    before: bool = False
    channels: int | None = None

    def listen(self, model: nn.Module, hear: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `hear` with the activation in each forward pass, until the handle is removed."""
        module = model.get_submodule(self.module)
        if self.before:
            return module.register_forward_pre_hook(_Before(hear, self.channels))
        return module.register_forward_hook(_After(hear, self.channels))


@dataclass(frozen=True)
class _Before:
    hear: Callable[[Tensor], None]
    channels: int | None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.hear(_channels_first(inputs[0], self.channels))


@dataclass(frozen=True)
class _After:
    hear: Callable[[Tensor], None]
    channels: int | None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.hear(_channels_first(output, self.channels))


def _channels_first(value: Tensor, channels: int | None) -> Tensor:
    if channels is not None and value.dim() == 4 and value.shape[1] != channels == value.shape[3]:
        return value.permute(0, 3, 1, 2)
    return value


def stages(model: nn.Module) -> list[str]:
    """Module names of the model's stages, the stem first, as timm lists them; empty where it lists none."""
    info = getattr(model, "feature_info", None) or []
    return [info[index]["module"] for index in range(len(info))]


def resolve_taps(model: nn.Module, taps: Sequence[str | int]) -> dict[str, Tap]:
    """Find each tap in the model; the keys, `str(tap)`, name the features in `Outputs`.

    Args:
        model: a model of timm's or ours.
        taps: an int counts stages (0 the stem, -1 the last); `"pooled"` is the head's input; any other string is a
            module's name.

    Raises:
        ValueError: no such stage or module; the stages are listed.
    """
    return {str(tap): _resolve(model, tap) for tap in taps}


def _resolve(model: nn.Module, tap: str | int) -> Tap:
    names = stages(model)
    listing = f"stages: {', '.join(f'{i} = {name}' for i, name in enumerate(names)) or 'none known'}; {POOLED!r}"
    modules = dict(model.named_modules())
    if isinstance(tap, int):
        if not -len(names) <= tap < len(names):
            raise ValueError(f"tap {tap}: {type(model).__name__} has {len(names)} stages; {listing}")
        info = getattr(model, "feature_info", [])[tap % len(names)]
        found = Tap(info["module"], before=info.get("hook_type") == "forward_pre", channels=info["num_chs"])
    elif tap == POOLED:
        heads = classifier_names(model)
        if not heads:
            raise ValueError(f"tap {POOLED!r}: timm names no classifier for {type(model).__name__}; {listing}")
        found = Tap(heads[0], before=True)
    else:
        found = Tap(tap)
    if found.module not in modules or not found.module:
        near = difflib.get_close_matches(found.module, modules, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"tap {tap!r}: {type(model).__name__} has no module {found.module!r}{hint}; {listing}")
    return found


def probe(model: NormalizedModel, image_size: int) -> Outputs:
    """What the model answers to one black image: read the shapes from it. Neither weights nor running statistics move.

    Raises:
        ValueError: a size that the model cannot take, a tapped module that does not run, or a tapped activation that
            a later layer overwrites in place.
    """
    versions: dict[str, tuple[Tensor, int]] = {}
    taps = resolve_taps(model.model, model.taps)
    handles = [
        tap.listen(model.model, lambda value, key=key: versions.__setitem__(key, (value, value._version)))
        for key, tap in taps.items()
    ]
    training = {module: module.training for module in model.modules()}
    images = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=model.mean.device)
    try:
        with torch.no_grad():
            outputs = model.eval()(images)
    except KeyError as error:
        raise ValueError(f"tap {error}: the module does not run in a forward pass") from error
    except (RuntimeError, AssertionError) as error:
        kind, reason = type(model.model).__name__, str(error).partition("\n")[0]
        raise ValueError(f"{kind} cannot take images of {image_size}x{image_size} pixels: {reason}") from error
    finally:
        for module, flag in training.items():
            module.training = flag
        for handle in handles:
            handle.remove()
    for key, (value, version) in versions.items():
        if value._version != version:
            raise ValueError(f"tap {key!r} is overwritten in place by the layer after it: tap that layer instead")
    return outputs


@dataclass
class _Recorder:
    """What the taps heard in the forward pass that is under way; deaf between passes, so nothing is kept alive."""

    on: bool = False
    heard: dict[str, Tensor] = field(default_factory=dict)

    def hear(self, key: str, value: Tensor) -> None:
        if self.on:
            self.heard[key] = value


class NormalizedModel(TaskModel):
    """Normalize with the model's own statistics, run the model, collect the tapped activations.

    The weights live in `model`, whose state dict is timm's; mean and std are buffers outside any state dict.

    Args:
        model: a classifier `(N, 3, H, W) -> (N, C)`.
        mean: channel means of images in [0, 1].
        std: channel standard deviations, positive.
        taps: where to listen (see `resolve_taps`); the features' names are `str(tap)`.

    Raises:
        ValueError: statistics that are not three numbers each, or an unknown tap.
    """

    mean: Tensor
    std: Tensor
    probe_is_whole = True

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

    def answer(self, batch: Batch) -> Outputs:
        """Answer the batch's images."""
        return self(batch.images)

    def probe(self, image_size: int) -> Outputs:
        """Answer a black image: see `pldistill.models.probe`."""
        return probe(self, image_size)

    def stages(self) -> list[str]:
        """The model's stages, as timm lists them."""
        return stages(self.model)

    def statistics(self) -> dict[str, list[float]]:
        """Mean and std of each channel, of pixels in [0, 1]."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    def around(self, model: nn.Module) -> NormalizedModel:
        """The same model with other weights: `model` with these statistics, on their device, without taps."""
        around = NormalizedModel(model, mean=self.mean.flatten().tolist(), std=self.std.flatten().tolist())
        return around.to(self.mean.device)

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
        """Remove the taps from the model, for a model that lives on without this one."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.taps = self._names = ()
