"""Networks: the CIFAR models (timm knows them once this is imported), any timm classifier, weights, taps."""

from pldistill.models import cifar  # noqa: F401  (importing registers its models with timm)
from pldistill.models.base import TaskModel
from pldistill.models.build import (
    about_pretrained,
    build,
    count_parameters,
    list_models,
    pretrained_statistics,
    require_tag,
)
from pldistill.models.checkpoints import HeadSizeError, head_size, load_weights
from pldistill.models.features import NormalizedModel, probe, resolve_taps, stages
from pldistill.models.folder import LoadedFolder, load_folder, save_folder

__all__ = [
    "HeadSizeError",
    "LoadedFolder",
    "NormalizedModel",
    "TaskModel",
    "about_pretrained",
    "build",
    "count_parameters",
    "head_size",
    "list_models",
    "load_folder",
    "load_weights",
    "pretrained_statistics",
    "probe",
    "require_tag",
    "resolve_taps",
    "save_folder",
    "stages",
]
