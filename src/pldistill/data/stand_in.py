"""Data like what a specification names, without reading it: as many images, of noise. What is timed needs no more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pldistill.data.dataset import Dataset, TensorSplit, divide
from pldistill.data.registry import SOURCES, read_spec
from pldistill.specs import split_spec


class RepeatedImage(TensorSplit):
    """One image as often as it is wanted, in the memory of one."""

    def subset(self, indices: Sequence[int] | Tensor) -> RepeatedImage:
        positions = self._positions(indices)
        images = self.images[:1].expand(len(positions), -1, -1, -1)
        return RepeatedImage(images, self.labels[positions], self.ids[positions])


def stand_in(spec: str, *, image_size: int | None = None) -> Dataset | None:
    """A data set with the counts of the one that `spec` names, as `open_data` would divide it; images of one noise.

    None for a source whose counts only its files tell (`Source.sizes`).

    Raises:
        ValueError: an unknown option, or a part that is too small or larger than what there is.
    """
    name, _, _ = split_spec(spec)
    sizes = SOURCES[name].sizes if name in SOURCES else None
    if sizes is None:
        return None
    _, parts = read_spec(spec, SOURCES[name])
    side = image_size or sizes.image_size
    image = torch.randint(256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train, val = (
        RepeatedImage(image.expand(count, -1, -1, -1), torch.arange(count) % sizes.classes)
        for count in (sizes.train, sizes.val)
    )
    return divide(
        Dataset(
            spec=spec,
            classes=tuple(str(label) for label in range(sizes.classes)),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            image_size=side,
            hflip=True,
            train=train,
            val=val,
        ),
        **parts,
    )
