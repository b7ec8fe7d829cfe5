"""A batch of one image: a BatchNorm that sees one value a channel of it, as behind global pooling, cannot train on it.

torch refuses that in the middle of a run. Here it is refused before the first step. The loaders give each process two
images at least where the batch size is two or more: a last batch of fewer joins the one before it (`data.loader`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pldistill.models.base import TaskModel


def check_single_images(student: TaskModel, image_size: int, batch_size: int, smallest: int) -> None:
    """Refuse batches of one image for a student that cannot train on one.

    Args:
        student: is shown a black image, in evaluation, where a batch may be of one.
        image_size: pixels of its side.
        batch_size: the recipe's.
        smallest: images that a process may have of a batch.

    Raises:
        ValueError: naming the layer.
    """
    if smallest >= 2 or (layer := single_value_layer(student, image_size)) is None:
        return
    why = f"the student's BatchNorm {layer!r} sees one value a channel of an image and cannot train on one image"
    if batch_size == 1:
        raise ValueError(f"batch_size: expected at least 2, for {why}, got 1")
    raise ValueError(
        f"data: expected two training images for each process, for {why}, got {smallest} in the smallest batch"
    )


def single_value_layer(student: TaskModel, image_size: int) -> str | None:
    """The first BatchNorm that trains and that sees one value a channel of one image; None where there is none."""
    found: list[str] = []
    handles = [
        module.register_forward_pre_hook(_watch(name, found))
        for name, module in student.model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        if handles:
            student.probe(image_size)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _watch(name: str, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    return look
