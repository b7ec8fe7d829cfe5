"""Knowledge distillation in PyTorch, led by Plackett-Luce distillation (PLD).

    from pldistill import PLDLoss
    loss = PLDLoss()(student_logits, teacher_logits, labels)

What is not used is not imported: `pldistill.losses` needs torch alone. Importing `pldistill.models` registers the CIFAR
models with timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pldistill import losses, models
    from pldistill.losses import PlackettLuce, PLDLoss
    from pldistill.methods import METHODS
    from pldistill.recipe import Recipe, make_recipe
    from pldistill.training.distill import distill
    from pldistill.training.run import Run, evaluate, load_run, predict, train

_HOMES = {
    "METHODS": "methods",
    "PLDLoss": "losses",
    "PlackettLuce": "losses",
    "Recipe": "recipe",
    "Run": "training.run",
    "distill": "training.distill",
    "evaluate": "training.run",
    "load_run": "training.run",
    "make_recipe": "recipe",
    "predict": "training.run",
    "train": "training.run",
}

__all__ = [
    "METHODS",
    "PLDLoss",
    "PlackettLuce",
    "Recipe",
    "Run",
    "__version__",
    "distill",
    "evaluate",
    "load_run",
    "losses",
    "make_recipe",
    "models",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"pldistill.{_HOMES[name]}"), name)
    elif name in ("losses", "models"):
        value = import_module(f"pldistill.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next time it is there
    return value


def __dir__() -> list[str]:
    return __all__
