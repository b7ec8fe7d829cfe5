"""A teacher that was asked once: its answers are read from a store that `pldistill cache` made, and no net is there.

Epoch e shows view e modulo V, V being the recipe's `views`, at most the views of the store. A crop follows from
(augment_seed, view, id), so a store is for one augment_seed, and for runs of any seed that have it. Of mixed pictures
no answer is stored: the two pictures' answers are looked up and mixed as the pixels are, t = λ t_a + (1 - λ) t_b.
Logits, not probabilities, for the reason that an `Ensemble` has: t / τ is then the mixture at every temperature τ, and
the order of the classes is the same at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pldistill import answers, methods
from pldistill.answers import About, Form
from pldistill.data import Augment, Dataset
from pldistill.recipe import Recipe, make_recipe
from pldistill.specs import teacher_members
from pldistill.teachers import Teacher, open_teacher
from pldistill.types import Batch, Outputs


class StoredTeacher(Teacher):
    """Answers for pictures that the store knows, by view and id, on the batch's device; float32 logits, no features.

    Args:
        about: what the store says of itself.
        files: one for each view, or the validation pictures' alone.
        form: of their records.
        ids: `(N,)` int64, the pictures' in the order of the records.
        validation: who is asked about the validation pictures; None for the one who is.
    """

    def __init__(
        self,
        about: About,
        files: Sequence[Path],
        form: Form,
        ids: Tensor,
        validation: StoredTeacher | None = None,
    ) -> None:
        self.members = ()
        self.about = about
        self._form = form
        self._validation = validation
        self._ids, self._rows = ids.sort()
        self._records = [answers.map_records(file, form) for file in files]
        self._near: dict[int, Tensor] = {}  # on another device than the CPU, the views that the last batch asked for
        self._device = torch.device("cpu")

    def __call__(self, batch: Batch) -> Outputs:
        logits = self._look_up(batch)
        if batch.mixture is not None:
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
        return {**super().record(), "teacher_cache": asdict(self.about)}

    def to(self, device: torch.device, layout: torch.memory_format) -> None:
        """Answer on this device, which is given a view's records when the view's first batch comes."""
        self._device = device
        self._ids, self._rows = self._ids.to(device), self._rows.to(device)
        if self._validation is not None:
            self._validation.to(device, layout)

    def _look_up(self, batch: Batch) -> Tensor:
        rows = self._rows[torch.searchsorted(self._ids, batch.ids)]
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


def with_store(recipe: Recipe) -> Recipe:
    """The recipe, where it has a store, with that one's teacher and number of views if it names none.

    Raises:
        ValueError: where there is no store, or one with fewer views.
    """
    if recipe.teacher_cache is None:
        return recipe
    about = answers.read_header(Path(recipe.teacher_cache)).about
    if recipe.views is not None and recipe.views > about.views:
        raise ValueError(f"views: expected at most the {about.views} of {recipe.teacher_cache!r}, got {recipe.views}")
    given = {name: value for name, value in recipe.to_dict().items() if value is not None}
    return make_recipe({"teacher": about.teacher, "views": about.views, **given})


def open_stored(recipe: Recipe, dataset: Dataset, augment: Augment) -> StoredTeacher:
    """Open the recipe's store, read it whole once, and check that its answers are those that the run would ask for.

    A teacher that is named otherwise than the store's, or whose run is there, is opened and must be the same.

    Raises:
        ValueError: for a store that is damaged or not finished; for answers about other pictures, of another
            augmentation, seed, precision or teacher; for a method that needs more than is stored.
    """
    assert recipe.teacher_cache is not None
    folder = Path(recipe.teacher_cache)
    about = answers.read_header(folder).about
    _fits(about, recipe, dataset, augment)
    _suffices(about, recipe)
    assert recipe.teacher is not None
    if recipe.teacher != about.teacher or all(Path(member).is_dir() for member in teacher_members(recipe.teacher)):
        teacher = open_teacher(recipe, dataset)
        assert teacher is not None
        _same("teacher", recipe.teacher, teacher.fingerprint(), about.teacher_sha256, recipe)
    answers.open_store(folder)
    validation = StoredTeacher(about, [folder / answers.VALIDATION], about.validation_form, dataset.val.ids)
    files = [folder / answers.view_file(view) for view in range(about.views)]
    return StoredTeacher(about, files, about.form, dataset.train.ids, validation)


def _fits(about: About, recipe: Recipe, dataset: Dataset, augment: Augment) -> None:
    """Refuse answers about other pictures than the run's."""
    for what, ours, theirs in (
        ("augment_seed", recipe.view_seed, about.seed),
        # Where the recipe leaves the precision to the machine, the teacher's is the store's.
        ("amp", about.amp if recipe.amp == "auto" else recipe.amp, about.amp),
        ("image_size", dataset.image_size, about.image_size),
        ("augmentation", asdict(augment), about.augment),
        ("number of classes", len(dataset.classes), about.classes),
        ("number of pictures", len(dataset.train), about.pictures),
    ):
        _same(what, ours, _plain(ours), _plain(theirs), recipe)
    _same("training pictures", recipe.data, dataset.train.fingerprint(), about.train_sha256, recipe)
    _same("validation pictures", recipe.data, dataset.val.fingerprint(), about.validation_sha256, recipe)


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


def _suffices(about: About, recipe: Recipe) -> None:
    """Refuse a method that needs places that are not stored."""
    if about.form.whole:
        return
    found = f"the {about.places} of {about.classes} in {recipe.teacher_cache!r}"
    if recipe.mixup or recipe.cutmix:
        raise ValueError(f"mixup and cutmix: expected a store of all classes (--top-k all), got {found}")
    tail = methods.find(recipe.method).tail_temperature
    temperature = None if tail is None else tail(recipe.options)
    if temperature is None:
        known = ", ".join(name for name, spec in methods.METHODS.items() if spec.tail_temperature is not None)
        raise ValueError(
            f"method {recipe.method!r}: expected a store of all classes (--top-k all), got {found}; the mass of the "
            f"others is enough for {known}, without standardised logits"
        )
    if temperature != about.temperature:
        raise ValueError(
            f"temperature: expected the store's, {about.temperature:g}, at which the mass of the classes that are not "
            f"stored is known ({found}), got {temperature:g}"
        )
