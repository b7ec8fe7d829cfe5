"""From a recipe to a loop that is ready to run: nets, method, optimizer and loaders on one device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pldistill import methods, models
from pldistill.contracts import Outputs
from pldistill.data import Augment, Dataset, Mixing, default_augment, make_loader
from pldistill.distiller import Distiller
from pldistill.loop import Loop, Watch
from pldistill.methods import Method
from pldistill.models import Net
from pldistill.optim import make_optimizer
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.tasks.classification import Classification, Validation
from pldistill.teachers import LiveTeacher, open_teacher

_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "off": "no"}


def make_accelerator(amp: str, device: str) -> Accelerator:
    """Open the device, with autocast to `amp` (bf16, fp16 or off).

    Raises:
        ValueError: for an unknown device or one that this machine has not, and for fp16 on a CPU.
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device: expected auto, cpu, cuda or mps, got {device!r}")
    # Accelerate keeps one precision for a process; a process that trains several runs, one after the other, resets it.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=_PRECISIONS[amp], cpu=device == "cpu")
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"device: expected {device!r} on this machine, found only {accelerator.device.type!r}")
    if amp == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("amp: expected bf16 or off on a CPU, got 'fp16', which does nothing there")
    return accelerator


def assemble(
    recipe: Recipe, dataset: Dataset, run: RunRecord, accelerator: Accelerator, *, workers: int, watch: Watch
) -> Loop:
    """Build all that the recipe names and put it on the accelerator's device.

    Raises:
        ValueError: for a name, a checkpoint or a teacher that does not fit.
    """
    torch.manual_seed(recipe.seed)  # of the initial weights, before anything else draws
    student = _student(recipe, dataset)
    teacher = open_teacher(recipe, dataset)
    method = _method(recipe, dataset, student, teacher)
    bare = Distiller(student, method, Classification(recipe.label_smoothing))
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for module in (bare, teacher.net) if teacher is not None else (bare,):
        module.to(device=accelerator.device).to(memory_format=layout)
    average, evaluated = _average(recipe, student)
    if recipe.compile:
        student.model.compile()
    distiller, optimizer = accelerator.prepare(bare, make_optimizer(recipe, bare))
    loader = partial(
        make_loader,
        batch_size=recipe.batch_size,
        image_size=dataset.image_size,
        seed=recipe.seed,
        device=accelerator.device,
        workers=workers,
    )
    held = loader(dataset.holdout, augment=None, shuffle=False) if dataset.holdout is not None else None
    torch.manual_seed(recipe.seed)  # of what the student draws in training, whoever the teacher is
    return Loop(
        recipe=recipe,
        distiller=distiller,
        bare=bare,
        student=student.model,
        average=average,
        evaluated=evaluated,
        teacher=teacher,
        loader=loader(
            dataset.train,
            augment=_augment(recipe, dataset),
            shuffle=True,
            repeats=recipe.repeats,
            mixing=_mixing(recipe),
        ),
        validate=Validation(loader(dataset.val, augment=None, shuffle=False), teacher, accelerator.autocast, held),
        optimizer=optimizer,
        accelerator=accelerator,
        record=run,
        watch=watch,
    )


def _student(recipe: Recipe, dataset: Dataset) -> Net:
    model = models.build(
        recipe.student,
        num_classes=len(dataset.classes),
        pretrained=recipe.pretrained,
        checkpoint=recipe.student_checkpoint,
        new_head=recipe.new_head,
        image_size=dataset.image_size,
    )
    mean, std = models.pretrained_statistics(model) if recipe.pretrained else (dataset.mean, dataset.std)
    return Net(model, mean=mean, std=std)


def _method(recipe: Recipe, dataset: Dataset, student: Net, teacher: LiveTeacher | None) -> Method:
    """Build the method; one that compares activations taps both nets and fits its adapters to one picture's."""
    spec = methods.find(recipe.method)
    if spec.taps is None:
        method = spec.build(**recipe.options)
        _try(method, len(dataset.classes))
        return method
    assert teacher is not None  # the recipe refuses to go without one
    ours, theirs = spec.taps(models.stages(student.model), models.stages(teacher.net.model), recipe.options)
    student.listen(ours)
    teacher.net.listen(theirs)
    probes = [models.probe(net, dataset.image_size) for net in (student, teacher.net)]
    torch.manual_seed(recipe.seed)  # of the adapters' initial weights, whoever the teacher is
    return spec.build(*probes, **recipe.options)


def _try(method: Method, classes: int) -> None:
    """Let a method of the logits refuse its options' values now, before the run has a folder, not at its first step."""
    blank = Outputs(torch.zeros(2, classes))
    method(blank, blank, torch.zeros(2, dtype=torch.int64))


def _average(recipe: Recipe, student: Net) -> tuple[AveragedModel | None, Net]:
    """Give the moving average, if the recipe has one, and the net that is evaluated and exported."""
    if recipe.ema is None:
        return None, student
    average = AveragedModel(student.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    evaluated = Net(average.module, mean=student.mean.flatten().tolist(), std=student.std.flatten().tolist())
    return average, evaluated.to(student.mean.device)


def _mixing(recipe: Recipe) -> Mixing | None:
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixing(mixup=recipe.mixup, cutmix=recipe.cutmix, probability=recipe.mix_probability)


def _augment(recipe: Recipe, dataset: Dataset) -> Augment:
    augment = default_augment(dataset)
    return augment if recipe.hflip is None else replace(augment, hflip=recipe.hflip)
