"""A task as data, known without torch: its options, its methods, what it measures, what a recipe may not say in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pldistill.methods.spec import MethodSpec, Option
from pldistill.specs import expectation, unknown


class TaskOptions(BaseModel):
    """A task's own options: a subclass has a field with a default and a description for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Metric:
    """A figure of a run.

    Attributes:
        short: what a header calls it.
        meaning: what it is, and its unit.
        digits: decimals of a measured one.
        lower: whether less is better.
        title: what a column or an axis that begins with it is called; empty for `short`.
        unit: "%", another unit, or nothing.
        in_result: its key in `result.json` after the last epoch; None for `NAME_last`.
        in_progress: whether an epoch's line shows it.
        in_summary: whether the table of any runs has a column for it.
    """

    short: str
    meaning: str
    digits: int = 2
    lower: bool = False
    title: str = ""
    unit: str = "%"
    in_result: str | None = None
    in_progress: bool = False
    in_summary: bool = True

    @property
    def heading(self) -> str:
        """What a column is called that has it."""
        return self.title or self.short

    def in_units(self, text: str) -> str:
        """A heading or an axis with the unit behind it: `Top-1 (%)`; where there is none the text alone."""
        return f"{text} ({self.unit})" if self.unit else text

    def show(self, value: float | None, width: int = 0) -> str:
        """The value with its unit; a dash where there is nothing to measure it on."""
        return "-" if value is None else f"{value:{width}.{self.digits}f}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True)
class TaskSpec:
    """A task by name.

    Attributes:
        module: where its `make(recipe)` gives the `pldistill.tasks.base.Task`; imported when it is wanted.
        methods: the methods that it knows, with its own defaults for them.
        metrics: what is measured after each epoch, by its name in `metrics.jsonl`.
        score: the metric that runs are ranked by.
        options: the type of its own options.
        defaults: fields of a recipe whose default is another in this task.
        refused: fields of a recipe that say nothing here, each with why.
        check: refuses, with a ValueError, other fields that contradict one another in this task.
        sources: `module:NAME` of the mapping of its data sources by name.
        own_sources: the names among them that are for this task alone.
        models: a sentence on the names of its models, for `pldistill list models`; empty for timm's classifiers.
        scored_at_once: images that `evaluate` takes at a time where no other number is given.
        predictions: what it gives for an image, `classes`, `boxes` or `masks`; None where it predicts nothing.
        files: what a model's folder has beside model.safetensors and config.json.
        samples: what a batch is of, in messages.
    """

    module: str
    methods: Mapping[str, MethodSpec]
    metrics: Mapping[str, Metric]
    score: str
    options: type[TaskOptions] = TaskOptions
    defaults: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], None] = lambda recipe: None
    sources: str = "pldistill.data.registry:SOURCES"
    own_sources: tuple[str, ...] = ()
    models: str = ""
    scored_at_once: int = 256
    predictions: str | None = None
    files: tuple[str, ...] = ()
    samples: str = "images"

    @property
    def option_defaults(self) -> dict[str, Option]:
        """Every option with its default."""
        return {name: option.default for name, option in self.options.model_fields.items()}

    def complete(self, given: Mapping[str, Option]) -> dict[str, Option]:
        """Fill `given` up with the defaults; each value takes the type of its option.

        Raises:
            ValueError: for an option that the task has not, or a value that it cannot have.
        """
        known = self.options.model_fields
        for name in given:
            if name not in known:
                raise ValueError(unknown("task option", name, known or {"(none)": ""}))
        try:
            return self.options(**given).model_dump()
        except ValidationError as error:
            raise ValueError(expectation(self.options, error, kind="task option ")) from None

    @property
    def summary(self) -> dict[str, Metric]:
        """The metrics of the table of any runs, the score first."""
        others = {name: metric for name, metric in self.metrics.items() if metric.in_summary and name != self.score}
        return {self.score: self.metrics[self.score], **others}

    def result_key(self, metric: str) -> str:
        """The key in `result.json` of a metric after the last epoch."""
        return self.metrics[metric].in_result or f"{metric}_last"

    def open_sources(self) -> Mapping[str, Any]:
        """The data sources by name."""
        module, _, name = self.sources.partition(":")
        return getattr(import_module(module), name)
