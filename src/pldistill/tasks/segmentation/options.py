"""The options of segmentation: what training shows of an image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pldistill.tasks.spec import TaskOptions


class SegmentationOptions(TaskOptions):
    """How images are shown in training. Mirroring is the recipe's `hflip`."""

    crop: Annotated[int, Field(ge=0, le=16_384)] = Field(
        0,
        description="Side in pixels of the square that training cuts at random, in each view elsewhere; 0: the whole.",
    )
