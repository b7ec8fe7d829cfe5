"""PLD inside timm's own training task: a teacher by ClassificationTask, then a student by a task whose loss is PLD.

    python examples/timm_task.py        # seconds on one core, nothing is downloaded

Needs timm 1.0.27 or newer; `timm.task` came with 1.0.23, under other attribute names. For your own work: where timm's
train.py makes its LogitDistillationTask, make `PLDTask(model, DistillationTeacher(...))`; its processes, compilation,
moving average and checkpoints stay as they are. Leave mixup and CutMix off: they mix labels, PLD wants one an image.
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, DistillationTeacher, LogitDistillationTask, TrainingTask
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pldistill  # registers resnet8 with timm
from pldistill.data import TensorSplit, normalize
from pldistill.data.embedded import DIGITS_MEAN, DIGITS_STD, digits


class PLDTask(LogitDistillationTask):
    """timm's distillation from logits with PLD alone as its loss: PLD contains cross-entropy, so nothing is weighed."""

    student_mean: Tensor
    student_std: Tensor

    def __init__(self, student: nn.Module, teacher: DistillationTeacher, temperature: float = 1.0, **others):
        super().__init__(student, teacher, **others)
        self.pld = pldistill.PLDLoss(temperature=temperature)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        output = self.trainable_module(input)
        with torch.no_grad():
            seen = self.teacher.normalize_input(input, self.student_mean, self.student_std)
            told = self.teacher(seen, return_features=False)
        return {"loss": self.pld(output, told, target), "output": output}


def loader(split: TensorSplit, shuffle: bool) -> DataLoader:
    """Handwritten digits `(N, 3, 16, 16)` and labels `(N,)`; every second pixel, for speed."""
    images = normalize(split.images[:, :, ::2, ::2], DIGITS_MEAN, DIGITS_STD)
    return DataLoader(TensorDataset(images, split.labels), batch_size=32, shuffle=shuffle)


def create(name: str) -> nn.Module:
    """A model that states how its images are normalized: the task translates from the student's to the teacher's."""
    return timm.create_model(name, num_classes=10, pretrained_cfg_overlay={"mean": DIGITS_MEAN, "std": DIGITS_STD})


def fit(task: TrainingTask, model: nn.Module, epochs: int = 3) -> None:
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3)
    for epoch in range(1, epochs + 1):
        task.train()
        total = 0.0
        for images, labels in train:
            result = task(images, labels)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            total += result["loss"].item() * len(labels)
        print(f"  epoch {epoch}: loss {total / len(train_split):.4f}, accuracy {accuracy(model):.1f} %")


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Percent of the validation images that `model` names right."""
    model.eval()
    return 100 * torch.cat([model(images).argmax(1) == labels for images, labels in val]).float().mean().item()


torch.manual_seed(0)
train_split, val_split = digits()
train, val = loader(train_split, shuffle=True), loader(val_split, shuffle=False)
print("teacher: test_resnet by ClassificationTask")
teacher = create("test_resnet")
fit(ClassificationTask(teacher), teacher)
print("student: resnet8 by PLDTask")
student = create("resnet8")
fit(PLDTask(student, DistillationTeacher(teacher)), student)
