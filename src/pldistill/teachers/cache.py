"""A teacher that ran once: its outputs are read from a cache that `pldistill cache` made, and no model is there.

Epoch e shows view e modulo V, V being the recipe's `views`, at most the views of the cache. A crop follows from
(augment_seed, view, id), so a cache is for one augment_seed, and for runs of any seed that have it. Of mixed images
nothing is stored: the two images' outputs are looked up and mixed as the pixels are, t = λ t_a + (1 - λ) t_b.
Logits, not probabilities, for the reason that an `Ensemble` has: t / τ is then the mixture at every temperature τ, and
the order of the classes is the same at all.

On disk a teacher cache says of itself whose answers it holds:

    header.json       whose answers these are, about which images, in which form; each whole file with its SHA-256
    view-0000.bin     a record for each training image as view 0 shows it, in the order of the split; and so on
    validation.bin    the same of the validation images, with every class's logit

A record is little-endian and holds, of the C logits t of an image,

    top               float32     m = max_i t_i
    logsumexp         float32     log Σ_i exp((t_i - m) / T) over all C classes
    logits            K float16   t_i - m, at most 0 and exact to 2^-11 of their size, whatever the size of t
    classes           K integers  which i these are: 1, 2 or 4 bytes by C; left out where K = C

of the label and the K - 1 largest others. Of the classes that are not there, the tail, the logsumexp tells the mass at
the temperature T. They are read as if they shared it evenly: each has the logit f with

    (C - K) exp((f - m) / T) = exp(logsumexp) - Σ_stored exp((t_i - m) / T)

so that at T the softmax of what is read is, in the stored places, the teacher's own to the rounding of the logits.

Of text a sample is a sequence and has a record for each token that is predicted, one behind the other, of which the
label is the token itself; the validation text is stored in the same form, not with every class's logit. So it is for
anyone a file of top-K ids with their log-probabilities: log p_i = logits_i / T - logsumexp, and the mass of the rest is
1 - Σ exp(log p_i).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from pldistill.files import sha256, write_atomically
from pldistill.json_files import Count, Digest, JsonFile, read_object, validate
from pldistill.methods import METHODS
from pldistill.paths import kind_of, require_file, require_folder
from pldistill.recipe import MANY, Recipe, make_recipe
from pldistill.specs import teacher_members
from pldistill.teachers.live import Teacher
from pldistill.types import Batch, Outputs, TokenBatch

FORMAT = 1
_OLD_NAMES = {"pictures": "images", "validation_pictures": "validation_images"}  # in headers of older caches
HEADER, VALIDATION = "header.json", "validation.bin"
_LOWEST = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class RecordFormat:
    """What a record holds.

    Attributes:
        classes: C.
        places: K, how many of them are stored.
        temperature: T, of the logsumexp.
    """

    classes: int
    places: int
    temperature: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether every class is stored."""
        return self.places == self.classes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record, packed."""
        columns: list[Any] = [("top", "<f4"), ("logsumexp", "<f4"), ("logits", "<f2", (self.places,))]
        if not self.whole:
            index = "u1" if self.classes <= 1 << 8 else "<u2" if self.classes <= 1 << 16 else "<u4"
            columns.append(("classes", index, (self.places,)))
        return np.dtype(columns)

    def encode(self, logits: Tensor, labels: Tensor) -> np.ndarray:
        """`(N,)` records of `logits (N, C)`; a label below 0 is none, and the first K classes are stored.

        Raises:
            ValueError: for logits that are not finite.
        """
        if not bool(logits.isfinite().all()):
            raise ValueError("expected finite logits of the teacher, got NaN or an infinity")
        logits = logits.float()
        top = logits.amax(1, keepdim=True)
        below = logits - top
        records = np.empty(len(logits), self.dtype)
        records["top"] = top[:, 0].cpu().numpy()
        records["logsumexp"] = below.double().div(self.temperature).logsumexp(1).cpu().numpy()
        if not self.whole:
            rows = torch.arange(len(labels), device=labels.device)[labels >= 0]
            keys = below.index_put((rows, labels[rows]), below.new_tensor(math.inf))
            first = keys.sort(dim=1, descending=True, stable=True).indices[:, : self.places]
            records["classes"] = first.cpu().numpy()
            below = below.gather(1, first)
        records["logits"] = below.clamp(min=_LOWEST).half().cpu().numpy()
        return records

    def decode(self, records: Tensor) -> Tensor:
        """`(N, C)` float32 logits of `(N, bytes of a record)` uint8, on the same device."""
        top, logsumexp = (_column(records, at, 1, torch.float32) for at in (0, 4))
        below = _column(records, 8, self.places, torch.float16).float()
        if self.whole:
            return below + top
        tail = self._tail(below, logsumexp).expand(-1, self.classes)
        return tail.scatter(1, self._classes(records), below) + top

    def _tail(self, below: Tensor, logsumexp: Tensor) -> Tensor:
        """`(N, 1)`, f - m: at most the least of the K - 1 largest, which rounding must not put behind the tail."""
        mass = logsumexp.double().exp() - below.double().div(self.temperature).exp().sum(1, keepdim=True)
        each = mass.clamp(min=1e-30) / (self.classes - self.places)
        least = below[:, -1:] if self.places > 1 else torch.zeros_like(below)
        return (self.temperature * each.log()).float().minimum(least)

    def _classes(self, records: Tensor) -> Tensor:
        start, index = 8 + 2 * self.places, self.dtype["classes"].base
        if index.itemsize == 1:
            return records[:, start:].long()
        signed = torch.int16 if index.itemsize == 2 else torch.int32
        return _column(records, start, self.places, signed).long() & (2 ** (8 * index.itemsize) - 1)


def _column(records: Tensor, start: int, count: int, dtype: torch.dtype) -> Tensor:
    # A copy, for torch reads a number only where a number of its size may begin.
    column = records[:, start : start + count * dtype.itemsize].clone(memory_format=torch.contiguous_format)
    return column.view(dtype)


_Whole = Annotated[int, Field(ge=1, le=10_000_000)]


class CacheMetadata(JsonFile):
    """What a teacher cache says of itself: all that its answers depend on.

    Attributes:
        teacher: its text, as the recipe named it.
        teacher_sha256: its fingerprint.
        models: of each of its models the side of the images it was trained on, and its input's mean and std.
        parameters: of all its models.
        data: the data, without its path.
        train_sha256: the training images' fingerprint.
        validation_sha256: the validation images'.
        images: how many training images.
        validation_images: how many validation images.
        classes: C.
        image_size: the side of the images as they were shown.
        augment: how they were augmented.
        seed: of the augmentation: a crop follows from (seed, view, id).
        views: V, how many augmented versions of each image.
        places: K, how many classes of a training image are stored.
        temperature: T, at which the mass of the others is exact.
        tail: what the classes that are not stored are read as: `even`, or `none` where all are stored.
        amp: the precision that the teacher computed in.
        device: the kind of device.
        batch_size: images asked about at a time.
        rows: records of a sample: 1 of an image, of a sequence of tokens its length.
    """

    model_config = ConfigDict(extra="forbid")

    teacher: str
    teacher_sha256: Digest
    models: list[dict[str, Any]]
    parameters: Count
    data: str
    train_sha256: str
    validation_sha256: str
    images: Annotated[int, Field(ge=1, le=2**40)]
    validation_images: Annotated[int, Field(ge=1, le=2**40)]
    classes: _Whole
    image_size: _Whole
    augment: dict[str, Any]
    seed: Count
    views: Annotated[int, Field(ge=1, le=MANY)]
    places: _Whole
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    tail: str
    amp: str
    device: str
    batch_size: _Whole
    rows: _Whole = 1

    @model_validator(mode="after")
    def _places_are_classes(self) -> CacheMetadata:
        if self.places > self.classes:
            raise ValueError(f"places: expected at most the {self.classes} classes, got {self.places}")
        return self

    @property
    def form(self) -> RecordFormat:
        """The training images' records."""
        return RecordFormat(self.classes, self.places, self.temperature)

    @property
    def validation_form(self) -> RecordFormat:
        """The validation images' records; of text they are as the training text's."""
        return RecordFormat(self.classes, self.classes) if self.rows == 1 else self.form

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an image's one record is not said, as it was not in older caches."""
        return self.model_dump(exclude_defaults=True)

    def sizes(self) -> dict[str, int]:
        """Every file with its bytes."""
        view, validation = (self.rows * form.dtype.itemsize for form in (self.form, self.validation_form))
        files = {view_file(number): self.images * view for number in range(self.views)}
        return {**files, VALIDATION: self.validation_images * validation}


def view_file(view: int) -> str:
    """A view's file."""
    return f"view-{view:04d}.bin"


class HeaderFile(JsonFile):
    """What header.json must hold."""

    format: Literal[1]
    about: CacheMetadata
    whole: dict[str, Digest]
    under_way: dict[str, Count]


@dataclass(frozen=True)
class Header:
    """A cache's header: what it is about, the SHA-256 of each file that is whole, and the one that is being written."""

    about: CacheMetadata
    whole: Mapping[str, str]
    under_way: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Put it in place, atomically."""
        whole = {name: self.whole[name] for name in self.about.sizes() if name in self.whole}
        content = HeaderFile(format=FORMAT, about=self.about, whole=whole, under_way=dict(self.under_way))
        write_atomically(folder / HEADER, (content.model_dump_json(indent=2, exclude_defaults=True) + "\n").encode())


def read_header(folder: Path) -> Header:
    """The header of a teacher cache, finished or not.

    Raises:
        ValueError: where there is none, or one of another format.
    """
    path, what = folder / HEADER, "a teacher cache that `pldistill cache` made"
    require_folder(folder, "teacher_cache", what)
    if kind_of(path) is None:
        raise ValueError(f"teacher_cache: expected {what}, got {str(folder)!r}")
    try:
        content = read_object(path)
        if isinstance(about := content.get("about"), dict):
            content["about"] = {_OLD_NAMES.get(name, name): value for name, value in about.items()}
        header = validate(content, HeaderFile, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; make the teacher cache anew") from None
    return Header(header.about, header.whole, header.under_way)


def is_complete(folder: Path) -> bool:
    """Whether a teacher cache is there and finished; its files are not read."""
    if not (folder / HEADER).is_file():
        return False
    header = read_header(folder)
    return set(header.about.sizes()) <= set(header.whole)


def open_store(folder: Path) -> CacheMetadata:
    """Check every file of a teacher cache, reading it whole once, and say what it is about.

    Raises:
        ValueError: for a teacher cache that is not finished, and for a file that is missing or damaged.
    """
    header = read_header(folder)
    for name, size in header.about.sizes().items():
        if name not in header.whole:
            raise ValueError(
                f"teacher_cache {str(folder)!r} is not finished: the line of `pldistill cache` that began it goes on"
            )
        path = folder / name
        if kind_of(path) is None:
            raise ValueError(f"teacher_cache: expected {str(path)!r}, which is missing")
        require_file(path, "teacher_cache")
        if path.stat().st_size != size or (found := sha256(path)) != header.whole[name]:
            found = f"{path.stat().st_size} bytes" if path.stat().st_size != size else found
            expected = f"{size} bytes" if found.endswith("bytes") else f"SHA-256 {header.whole[name]}"
            raise ValueError(f"teacher_cache: {str(path)!r} is damaged: expected {expected}, got {found}")
    return header.about


def map_records(path: Path, form: RecordFormat, rows: int = 1) -> Tensor:
    """`(N, bytes of a sample's records)` uint8, read from the disk as it is asked for."""
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(-1, rows * form.dtype.itemsize)


class CachedTeacher(Teacher):
    """Answers for images that the cache knows, by view and id, on the batch's device; float32 logits, no features.

    Args:
        about: what the teacher cache says of itself.
        files: one for each view, or the validation images' alone.
        form: of their records.
        ids: `(N,)` int64, the images' in the order of the records.
        validation: who is asked about the validation images; None for the one who is.
    """

    def __init__(
        self,
        about: CacheMetadata,
        files: Sequence[Path],
        form: RecordFormat,
        ids: Tensor,
        validation: CachedTeacher | None = None,
    ) -> None:
        self.members = ()
        self.about = about
        self._form = form
        self._validation = validation
        self._ids, self._rows = ids.sort()
        self._records = [map_records(file, form, about.rows) for file in files]
        self._near: dict[int, Tensor] = {}  # on another device than the CPU, the views that the last batch asked for
        self._device = torch.device("cpu")

    def __call__(self, batch: Batch | TokenBatch) -> Outputs:
        logits = self._look_up(batch)
        if isinstance(batch, Batch) and batch.mixture is not None:
            share = batch.mixture.share
            logits = share * logits + (1 - share) * logits[batch.mixture.partners]
        return Outputs(logits)

    def fingerprint(self) -> str:
        return self.about.teacher_sha256

    def at_validation(self) -> Teacher:
        return self if self._validation is None else self._validation

    def count_parameters(self) -> int:
        return self.about.parameters

    def record(self) -> dict[str, Any]:
        return {**super().record(), "teacher_cache": self.about.to_dict()}

    def to(self, device: torch.device, layout: torch.memory_format) -> None:
        """Answer on this device, which is given a view's records when the view's first batch comes."""
        self._device = device
        self._ids, self._rows = self._ids.to(device), self._rows.to(device)
        if self._validation is not None:
            self._validation.to(device, layout)

    def _look_up(self, batch: Batch | TokenBatch) -> Tensor:
        rows = self._rows[torch.searchsorted(self._ids, batch.ids)]
        if isinstance(batch, TokenBatch):  # a text has one view
            (records,) = self._views([0])
            return self._form.decode(records.index_select(0, rows).view(-1, self._form.dtype.itemsize))
        if batch.views is None:
            (records,) = self._views([batch.view])
            return self._form.decode(records.index_select(0, rows))
        views = batch.views.unique().tolist()
        found = rows.new_empty((len(rows), self._form.dtype.itemsize), dtype=torch.uint8)
        for view, records in zip(views, self._views(views), strict=True):
            here = batch.views == view
            found[here] = records.index_select(0, rows[here])
        return self._form.decode(found)

    def _views(self, views: Sequence[int]) -> list[Tensor]:
        if self._device.type == "cpu":
            return [self._records[view] for view in views]
        self._near = {
            view: self._near[view] if view in self._near else self._records[view].to(self._device) for view in views
        }
        return list(self._near.values())


def with_cache(recipe: Recipe) -> Recipe:
    """The recipe, where it has a teacher cache, with that one's teacher and number of views if it names none.

    Raises:
        ValueError: where there is no teacher cache, or one with fewer views.
    """
    if recipe.teacher_cache is None:
        return recipe
    about = read_header(Path(recipe.teacher_cache)).about
    if recipe.views is not None and recipe.views > about.views:
        raise ValueError(f"views: expected at most the {about.views} of {recipe.teacher_cache!r}, got {recipe.views}")
    given = {name: value for name, value in recipe.to_dict().items() if value is not None}
    return make_recipe({"teacher": about.teacher, "views": about.views, **given})


class CachedData(Protocol):
    """What a cache knows of the data that it is about."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def train(self) -> Any: ...
    @property
    def val(self) -> Any: ...


def open_cached(
    recipe: Recipe, dataset: CachedData, augment: Mapping[str, Any], live: Callable[[], Teacher | None]
) -> CachedTeacher:
    """Open the recipe's store, read it whole once, and check that its answers are those that the run would ask for.

    A teacher that is named otherwise than the teacher cache's, or whose run is there, is opened by `live` and must be
    the same.

    Raises:
        ValueError: for a teacher cache that is damaged or not finished; for answers about other images, of another
            augmentation, seed, precision or teacher; for a method that needs more than is stored.
    """
    assert recipe.teacher_cache is not None
    folder = Path(recipe.teacher_cache)
    about = read_header(folder).about
    _fits(about, recipe, dataset, augment)
    _suffices(about, recipe)
    assert recipe.teacher is not None
    if recipe.teacher != about.teacher or all(Path(member).is_dir() for member in teacher_members(recipe.teacher)):
        teacher = live()
        assert teacher is not None
        _same("teacher", recipe.teacher, teacher.fingerprint(), about.teacher_sha256, recipe)
    open_store(folder)
    validation = CachedTeacher(about, [folder / VALIDATION], about.validation_form, dataset.val.ids)
    files = [folder / view_file(view) for view in range(about.views)]
    return CachedTeacher(about, files, about.form, dataset.train.ids, validation)


def _fits(about: CacheMetadata, recipe: Recipe, dataset: CachedData, augment: Mapping[str, Any]) -> None:
    """Refuse answers about other images than the run's."""
    for what, ours, theirs in (
        ("augment_seed", recipe.view_seed if augment else about.seed, about.seed),
        # Where the recipe leaves the precision to the machine, the teacher's is the teacher cache's.
        ("amp", about.amp if recipe.amp == "auto" else recipe.amp, about.amp),
        ("image_size", dataset.image_size, about.image_size),
        ("augmentation", dict(augment), about.augment),
        ("number of classes", len(dataset.classes), about.classes),
        ("number of images", len(dataset.train), about.images),
    ):
        _same(what, ours, _plain(ours), _plain(theirs), recipe)
    _same("training images", recipe.data, dataset.train.fingerprint(), about.train_sha256, recipe)
    _same("validation images", recipe.data, dataset.val.fingerprint(), about.validation_sha256, recipe)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return {key: list(part) if isinstance(part, tuple) else part for key, part in value.items()} if isinstance(
        value, dict
    ) else value  # fmt: skip


def _same(what: str, named: Any, ours: Any, theirs: Any, recipe: Recipe) -> None:
    if ours != theirs:
        other = f"{named!r}, whose SHA-256 is {ours}" if named is not ours and isinstance(named, str) else f"{ours!r}"
        raise ValueError(
            f"teacher_cache {recipe.teacher_cache!r}: expected answers for the run's {what}, {other}, got those for "
            f"{theirs!r}"
        )


def _suffices(about: CacheMetadata, recipe: Recipe) -> None:
    """Refuse a method that needs places that are not stored."""
    if about.form.whole:
        return
    found = f"the {about.places} of {about.classes} in {recipe.teacher_cache!r}"
    if recipe.mixup or recipe.cutmix:
        raise ValueError(f"mixup and cutmix: expected a teacher cache of all classes (--top-k all), got {found}")
    tail = recipe.method_spec.tail_temperature
    temperature = None if tail is None else tail(recipe.options)
    if temperature is None:
        known = ", ".join(name for name, spec in METHODS.items() if spec.tail_temperature is not None)
        raise ValueError(
            f"method {recipe.method!r}: expected a teacher cache of all classes (--top-k all), got {found}; the "
            f"mass of the others is enough for {known}, without standardized logits"
        )
    if temperature != about.temperature:
        raise ValueError(
            f"temperature: expected the teacher cache's, {about.temperature:g}, at which the mass of the classes "
            f"that are not stored is known ({found}), got {temperature:g}"
        )
