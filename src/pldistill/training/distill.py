"""`distill`: your own modules and loaders in the same loop, with the same record and resume."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from pldistill import launch
from pldistill.data.sampling import key
from pldistill.files import check_run_files, write_atomically
from pldistill.models import TaskModel
from pldistill.models.checkpoints import put_weights, read_state
from pldistill.recipe import Recipe, make_recipe
from pldistill.record import RunRecord
from pldistill.specs import unknown
from pldistill.tasks.base import Autocast, Figures, Loaders, Placement
from pldistill.tasks.classification.metrics import Validation
from pldistill.tasks.classification.task import Classification
from pldistill.tasks.registry import find_method
from pldistill.teachers.live import LiveTeacher, Teacher
from pldistill.training.best import BestEpoch, keeps_best
from pldistill.training.build import assemble, make_accelerator
from pldistill.training.loop import Callback, Saves
from pldistill.training.progress import SilentCallback
from pldistill.training.run import Run, begin, claim, complete, recorded_precision
from pldistill.types import Batch, Outputs

# The fields of a recipe that mean the same for modules and loaders of one's own.
SETTINGS = (
    "amp",
    "clip_grad",
    "ema",
    "label_smoothing",
    "lr",
    "momentum",
    "optimizer",
    "schedule",
    "seed",
    "warmup_epochs",
    "weight_decay",
)


def distill(
    teacher: nn.Module,
    student: nn.Module,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    *,
    out: Path | str,
    method: str = "pld",
    options: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    epochs: int = 1,
    resume: bool = False,
    device: str = "auto",
    callback: Callback | None = None,
    checkpoint_minutes: float = 10.0,
    checkpoint_steps: int | None = None,
    keep: str = "best,last",
    **settings: Any,
) -> Run:
    """Train `student`, in place, from `teacher`: any two modules that map a batch's inputs to logits `(N, C)`.

    The loop, its record and its checkpoints are those of `pldistill.train`. The last epoch's weights, or their average
    with `ema`, are left as `model.safetensors` in the folder, under the names of the student's own `state_dict`.

    What a loader draws from torch's, NumPy's and Python's global generators, or from a `DataLoader`'s own, is a
    function of the seed and the epoch. So a run that is stopped and resumed is the uninterrupted one; a loader that
    draws from elsewhere must see to that itself.

    Args:
        teacher: is put in eval mode and called under `no_grad`; nothing trains it.
        student: is moved to the device and trained.
        train_loader: has a length and gives pairs: inputs, a tensor whose first dimension is the batch, and labels
            `(N,)`, integers.
        val_loader: the same; measured after each epoch.
        out: the run's folder, new or empty.
        method: a method of the logits, see `pldistill list methods`.
        options: the method's options; those left out take its defaults.
        weights: the weight of each of its terms, "task" being cross-entropy on the labels.
        epochs: passes over `train_loader`.
        resume: continue the run in `out` from its checkpoint; a finished one is returned as it is, and `student` is
            given its weights; one that was not begun begins.
        device: auto, cpu, cuda or mps.
        callback: is told of steps and epochs; None for silence.
        checkpoint_minutes, checkpoint_steps, keep: as in `pldistill.train`.
        settings: other fields of a `Recipe`: optimizer, lr, weight_decay, schedule, seed, amp, ema and so on.

    Raises:
        ValueError: for what does not fit, before a file is written.
        Interrupted: after SIGINT or SIGTERM, with the state saved.
        NonFiniteLoss: at a NaN or infinite term; the last good checkpoint stays.
    """
    named = {"options": dict(options or {}), "weights": dict(weights or {})}
    recipe = _own_recipe(teacher, student, settings, method, **named, epochs=epochs)
    saves, keeps = Saves(checkpoint_minutes, checkpoint_steps), keeps_best(keep)
    run = RunRecord(Path(out))
    accelerator = make_accelerator(recorded_precision(run, recipe) if resume else recipe.amp, device)
    loaders = [OwnLoader(name, each, recipe.seed) for name, each in (("train", train_loader), ("val", val_loader))]
    task = OwnModules(recipe, teacher if recipe.teacher is not None else None, student, *loaders)
    with claim(run, recipe, resume) as begun:
        if begun is None:
            check_run_files(run.folder, ["model.safetensors"])
            path = run.folder / "model.safetensors"
            put_weights(student, read_state(path), path)
            return Run(run)
        data = OwnData(task.try_both(accelerator.device))
        shown = SilentCallback() if callback is None else callback
        loop = assemble(recipe, data, run, accelerator, workers=0, callback=shown, task=task)
        loop.saves, loop.best = saves, BestEpoch(task, data, recipe, run) if keeps else None
        env = begin(loop, resume=begun)
        complete(loop, data, task, env["teacher_sha256"])
    return Run(run)


def _own_recipe(
    teacher: nn.Module, student: nn.Module, settings: Mapping[str, Any], method: str, **fields: Any
) -> Recipe:
    """Check what `distill` was given, and say it as a recipe."""
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(unknown("setting of distill", name, SETTINGS))
    for name, module in (("teacher", teacher), ("student", student)):
        if not isinstance(module, nn.Module):
            raise ValueError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")
    if launch.launched() > 1:
        raise ValueError(f"processes: expected one for loaders of one's own, got {launch.launched()}")
    spec = find_method(method)
    if spec.taps is not None:
        raise ValueError(f"method {method!r} compares activations: expected a method of the logits for own modules")
    return make_recipe(
        {
            "data": "own",
            "student": f"own:{type(student).__name__}",
            "teacher": f"own:{type(teacher).__name__}" if spec.needs_teacher else None,
            "method": method,
            "channels_last": False,
            **fields,
            **settings,
        }
    )


@dataclass(frozen=True)
class OwnData:
    """What the task knows of loaders of one's own: how many classes the models tell apart."""

    classes: range
    spec: str = "own"
    holdout: None = None
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class OwnModel(TaskModel):
    """A module of one's own as the tasks call models: inputs in, `Outputs` out; no features are hooked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Outputs:
        return Outputs(self.model(inputs))

    def answer(self, batch: Batch) -> Outputs:
        return self(batch.images)

    def probe(self, image_size: int) -> Outputs:
        raise ValueError("modules of one's own: expected a method of the logits, for nothing says what they take")

    def around(self, model: nn.Module) -> OwnModel:
        """The same about a copy of the module with other weights: an average."""
        return OwnModel(model)


class OwnLoader:
    """A loader of one's own, epoch by epoch: what it draws follows from the seed and the epoch.

    Attributes:
        joined: how many samples each batch of the epoch under way has, as far as they were read.
        num_samples: how many samples the last whole epoch had.
    """

    def __init__(self, name: str, loader: Any, seed: int) -> None:
        self.name, self.loader, self.seed = f"{name}_loader", loader, seed
        if not hasattr(loader, "__len__") or not hasattr(loader, "__iter__"):
            raise ValueError(f"{self.name}: expected an iterable with a length, got {type(loader).__name__}")
        if len(loader) == 0:
            raise ValueError(f"{self.name}: expected at least one batch, got none")
        self.joined = [0] * len(loader)
        self.num_samples = 0
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, view: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; those before are drawn and left."""
        draws = _Draws(key(self.seed, view, self.name))
        self._seed_own_generators(view)
        with draws:
            batches = iter(self.loader)
        seen = 0
        for number in range(len(self)):
            with draws:
                batch = next(batches, None)
            if batch is None:
                raise ValueError(f"{self.name}: expected {len(self)} batches, as its length says, got {number}")
            inputs, labels = self._checked(batch)
            self.joined[number] = len(labels)
            ids = torch.arange(seen, seen + len(labels))
            seen += len(labels)
            if number >= start:
                yield Batch(inputs.to(self.device), labels.to(self.device), ids, view)
        self.num_samples = seen

    def _seed_own_generators(self, view: int) -> None:
        sampler = getattr(self.loader, "sampler", None)
        for owner in (self.loader, sampler, getattr(self.loader, "batch_sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(key(self.seed, view, f"{self.name} own"))
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(view)  # pyright: ignore[reportOptionalMemberAccess]

    def _checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not (isinstance(batch, Sequence) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
            kinds = [type(part).__name__ for part in batch] if isinstance(batch, Sequence) else type(batch).__name__
            raise ValueError(f"{self.name}: expected pairs of tensors, inputs and labels, got {kinds}")
        inputs, labels = batch
        if labels.dim() != 1 or len(inputs) != len(labels) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(
                f"{self.name}: expected labels (N,) of an integer dtype, N = {len(inputs)} as the inputs have, "
                f"got {tuple(labels.shape)} of {labels.dtype}"
            )
        return inputs, labels.long()


class _Draws:
    """The global generators of torch, NumPy and Python as one stream of their own: while open they go on with it."""

    def __init__(self, seed: int) -> None:
        before = self._now()
        torch.default_generator.manual_seed(seed)  # the CPU's: a GPU's is the student's, and stays as it is
        np.random.seed(seed % 2**32)  # noqa: NPY002  (what transforms of others draw from)
        random.seed(seed)
        self.own = self._now()
        self._back(before)

    def __enter__(self) -> None:
        self.before = self._now()
        self._back(self.own)

    def __exit__(self, *error: object) -> None:
        self.own = self._now()
        self._back(self.before)

    @staticmethod
    def _now() -> tuple[Tensor, Any, Any]:
        return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    @staticmethod
    def _back(states: tuple[Tensor, Any, Any]) -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


class OwnModules(Classification):
    """Classification of what a user's own loaders give, by the user's own modules."""

    def __init__(
        self, recipe: Recipe, teacher: nn.Module | None, student: nn.Module, train: OwnLoader, val: OwnLoader
    ) -> None:
        super().__init__(recipe.label_smoothing)
        self._teacher = None if teacher is None else LiveTeacher(OwnModel(teacher))
        self._student = OwnModel(student)
        self._loaders = Loaders(train, val)

    @torch.no_grad()
    def try_both(self, device: torch.device) -> range:
        """Let both models see the first batch, in eval mode, and give the classes: what does not fit is refused."""
        loader = self._loaders.train
        loader.device = self._loaders.val.device = device
        batch = next(iter(loader.epoch(-1)))
        shapes = {}
        models = {"student": self._student, **({} if self._teacher is None else {"teacher": self._teacher.model})}
        for name, model in models.items():
            training = model.model.training
            try:
                logits = model.to(device).eval()(batch.images).logits
            except (RuntimeError, TypeError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{name}: cannot take inputs {tuple(batch.images.shape)}: {reason}") from error
            finally:
                model.train(training)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(batch):
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"{name}: expected logits ({len(batch)}, C), got {got}")
            shapes[name] = logits.shape[1]
        if len(set(shapes.values())) > 1:
            raise ValueError(f"teacher: expected the student's {shapes['student']} classes, got {shapes['teacher']}")
        return range(shapes["student"])

    def student(self, recipe: Recipe, data: Any) -> Any:
        return self._student

    def teacher(self, recipe: Recipe, data: Any) -> Teacher | None:
        return self._teacher

    def loaders(self, recipe: Recipe, data: Any, place: Placement) -> Loaders:
        return self._loaders

    def validation(
        self, loaders: Loaders, data: Any, teacher: Teacher | None, autocast: Autocast
    ) -> Callable[[Any], Figures]:
        return Validation(loaders.val, teacher, autocast)

    def save(self, model: Any, folder: Path, data: Any, recipe: Recipe) -> None:
        state = {name: value.detach().cpu().contiguous().clone() for name, value in model.model.state_dict().items()}
        write_atomically(folder / "model.safetensors", save(state))
