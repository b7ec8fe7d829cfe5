"""Read weights from the files people have, and put them into a model only if all of them fit.

A file of the older distillation libraries holds more than tensors: an `argparse.Namespace` of options and NumPy
scalars. These, and nothing else, are let through torch's restricted unpickler.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pldistill.files import check_run_files
from pldistill.json_files import JsonFile, read_json
from pldistill.paths import kind_of, require_file

# where a training checkpoint keeps its weights; averaged ones first, as timm does
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
# what outer modules put before a model's own names; beside a student there may be a teacher and a method's layers
STUDENT = "student."
PREFIXES = ("module.", "_orig_mod.", STUDENT, "model.")
NUMBERS = [np.dtype(kind) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")]
REFUSED = "WeightsUnpickler error: "  # where torch's own message gives its reason
SHOWN = 3  # names of a kind in an error
COUNTER = "num_batches_tracked"  # of a BatchNorm, since version 2 of its state
POSITIONS = ("pos_embed", "rel_pos", "relative_position")  # in the names of what depends on the size of the image
LFS, PAGES = b"version https://git-lfs", (b"<!doctype html", b"<html")


def load_weights(model: nn.Module, checkpoint: str | Path, *, new_head: bool = False) -> None:
    """Load a checkpoint into `model`, every tensor of it, or nothing.

    Understood: safetensors; torch files with a plain state dict or one under `state_dict` or `model` (averaged weights
    under `state_dict_ema` or `model_ema` first); names behind `module.`, `_orig_mod.`, `student.` or `model.` (where
    there is a student, only the student is read); a run folder. Torch files are read without running code in them.

    Args:
        model: a model of timm's or ours.
        checkpoint: the file, or a folder with `model.safetensors`.
        new_head: leave the model's own head as it is and load the rest.

    Raises:
        ValueError: no such file, a file that holds more than weights and options, a head of other size, or names and
            shapes that differ (the first few are shown). The model is then unchanged.

    Position embeddings of another image size are resampled by timm's own function, which is logged. A BatchNorm's
    `num_batches_tracked` may be missing, as in files of torch before 0.4.1.
    """
    path = Path(checkpoint)
    if kind_of(path) == "a folder":
        _check_architecture(model, path)
        check_run_files(path, ("config.json", "model.safetensors"))
        path = path / "model.safetensors"
    put_weights(model, read_state(path), path, new_head=new_head)


def put_weights(model: nn.Module, given: dict[str, Tensor], path: Path, *, new_head: bool = False) -> None:
    """Put a state dict read from `path` into `model`, as `load_weights` does."""
    own = model.state_dict()
    state = _resized(model, _with_counters(_plain(given, own), own), own, path)
    heads = tuple(f"{head}." for head in classifier_names(model))
    if new_head:
        state = {name: value for name, value in state.items() if not name.startswith(heads)}
        state |= {name: value for name, value in own.items() if name.startswith(heads)}
    else:
        _check_head(own, state, heads, path)
    _check_names(own, state, path)
    model.load_state_dict(state)


def head_size(model: nn.Module, checkpoint: str | Path) -> int:
    """How many classes the head in a checkpoint for this model has, whatever the model's own head has.

    Raises:
        ValueError: as `load_weights`, or no head of this model's in the file.
    """
    path = Path(checkpoint)
    path = path / "model.safetensors" if kind_of(path) == "a folder" else path
    state = _plain(read_state(path), model.state_dict())
    for head in classifier_names(model):
        if f"{head}.weight" in state:
            return state[f"{head}.weight"].shape[0]
    raise ValueError(f"checkpoint {path} has no head of the model's ({', '.join(classifier_names(model)) or 'none'})")


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Module names of the model's head (most have one, distilled transformers two), from timm's entry."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file; ValueError where it holds none, or as `read_file`."""
    return _find(read_file(path), path)


def read_file(path: Path) -> Any:
    """What a safetensors or torch file holds; ValueError where it is missing, damaged or not only data."""
    require_file(path, "checkpoint")
    _refuse_other_kinds(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(f"checkpoint {path} is not a readable safetensors file: {_line(error)}") from error
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _holds_modules(path):
            raise ValueError(
                f"checkpoint {path} holds a pickled model, not weights: save its state_dict() (torch.save("
                "model.state_dict(), FILE), where its classes can be imported)"
            ) from error
        reason = str(error).partition(REFUSED)[2].partition("Please use")[0].strip().partition("\n")[0]
        raise ValueError(
            f"checkpoint {path} was refused: it is no torch file of tensors, plain values, argparse.Namespace and "
            f"NumPy numbers alone ({reason or 'unreadable'})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"checkpoint {path} is not a readable torch file: {_line(error)}") from error


def _refuse_other_kinds(path: Path) -> None:
    """Name what is often saved in place of weights."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    for kind, found in (
        ("an empty file", not head),
        ("a Git LFS pointer; `git lfs pull` fetches the file it stands for", head.startswith(LFS)),
        ("an HTML page, as a link to a download shows it", start.startswith(PAGES)),
        ("a TorchScript archive, which holds code: save its state_dict()", _is_script(path)),
    ):
        if found:
            raise ValueError(f"checkpoint {path}: expected weights, got {kind}")


def _is_script(path: Path) -> bool:
    """Whether a file is a zip archive that holds TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # another kind of file
        return False


def _holds_modules(path: Path) -> bool:
    """Whether what torch refused in a file are layers of torch: a whole model was pickled."""
    try:
        if zipfile.is_zipfile(path):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        else:  # as torch wrote files before 1.6: three small pickles, then the object's own
            with path.open("rb") as file:
                codes = [code for _ in range(4) for code in pickletools.genops(file)]
            names = [str(argument) for code, argument, _ in codes if code.name == "GLOBAL"]
    except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError, OSError):  # no file of torch's
        return False
    return any(name.startswith("torch.nn.modules.") for name in names)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _numpy_number(dtype: np.dtype, data: bytes) -> Any:
    """Rebuild a NumPy scalar from a pickle; only plain numbers."""
    if dtype not in NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"{REFUSED}NumPy scalar of type {dtype}")
    return np.frombuffer(data, dtype=dtype)[0]


def _named(module: str) -> Any:
    """`_numpy_number` under the name that a pickle gives it: NumPy 1 and 2 keep `scalar` in different modules."""

    def scalar(dtype: np.dtype, data: bytes) -> Any:
        return _numpy_number(dtype, data)

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


def _allowed() -> list[Any]:
    scalars = [_named("numpy.core.multiarray"), _named("numpy._core.multiarray")]
    return [argparse.Namespace, np.dtype, *{type(number) for number in NUMBERS}, *scalars]


def _find(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside what a file holds."""
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        kind = (
            f"the keys {sorted(map(str, content))[:SHOWN]}" if isinstance(content, Mapping) else type(content).__name__
        )
        raise ValueError(f"checkpoint {path} holds no state dict (expected tensors by name, got {kind})")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _plain(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the outer modules' names as long as there are some that the model itself does not use."""
    for prefix in PREFIXES:
        inside = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        whole = len(inside) == len(state) or (inside and prefix == STUDENT)
        if whole and not any(name.startswith(prefix) for name in own):
            return _plain(inside, own)
    return state


def _with_counters(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what files of torch before 0.4.1 lack, as torch does: the model's own counters of a BatchNorm's batches."""
    counters = {name: value for name, value in own.items() if name.rpartition(".")[2] == COUNTER and name not in state}
    lacking = {name: value for name, value in counters.items() if name.removesuffix(COUNTER) + "running_mean" in state}
    return {**state, **lacking}


def _resized(model: nn.Module, state: dict[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Resample the position embeddings of another image size as timm does for its own weights, and log it."""
    other = {name: value.shape for name, value in state.items() if name in own and value.shape != own[name].shape}
    names = [name for name in other if any(part in name for part in POSITIONS)]
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if not names or resample is None:
        return state
    try:
        resampled = resample(dict(state), model)
    except (RuntimeError, ValueError, AssertionError):  # the shapes are then refused as they are
        return state
    fitting = {name: resampled[name] for name in names if name in resampled}
    fitting = {name: value for name, value in fitting.items() if value.shape == own[name].shape}
    if fitting:
        first = next(iter(fitting))
        logging.getLogger(__name__).warning(
            f"checkpoint {path}: {len(fitting)} position embedding{'s' * (len(fitting) > 1)} of another image size "
            f"resampled ({first}: {tuple(other[first])} to {tuple(fitting[first].shape)})"
        )
    return {**state, **fitting}


class ArchitectureFile(JsonFile):
    """What a config.json says of the model that the weights beside it are of."""

    architecture: str


def _check_architecture(model: nn.Module, folder: Path) -> None:
    config = folder / "config.json"
    if kind_of(config) is None:
        raise ValueError(f"checkpoint folder {folder} has no config.json: it is no run folder")
    found = read_json(config, ArchitectureFile).architecture
    expected = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if expected is not None and found != expected:
        raise ValueError(f"checkpoint folder {folder} holds a {found}, expected a {expected}")


class HeadSizeError(ValueError):
    """Weights of a head of other classes than the model's.

    Attributes:
        theirs: the classes that the weights tell apart.
    """

    def __init__(self, message: str, theirs: int) -> None:
        super().__init__(message)
        self.theirs = theirs


def _check_head(own: Mapping[str, Tensor], state: Mapping[str, Tensor], heads: tuple[str, ...], path: Path) -> None:
    for name in (f"{head}weight" for head in heads):
        if name in own and name in state and own[name].shape[0] != state[name].shape[0]:
            raise HeadSizeError(
                f"checkpoint {path} has a head of {state[name].shape[0]} classes, the model has {own[name].shape[0]}; "
                f"new_head=True (--new-head) starts a fresh head on the loaded body",
                state[name].shape[0],
            )


def _check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    shared = [name for name in own if name in state]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in shared
        if own[name].shape != state[name].shape
    ]
    differences = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    parts = [
        f"{len(names)} {kind} ({'; '.join(names[:SHOWN])}{'; ...' if len(names) > SHOWN else ''})"
        for kind, names in differences.items()
        if names
    ]
    if parts:
        raise ValueError(f"checkpoint {path} does not fit the model: {', '.join(parts)}")
