"""From a recipe to a loop that is ready to run: nets, method, optimizer and loaders on one device."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from timm.layers import convert_sync_batchnorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pldistill import methods, models, processes
from pldistill.contracts import Outputs
from pldistill.data import Augment, Dataset, Mixing, default_augment, make_loader
from pldistill.distiller import Distiller
from pldistill.loop import Loop, Watch
from pldistill.methods import Method
from pldistill.models import Net
from pldistill.optim import make_optimizer
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.stored import open_stored
from pldistill.tasks.classification import Classification, Validation
from pldistill.teachers import Teacher, open_teacher

_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "off": "no"}
_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_STRIDE = 0x9E3779B97F4A7C15  # far from any other run's seed
# How long a process waits for another that does not answer. One that ends is noticed at once, whatever this is.
_PATIENCE = timedelta(minutes=10)


def make_accelerator(amp: str, device: str) -> Accelerator:
    """Open the device, with autocast to `amp` (bf16, fp16 or off), and meet the other processes, where there are some.

    Raises:
        ValueError: for an unknown device or one that this machine has not, for fp16 on a CPU, and for a launch that is
            not of one process a GPU, or of several on a CPU, each with the whole net (DDP).
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device: expected auto, cpu, cuda or mps, got {device!r}")
    launched, here = processes.launched(), processes.launched_here()
    on_cpu = device == "cpu" or (device == "auto" and launched > 1 and not torch.cuda.is_available())
    if launched > 1 and not on_cpu and here > torch.cuda.device_count():
        raise ValueError(f"processes: expected at most this machine's {torch.cuda.device_count()} GPUs, got {here}")
    # Accelerate keeps one precision for a process; a process that trains several runs, one after the other, resets it.
    AcceleratorState._reset_state(reset_partial_state=True)
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    accelerator = Accelerator(mixed_precision=_PRECISIONS[amp], cpu=on_cpu, kwargs_handlers=[patience])
    processes.everywhere(lambda: _check(accelerator, amp, device))
    return accelerator


def _check(accelerator: Accelerator, amp: str, device: str) -> None:
    if accelerator.distributed_type not in _LAUNCHES:
        raise ValueError(
            f"accelerate: expected data-parallel processes (DDP), got {accelerator.distributed_type.value}"
        )
    if processes.count() != processes.launched():
        raise ValueError(
            f"processes: expected the {processes.launched()} that were launched to meet on "
            f"{accelerator.device.type!r}, got {processes.count()} alone"
        )
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"device: expected {device!r} on this machine, found only {accelerator.device.type!r}")
    if amp == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("amp: expected bf16 or off on a CPU, got 'fp16', which does nothing there")


def assemble(
    recipe: Recipe, dataset: Dataset, run: RunRecord, accelerator: Accelerator, *, workers: int, watch: Watch
) -> Loop:
    """Build all that the recipe names and put it on the accelerator's device; talks to no other process.

    Raises:
        ValueError: for a name, a checkpoint or a teacher that does not fit, and for `sync_batchnorm` without GPUs.
    """
    if recipe.sync_batchnorm and accelerator.device.type != "cuda":
        raise ValueError(f"sync_batchnorm: expected GPUs, got {accelerator.device.type!r}")
    torch.manual_seed(recipe.seed)  # of the initial weights, before anything else draws
    student = _student(recipe, dataset)
    augment = augmentation(recipe, dataset)
    stored = recipe.teacher_cache is not None
    teacher = open_stored(recipe, dataset, augment) if stored else open_teacher(recipe, dataset)
    method = _method(recipe, dataset, student, teacher)
    bare = Distiller(student, method, Classification(recipe.label_smoothing), joined=recipe.relation == "global")
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    bare.to(device=accelerator.device).to(memory_format=layout)
    if teacher is not None:
        teacher.to(accelerator.device, layout)
    average, evaluated = _average(recipe, student)
    if recipe.compile:
        student.model.compile()
    if methods.find(recipe.method).taps is not None and 0 in recipe.weights.values():
        # Without a term some parameters may have no part in the loss, and DDP must not wait for their gradients.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator.ddp_handler = unused  # pyright: ignore[reportAttributeAccessIssue]
    loader = partial(
        make_loader,
        batch_size=recipe.batch_size,
        image_size=dataset.image_size,
        seed=recipe.seed,
        device=accelerator.device,
        workers=workers,
        rank=processes.rank(),
        world=processes.count(),
    )
    held = loader(dataset.holdout, augment=None, shuffle=False) if dataset.holdout is not None else None
    # Of what the student draws in training, whoever the teacher is; each process draws for other pictures.
    torch.manual_seed((recipe.seed + _STRIDE * processes.rank()) % 2**64)
    return Loop(
        recipe=recipe,
        bare=bare,
        student=student.model,
        average=average,
        evaluated=evaluated,
        teacher=teacher,
        loader=loader(
            dataset.train,
            augment=augment,
            views=recipe.views,
            shuffle=True,
            repeats=recipe.repeats,
            mixing=_mixing(recipe),
        ),
        validate=Validation(
            loader(dataset.val, augment=None, shuffle=False),
            None if teacher is None else teacher.at_validation(),
            accelerator.autocast,
            held,
        ),
        optimizer=make_optimizer(recipe, bare),
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
    if recipe.sync_batchnorm:
        model = convert_sync_batchnorm(model)
    mean, std = models.pretrained_statistics(model) if recipe.pretrained else (dataset.mean, dataset.std)
    return Net(model, mean=mean, std=std)


def _method(recipe: Recipe, dataset: Dataset, student: Net, teacher: Teacher | None) -> Method:
    """Build the method; one that compares activations taps both nets and fits its adapters to one picture's."""
    spec = methods.find(recipe.method)
    if spec.taps is None:
        method = spec.build(**recipe.options)
        _try(method, len(dataset.classes))
        return method
    assert teacher is not None  # the recipe refuses to go without one, and to go with more than one net
    (asked,) = (member.net for member in teacher.members)
    ours, theirs = spec.taps(models.stages(student.model), models.stages(asked.model), recipe.options)
    student.listen(ours)
    asked.listen(theirs)
    probes = [models.probe(net, dataset.image_size) for net in (student, asked)]
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


def augmentation(recipe: Recipe, dataset: Dataset) -> Augment:
    """What the recipe's run does to a training picture before it is mixed with another."""
    augment = default_augment(dataset)
    return augment if recipe.hflip is None else replace(augment, hflip=recipe.hflip)
