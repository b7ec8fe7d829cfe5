"""Causal language models: each token from those before it, cross-entropy, perplexity. A row is a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pldistill.recipe import Recipe
from pldistill.tasks.base import Ask, Autocast, Loaded, Loaders, Pair, Placement, Task, evenly, float32
from pldistill.tasks.language import SPEC
from pldistill.tasks.language.dataset import TextData, TokenLoader, TokenSplit, open_text
from pldistill.tasks.language.metrics import TextValidation
from pldistill.tasks.language.model import LanguageModel, build_model, load_model, save_model
from pldistill.tasks.language.options import LanguageOptions
from pldistill.tasks.language.tokenizer import fingerprint, token_names
from pldistill.teachers.cache import open_cached
from pldistill.teachers.live import LiveTeacher, Teacher
from pldistill.types import NOT_PREDICTED, Outputs, TokenBatch


class Language(Task[TextData, LanguageModel]):
    """Sequences of tokens; the task's own term is the cross-entropy of the next token, the mean over all of a batch."""

    spec = SPEC
    own = ("task",)
    rows = "tokens"
    views = 1
    measured = ("perplexity", "bits_per_byte", "next_top1", "token_ece", "val_loss")

    def __init__(self, options: LanguageOptions, label_smoothing: float = 0.0) -> None:
        self.options, self.label_smoothing = options, label_smoothing
        self.samples_an_image = options.context

    def pair(self, student: nn.Module, teacher: Ask | None, batch: TokenBatch) -> Pair:
        """Show both models the same tokens."""
        answers = None if teacher is None else float32(teacher(batch))
        said, labels = float32(student(batch.inputs)), batch.labels.flatten()
        hits = (said.logits.argmax(dim=1) == labels).sum()
        return Pair(said, answers, labels, partial(self._own, said, labels), hits, (labels != NOT_PREDICTED).sum())

    def _own(self, said: Outputs, labels: Tensor) -> dict[str, Tensor]:
        smoothing = self.label_smoothing
        loss = functional.cross_entropy(said.logits, labels, label_smoothing=smoothing, ignore_index=NOT_PREDICTED)
        return {"task": loss}

    def open(self, recipe: Recipe, *, download: bool) -> TextData:
        return open_text(recipe.data, self.options, _with_tokens(recipe))

    def open_validation(self, recipe: Recipe, classes: Sequence[str]) -> TextData:
        """Open the text that scores a model; `measure` gives it the model's own tokenizer."""
        return open_text(recipe.data, self.options, _with_tokens(recipe), evaluation=True)

    def student(self, recipe: Recipe, data: TextData) -> LanguageModel:
        return build_model(
            recipe.student,
            data.tokenizer,
            len(data.classes),
            context=data.image_size,
            pretrained=recipe.pretrained,
        )

    def teacher(self, recipe: Recipe, data: TextData) -> Teacher | None:
        """Read the teacher from its folder, or its answers from a teacher cache."""
        if recipe.teacher is None:
            return None
        if recipe.teacher_cache is None:
            return self._live(recipe, data)
        return open_cached(recipe, data, self.appearance(recipe, data), lambda: self._live(recipe, data))

    def _live(self, recipe: Recipe, data: TextData) -> Teacher:
        """Read the teacher from its folder, whose tokens must be the data's, one by one."""
        assert recipe.teacher is not None
        model, tokenizer, _ = load_model(Path(recipe.teacher), "teacher")
        theirs = token_names(tokenizer)
        if theirs != data.classes:
            place = next((i for i, (a, b) in enumerate(zip(theirs, data.classes, strict=False)) if a != b), None)
            differ = "" if place is None else f"; token {place} is {theirs[place]!r} of its and {data.classes[place]!r}"
            raise ValueError(
                f"teacher {recipe.teacher!r}: expected the data's {len(data.classes)} tokens, got {len(theirs)}{differ}"
            )
        return LiveTeacher(model, image_size=None)

    def loader(
        self, split: TokenSplit, recipe: Recipe, data: TextData, place: Placement, *, train: bool
    ) -> TokenLoader:
        return TokenLoader(
            split,
            batch_size=recipe.batch_size,
            seed=recipe.seed if train else 0,
            shuffle=train,
            device=place.device,
            rank=place.rank,
            world=place.world,
        )

    def appearance(self, recipe: Recipe, data: TextData) -> dict[str, Any]:
        return {}  # a text has one view

    def in_order(self, split: TokenSplit, recipe: Recipe, data: TextData, place: Placement, *, train: bool) -> Any:
        return self.loader(split, recipe, data, place.alone(), train=False)

    def validation(
        self, loaders: Loaders, data: TextData, teacher: Teacher | None, autocast: Autocast
    ) -> Callable[[LanguageModel], dict[str, Any]]:
        return TextValidation(loaders, data.val.size, teacher and teacher.at_validation(), autocast)

    def answers(self, teacher: Teacher, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        labels = batch.labels.flatten()
        kept = labels != NOT_PREDICTED
        return teacher(batch).logits[kept], labels[kept]

    def sample(
        self, recipe: Recipe, data: TextData, teacher: Teacher, most: int, place: Placement, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        some = data.train.subset(evenly(len(data.train), max(1, most // data.image_size)))
        settings = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(some))})
        found = []
        for batch in self.in_order(some, settings, data, place, train=True).epoch(0):
            with autocast():
                logits, labels = self.answers(teacher, batch)
            found.append((logits.float().cpu(), labels.cpu()))
        logits, labels = (torch.cat(parts)[:most] for parts in zip(*found, strict=True))
        return logits, labels

    def marks(self, data: TextData) -> dict[str, str]:
        parts = {"train": data.train.fingerprint(), "val": data.val.fingerprint()}
        return {**parts, "tokenizer": fingerprint(data.tokenizer)}

    def rows_a_sample(self, data: TextData) -> int:
        return data.image_size

    def describe(self, data: TextData) -> str:
        parts = ((data.train, "training"), (data.holdout, "held-out"), (data.val, "validation"))
        numbers = ", ".join(f"{len(part):,} {what}" for part, what in parts if part is not None)
        return f"{numbers} sequences of {data.image_size} tokens, a vocabulary of {len(data.classes):,}"

    def save(self, model: LanguageModel, folder: Path, data: TextData, recipe: Recipe) -> None:
        save_model(model, folder, data.tokenizer, data.image_size)

    def load(self, folder: Path) -> Loaded[LanguageModel]:
        model, tokenizer, context = load_model(folder)
        return Loaded(model, token_names(tokenizer), context)

    def reading(self, folder: Path) -> Language:
        """The task in the tokens of the model's own tokenizer."""
        return type(self)(self.options.model_copy(update={"tokenizer": str(folder)}), self.label_smoothing)


def _with_tokens(recipe: Recipe) -> str | None:
    """The folder whose tokenizer is taken where none is named: the teacher's, else that of a student with weights."""
    return recipe.teacher or (recipe.student if recipe.pretrained else None)


def make(recipe: Recipe) -> Language:
    """The task of a recipe; `pldistill.tasks.make_task` calls it."""
    return Language(LanguageOptions.model_validate(recipe.task_options), recipe.label_smoothing)
