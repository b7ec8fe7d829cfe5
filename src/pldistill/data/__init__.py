"""Pictures with labels: where they come from, what training does to them, and the batches that nets see."""

from pldistill.data.augment import Augment, default_augment
from pldistill.data.loaders import Loader, make_loader
from pldistill.data.mixing import Mixing
from pldistill.data.pictures import read_picture
from pldistill.data.sources import SOURCES, Source, open_data
from pldistill.data.splits import Dataset, Encoded, FolderSplit, Split, StoredSplit, TensorSplit, normalize
from pldistill.data.unlabelled import with_unlabelled

__all__ = [
    "SOURCES",
    "Augment",
    "Dataset",
    "Encoded",
    "FolderSplit",
    "Loader",
    "Mixing",
    "Source",
    "Split",
    "StoredSplit",
    "TensorSplit",
    "default_augment",
    "make_loader",
    "normalize",
    "open_data",
    "read_picture",
    "with_unlabelled",
]
