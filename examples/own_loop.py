"""PLD in a loop of your own, in plain torch: a teacher by cross-entropy, then a student from its logits.

    python examples/own_loop.py        # seconds on one core, nothing is downloaded

For your own work: put your DataLoaders in place of `loader`, and your models in place of `convnet`. What belongs to PLD
are two lines: `PLDLoss(...)`, and its call with the logits of both models for the same images.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from pldistill import PLDLoss
from pldistill.data import TensorSplit, normalize
from pldistill.data.embedded import DIGITS_MEAN, DIGITS_STD, digits


def loader(split: TensorSplit, shuffle: bool) -> DataLoader:
    """Handwritten digits `(N, 3, 16, 16)` and labels `(N,)`; every second pixel, for speed."""
    images = normalize(split.images[:, :, ::2, ::2], DIGITS_MEAN, DIGITS_STD)
    return DataLoader(TensorDataset(images, split.labels), batch_size=32, shuffle=shuffle)


def convnet(width: int) -> nn.Sequential:
    """Two convolutions and a classifier of ten classes."""
    first = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    second = [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(2 * width * 4 * 4, 10))


def fit(student: nn.Module, teacher: nn.Module | None = None, epochs: int = 3) -> None:
    """Train `student`: by PLD where there is a teacher, by cross-entropy where there is none."""
    criterion = PLDLoss(temperature=1.0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    for epoch in range(1, epochs + 1):
        student.train()
        total = 0.0
        for images, labels in train:
            logits = student(images)
            if teacher is None:
                loss = cross_entropy(logits, labels)
            else:
                with torch.no_grad():
                    teacher_logits = teacher(images)
                loss = criterion(logits, teacher_logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        print(f"  epoch {epoch}: loss {total / len(train_split):.4f}, accuracy {accuracy(student):.1f} %")


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Percent of the validation images that `model` names right."""
    model.eval()
    right: list[Tensor] = [model(images).argmax(1) == labels for images, labels in val]
    return 100 * torch.cat(right).float().mean().item()


torch.manual_seed(0)
train_split, val_split = digits()
train, val = loader(train_split, shuffle=True), loader(val_split, shuffle=False)

print("teacher, 32 and 64 channels, by cross-entropy")
teacher = convnet(32)
fit(teacher)
teacher.eval()  # its BatchNorm must neither move nor read the batch
print("student, 4 and 8 channels, by PLD")
fit(convnet(4), teacher)
