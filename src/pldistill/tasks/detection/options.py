"""The options of detection. RoIs, anchors and box head as torchvision has them.

Five trainable layers, and batch statistics, are torchvision's for a model from scratch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pldistill.tasks.spec import TaskOptions


def read_sides(text: str) -> tuple[int, int] | None:
    """The least and the largest short side in training of `640-800`; None for an empty text: as in evaluation.

    Raises:
        ValueError: for another text.
    """
    if not text:
        return None
    least, dash, most = text.partition("-")
    if not (dash and least.isdecimal() and most.isdecimal() and 8 <= int(least) <= int(most)):
        raise ValueError(f"expected LEAST-MOST in pixels, as 640-800, got {text!r}")
    return int(least), int(most)


def _checked_sides(text: str) -> str:
    read_sides(text)
    return text


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class DetectionOptions(TaskOptions):
    """How a detector is built, which RoIs it samples, and what it gives."""

    norm: Literal["batch", "frozen", "group"] = Field(
        "batch", description="Normalization of the backbone: batch, frozen statistics, or group."
    )
    trainable_layers: Annotated[int, Field(ge=0, le=5)] = Field(
        5, description="Stages of the backbone that train, counted from the last."
    )
    fpn_channels: Count = Field(256, description="Channels of the feature pyramid.")
    head_width: Count = Field(1024, description="Width of the box head.")
    anchor: Count = Field(32, description="Side of the smallest anchor, in pixels.")
    short_sides: Annotated[str, AfterValidator(_checked_sides)] = Field(
        "", description="Short side in training, LEAST-MOST in pixels; empty: as in evaluation."
    )
    max_side: Annotated[int, Field(ge=8)] = Field(1333, description="The most that the long side may have, in pixels.")
    rois_per_image: Count = Field(512, description="RoIs sampled from an image.")
    positive_fraction: Share = Field(0.25, description="The part of them that may show an object.")
    background_rows: bool = Field(True, description="Whether RoIs of the background count in the method's terms.")
    unused_ids: Literal["drop", "keep"] = Field(
        "drop", description="Whether logits of COCO's unused category ids stand in a row."
    )
    rpn_per_image: Count = Field(256, description="Anchors sampled from an image for the proposals' losses.")
    pre_nms: Count = Field(2000, description="Proposals of a level before NMS, in training.")
    post_nms: Count = Field(2000, description="Proposals of an image after NMS, in training.")
    pre_nms_eval: Count = Field(1000, description="Proposals of a level before NMS, in evaluation.")
    post_nms_eval: Count = Field(1000, description="Proposals of an image after NMS, in evaluation.")
    score_threshold: Share = Field(0.05, description="Least score of a detection.")
    detections: Count = Field(100, description="The most detections of an image.")

    @property
    def train_sides(self) -> tuple[int, int] | None:
        """The least and the largest short side in training; None where every image is as in evaluation."""
        return read_sides(self.short_sides)

    @property
    def keeps_unused(self) -> bool:
        """Whether a row has logits of COCO's unused category ids."""
        return self.unused_ids == "keep"
