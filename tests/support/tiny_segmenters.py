"""Segmentation models of a moment on the CPU, and masks for them."""

import torch

from pldistill.tasks.segmentation.segmenter import Segmenter, build_segmenter
from pldistill.types import IGNORED, MaskBatch

NET = "lraspp:test_resnet"
GRAY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
CE = {
    "task": "segmentation",
    "data": "shapes:train=32,val=12",
    "student": NET,
    "method": "ce",
    "epochs": 2,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 0.05,
    "amp": "off",
    "trust_teacher": True,
}


def segmenter(name=NET, classes=4, seed=0, **about):
    torch.manual_seed(seed)
    return Segmenter(build_segmenter(name, classes), **{**GRAY, **about})


def batch(count=3, side=32, classes=4, seed=0):
    """Images of noise in blocks of 4 x 4 of one class; a block in ten is of none."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(classes, (count, side // 4, side // 4), generator=generator)
    blocks[torch.rand(blocks.shape, generator=generator) < 0.1] = IGNORED
    masks = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return MaskBatch(images, masks, torch.arange(count), 0)
