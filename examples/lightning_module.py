"""PLD as a LightningModule: a teacher by cross-entropy, then a student from its logits.

    pip install lightning
    python examples/lightning_module.py        # seconds on one core, nothing is downloaded

For your own work: give `Distilled` your models, the Trainer your DataLoaders and what you know it by (devices,
precision, loggers, checkpoints). Of several processes each computes the loss of its own images, and Lightning averages.
"""

import logging
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pldistill import PLDLoss
from pldistill.data import TensorSplit, normalize
from pldistill.data.embedded import DIGITS_MEAN, DIGITS_STD, digits


class Distilled(lightning.LightningModule):
    """Trains `student`: by PLD where there is a teacher, by cross-entropy where there is none."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        # In a list it is no submodule: not in checkpoints, not among the parameters, never put into training mode.
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        self.criterion = PLDLoss(temperature=1.0)

    def on_fit_start(self) -> None:
        for teacher in self.teachers:
            teacher.to(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits, told = self.student(images), [teacher(images) for teacher in self.teachers]
        loss = self.criterion(logits, told[0], labels) if told else cross_entropy(logits, labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("accuracy", 100 * (self.student(batch[0]).argmax(1) == batch[1]).float().mean())

    def on_train_epoch_end(self) -> None:
        loss, accuracy = (float(self.trainer.callback_metrics[name]) for name in ("loss", "accuracy"))
        self.print(f"  epoch {self.current_epoch + 1}: loss {loss:.4f}, accuracy {accuracy:.1f} %")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.student.parameters(), lr=2e-3)


def loader(split: TensorSplit, shuffle: bool) -> DataLoader:
    """Handwritten digits `(N, 3, 32, 32)` and labels `(N,)`."""
    images = normalize(split.images, DIGITS_MEAN, DIGITS_STD)
    return DataLoader(TensorDataset(images, split.labels), batch_size=32, shuffle=shuffle)


def perceptron(width: int) -> nn.Sequential:
    """Means of 4 x 4 pixels, one hidden layer, ten classes."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10))


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it tells at length which devices there are
warnings.filterwarnings("ignore", ".*does not have many workers")  # images in memory need none
warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning 2.6 with newer releases of torch
lightning.seed_everything(0, verbose=False)
train, val = (loader(split, shuffle) for split, shuffle in zip(digits(), (True, False), strict=True))
off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
quiet: dict[str, Any] = dict.fromkeys(off, False)

print("teacher, 512 hidden units, by cross-entropy")
teacher = perceptron(512)
lightning.Trainer(max_epochs=3, **quiet).fit(Distilled(teacher), train, val)
print("student, 24 hidden units, by PLD")
lightning.Trainer(max_epochs=3, **quiet).fit(Distilled(perceptron(24), teacher), train, val)
