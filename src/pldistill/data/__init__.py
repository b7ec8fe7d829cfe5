"""Pictures with labels or boxes: where they come from, what training does to them, and the batches that nets see."""

from pldistill.data.augment import Augment, default_augment, read_picture
from pldistill.data.box_loader import BoxLoader, make_box_loader
from pldistill.data.box_sources import BOX_SOURCES, open_boxes
from pldistill.data.boxes import BoxData, BoxSplit
from pldistill.data.dataset import Dataset, Encoded, FolderSplit, Split, StoredSplit, TensorSplit, normalize
from pldistill.data.loader import Loader, make_loader
from pldistill.data.mixup import Mixing
from pldistill.data.registry import SOURCES, Source, open_data, with_unlabelled
from pldistill.data.write_coco import write_coco

__all__ = [
    "BOX_SOURCES",
    "SOURCES",
    "Augment",
    "BoxData",
    "BoxLoader",
    "BoxSplit",
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
    "make_box_loader",
    "make_loader",
    "normalize",
    "open_boxes",
    "open_data",
    "read_picture",
    "with_unlabelled",
    "write_coco",
]
