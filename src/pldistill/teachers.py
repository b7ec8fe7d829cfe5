"""Who is asked: one call, `teacher(batch) -> Outputs`.

A teacher is an argument of the step, never a child of what is trained, so it is absent from the student's parameters,
checkpoint, average and training mode without a hack.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import torch

from pldistill import models
from pldistill.contracts import Batch, Outputs
from pldistill.data import Dataset
from pldistill.models import Net
from pldistill.recipe import Recipe


class Teacher(ABC):
    """Answers for a batch, constant: no gradient reaches it and nothing changes it."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Outputs:
        """Give the teacher's outputs for `batch`, on its device."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Give a SHA-256 over all that the answers depend on; the run compares it before and after."""


class LiveTeacher(Teacher):
    """A net in eval mode, asked under `no_grad` with its own input statistics."""

    def __init__(self, net: Net) -> None:
        self.net = net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        return self.net(batch.images)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def open_teacher(recipe: Recipe, dataset: Dataset) -> LiveTeacher | None:
    """Build the recipe's teacher: a run, a net with a checkpoint, or a tagged timm name with timm's weights.

    Raises:
        ValueError: for a teacher without weights, or one whose classes are not the data's.
    """
    if recipe.teacher is None:
        return None
    if Path(recipe.teacher).is_dir():
        if recipe.teacher_checkpoint is not None:
            raise ValueError(
                f"teacher_checkpoint: expected none beside the run {recipe.teacher!r}, which has its weights"
            )
        return LiveTeacher(_from_run(recipe.teacher, dataset))
    count = len(dataset.classes)
    if recipe.teacher_checkpoint is not None:
        model = models.build(
            recipe.teacher, num_classes=count, checkpoint=recipe.teacher_checkpoint, image_size=dataset.image_size
        )
        return LiveTeacher(Net(model, mean=dataset.mean, std=dataset.std))
    models.require_tag(recipe.teacher)
    model = models.build(recipe.teacher, num_classes=count, pretrained=True, image_size=dataset.image_size)
    mean, std = models.pretrained_statistics(model)
    return LiveTeacher(Net(model, mean=mean, std=std))


def _from_run(folder: str, dataset: Dataset) -> Net:
    loaded = models.load_folder(folder)
    theirs, ours = loaded.classes, dataset.classes
    if len(theirs) != len(ours):
        raise ValueError(f"teacher {folder!r}: expected the data's {len(ours)} classes, got {len(theirs)}")
    for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        if their != our:
            raise ValueError(f"teacher {folder!r}: expected the data's class {index}, {our!r}, got {their!r}")
    return Net(loaded.model, mean=loaded.mean, std=loaded.std)
