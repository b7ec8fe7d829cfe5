"""Images with labels: where they come from, what training does to them, and the batches that models see."""

from pldistill.data.augment import Augment, default_augment, read_image
from pldistill.data.dataset import Dataset, Encoded, FolderSplit, LazySplit, Split, TensorSplit, normalize
from pldistill.data.loader import Loader, make_loader
from pldistill.data.mixup import Mixing
from pldistill.data.registry import SOURCES, Source, open_data, with_unlabelled

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
    "with_unlabelled",
]
