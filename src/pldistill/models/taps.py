"""Where to listen inside a net: a stage by its number, `"pooled"`, or any module by its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pldistill.models.weights import classifier_names
from pldistill.types import Outputs

if TYPE_CHECKING:
    from pldistill.models.net import Net

POOLED = "pooled"


@dataclass(frozen=True)
class Tap:
    """A place in a net.

    Attributes:
        module: the module's name.
        before: listen to the module's input, not its output.
        channels: of a stage whose map is heard as (N, C, H, W), also where the net computes in (N, H, W, C).
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
    """Module names of the net's stages, the stem first, as timm lists them; empty where it lists none."""
    info = getattr(model, "feature_info", None) or []
    return [info[index]["module"] for index in range(len(info))]


def resolve_taps(model: nn.Module, taps: Sequence[str | int]) -> dict[str, Tap]:
    """Find each tap in the net; the keys, `str(tap)`, name the features in `Outputs`.

    Args:
        model: a net of timm's or ours.
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


def probe(net: Net, image_size: int) -> Outputs:
    """What the net answers to one black picture: read the shapes from it. Neither weights nor running statistics move.

    Raises:
        ValueError: a size that the net cannot take, a tapped module that does not run, or a tapped activation that
            a later layer overwrites in place.
    """
    versions: dict[str, tuple[Tensor, int]] = {}
    taps = resolve_taps(net.model, net.taps)
    handles = [
        tap.listen(net.model, lambda value, key=key: versions.__setitem__(key, (value, value._version)))
        for key, tap in taps.items()
    ]
    training = {module: module.training for module in net.modules()}
    images = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=net.mean.device)
    try:
        with torch.no_grad():
            outputs = net.eval()(images)
    except KeyError as error:
        raise ValueError(f"tap {error}: the module does not run in a forward pass") from error
    except (RuntimeError, AssertionError) as error:
        kind, reason = type(net.model).__name__, str(error).partition("\n")[0]
        raise ValueError(f"{kind} cannot take pictures of {image_size}x{image_size} pixels: {reason}") from error
    finally:
        for module, flag in training.items():
            module.training = flag
        for handle in handles:
            handle.remove()
    for key, (value, version) in versions.items():
        if value._version != version:
            raise ValueError(f"tap {key!r} is overwritten in place by the layer after it: tap that layer instead")
    return outputs
