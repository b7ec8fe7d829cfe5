"""Images with labels: where they come from, what training does to them, and the batches that models see."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pldistill.data.augment import Augment, default_augment, read_image, training_augment
    from pldistill.data.dataset import Dataset, Encoded, FolderSplit, LazySplit, Split, TensorSplit, normalize
    from pldistill.data.loader import Loader, make_loader
    from pldistill.data.mixup import Mixing
    from pldistill.data.registry import SOURCES, Source, open_data
    from pldistill.data.unlabelled import with_unlabelled

_HOMES = {
    "Augment": "augment",
    "Dataset": "dataset",
    "Encoded": "dataset",
    "FolderSplit": "dataset",
    "LazySplit": "dataset",
    "Loader": "loader",
    "Mixing": "mixup",
    "SOURCES": "registry",
    "Source": "registry",
    "Split": "dataset",
    "TensorSplit": "dataset",
    "default_augment": "augment",
    "make_loader": "loader",
    "normalize": "dataset",
    "open_data": "registry",
    "read_image": "augment",
    "training_augment": "augment",
    "with_unlabelled": "unlabelled",
}

__all__ = [
    "SOURCES",
    "Augment",
    "Dataset",
    "Encoded",
    "FolderSplit",
    "LazySplit",
    "Loader",
    "Mixing",
    "Source",
    "Split",
    "TensorSplit",
    "default_augment",
    "make_loader",
    "normalize",
    "open_data",
    "read_image",
    "training_augment",
    "with_unlabelled",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pldistill.data.{_HOMES[name]}"), name)
