"""Knowledge distillation in PyTorch, led by Plackett-Luce distillation (PLD).

    from pldistill import PLDLoss
    loss = PLDLoss()(student_logits, teacher_logits, labels)

Importing this package registers the CIFAR nets with timm.
"""

from pldistill import losses, models
from pldistill.losses import PLDLoss
from pldistill.methods import METHODS
from pldistill.recipe import Recipe, make_recipe
from pldistill.training.run import Run, evaluate, load_run, predict, train
from pldistill.version import __version__

__all__ = [
    "METHODS",
    "PLDLoss",
    "Recipe",
    "Run",
    "__version__",
    "evaluate",
    "load_run",
    "losses",
    "make_recipe",
    "models",
    "predict",
    "train",
]
