"""Knowledge distillation in PyTorch, led by Plackett-Luce distillation (PLD).

    from pldistill import PLDLoss
    loss = PLDLoss()(student_logits, teacher_logits, labels)

Importing this package registers the CIFAR models with timm.
"""

__version__ = "0.1.0"  # above the imports: the build reads it without them

from pldistill import losses, models
from pldistill.losses import PlackettLuce, PLDLoss
from pldistill.methods import METHODS
from pldistill.recipe import Recipe, make_recipe
from pldistill.training.run import Run, evaluate, load_run, predict, train

__all__ = [
    "METHODS",
    "PLDLoss",
    "PlackettLuce",
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
