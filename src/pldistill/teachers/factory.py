"""A teacher of one's own: `module.path:factory`, a function without arguments that gives a `torch.nn.Module`.

The module takes normalized images `(N, 3, H, W)`, float32, and gives logits `(N, C)`. It is given the data's input
statistics; a factory whose model has its own gives a `pldistill.models.NormalizedModel`, which carries them. The module
is imported as Python imports it, with the working directory first.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from pldistill import models
from pldistill.data import Dataset
from pldistill.models import NormalizedModel
from pldistill.specs import unknown

_NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def is_factory(name: str) -> bool:
    """Whether a teacher's name is `module.path:factory`."""
    return _NAME.fullmatch(name) is not None


def build_own(name: str, checkpoint: str | None, dataset: Dataset) -> NormalizedModel:
    """Call the factory, and load a checkpoint into what it gives.

    Raises:
        ValueError: for a module that cannot be imported, a name that it has not, something else than a module in
            return, weights that do not fit, or a model that cannot take the data's images.
    """
    made = _call(name)
    if not isinstance(made, nn.Module):
        raise ValueError(f"teacher {name!r}: expected a torch.nn.Module from it, got {type(made).__name__}")
    model = made if isinstance(made, NormalizedModel) else NormalizedModel(made, mean=dataset.mean, std=dataset.std)
    if checkpoint is not None:
        models.load_weights(model.model, checkpoint)
    logits = model.probe(dataset.image_size).logits
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 1:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"teacher {name!r}: expected logits (1, C) of one image, got {got}")
    return model


def _call(name: str) -> object:
    match = _NAME.fullmatch(name)
    assert match is not None
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = import_module(match[1])
    except ImportError as error:
        raise ValueError(f"teacher {name!r}: cannot import {match[1]!r}: {error}") from error
    finally:
        sys.path.remove(here)
    factory = getattr(module, match[2], None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"teacher {name!r}: {unknown(f'function of {match[1]}', match[2], known)}")
    with torch.random.fork_rng(devices=[]):  # a teacher must not change how the student starts
        try:
            return factory()
        except TypeError as error:
            raise ValueError(f"teacher {name!r}: expected a function without arguments: {error}") from error
