"""From a recipe to a loop that is ready to run: models, method, optimizer and loaders on one device."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pldistill import distributed, launch, precision
from pldistill.methods.base import Method
from pldistill.methods.spec import at_epoch
from pldistill.recipe import Recipe
from pldistill.record import RunRecord
from pldistill.tasks.base import Placement, Task, make_task
from pldistill.teachers.live import Teacher
from pldistill.training.distiller import Distiller
from pldistill.training.loop import Callback, Loop
from pldistill.training.optim import make_optimizer
from pldistill.training.single_images import check_single_images
from pldistill.types import Outputs

_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "off": "no"}
_LAUNCHES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_STRIDE = 0x9E3779B97F4A7C15  # far from any other run's seed
# How long a process waits for another that does not answer. One that ends is noticed at once, whatever this is.
_PATIENCE = timedelta(minutes=10)


def make_accelerator(amp: str, device: str) -> Accelerator:
    """Open the device, with autocast to `amp` (auto, bf16, fp16 or off), and meet the other processes, if any.

    `auto` becomes what the device computes in natively (`precision.resolve`), in all processes the same: bf16 where all
    have it. `precision_of` tells what the accelerator has.

    Raises:
        ValueError: for an unknown device or one that this machine has not, for fp16 on a CPU, and for a launch that is
            not of one process a GPU, or of several on a CPU, each with the whole model (DDP).
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device: expected auto, cpu, cuda or mps, got {device!r}")
    launched, here = launch.launched(), launch.launched_here()
    on_cpu = device == "cpu" or (device == "auto" and launched > 1 and not torch.cuda.is_available())
    if launched > 1 and not on_cpu and here > torch.cuda.device_count():
        raise ValueError(f"processes: expected at most this machine's {torch.cuda.device_count()} GPUs, got {here}")
    # Accelerate keeps one precision for a process; a process that trains several runs, one after the other, resets it.
    AcceleratorState._reset_state(reset_partial_state=True)
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    accelerator = Accelerator(mixed_precision="no", cpu=on_cpu, kwargs_handlers=[patience])
    distributed.run_on_all(lambda: _check(accelerator, amp, device))
    resolved = precision.resolve(amp, accelerator.device)
    if amp == "auto" and distributed.world_size() > 1:
        resolved = "bf16" if all(each == "bf16" for each in distributed.gather(resolved)) else "off"
    if resolved != "off":  # known with the device alone, so Accelerate is told in a second call
        AcceleratorState._reset_state(reset_partial_state=False)
        accelerator = Accelerator(mixed_precision=_PRECISIONS[resolved], cpu=on_cpu)
    return accelerator


def precision_of(accelerator: Accelerator) -> str:
    """The precision of an accelerator that `make_accelerator` opened: bf16, fp16 or off."""
    return next(name for name, value in _PRECISIONS.items() if value == accelerator.mixed_precision)


def _check(accelerator: Accelerator, amp: str, device: str) -> None:
    if accelerator.distributed_type not in _LAUNCHES:
        raise ValueError(
            f"accelerate: expected data-parallel processes (DDP), got {accelerator.distributed_type.value}"
        )
    if distributed.world_size() != launch.launched():
        raise ValueError(
            f"processes: expected the {launch.launched()} that were launched to meet on "
            f"{accelerator.device.type!r}, got {distributed.world_size()} alone"
        )
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"device: expected {device!r} on this machine, found only {accelerator.device.type!r}")
    if amp == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("amp: expected auto, bf16 or off on a CPU, got 'fp16', which does nothing there")


def assemble(
    recipe: Recipe,
    data: Any,
    run: RunRecord,
    accelerator: Accelerator,
    *,
    workers: int,
    callback: Callback,
    task: Task[Any, Any] | None = None,
) -> Loop:
    """Build all that the recipe names and put it on the accelerator's device; talks to no other process.

    `task` stands in for the recipe's own.

    Raises:
        ValueError: for a name, a checkpoint or a teacher that does not fit, and for `sync_batchnorm` without GPUs.
    """
    if recipe.sync_batchnorm and accelerator.device.type != "cuda":
        raise ValueError(f"sync_batchnorm: expected GPUs, got {accelerator.device.type!r}")
    torch.manual_seed(recipe.seed)  # of the initial weights, before anything else draws
    task = make_task(recipe) if task is None else task
    student = task.student(recipe, data)
    teacher = task.teacher(recipe, data)
    method = _method(recipe, task, data, student, teacher)
    if method.aligns and recipe.compile:
        raise ValueError("compile: expected False with gradient alignment (align=true), which goes backward twice")
    bare = Distiller(student, method, task, joined=recipe.relation == "global")
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    bare.to(device=accelerator.device).to(memory_format=layout)
    if teacher is not None:
        teacher.to(accelerator.device, layout)
    average, evaluated = _average(recipe, student)
    if recipe.compile:
        if _taps(recipe):
            torch.compiler.reset()  # code that was compiled for an earlier run's student does not call this one's taps
        student.compile_model()
    if 0 in recipe.weights.values() and (len(task.own) > 1 or _taps(recipe)):
        # Without a term some parameters may have no part in the loss, and DDP must not wait for their gradients.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator.ddp_handler = unused  # pyright: ignore[reportAttributeAccessIssue]
    place = Placement(accelerator.device, workers, distributed.rank(), distributed.world_size())
    loaders = task.loaders(recipe, data, place)
    if (smallest := min(loaders.train.joined, default=0) // place.world) < 2 and student.probe_is_whole:
        check_single_images(student, data.image_size, recipe.batch_size, smallest)
    # Of what the student draws in training, whoever the teacher is; each process draws for other images.
    torch.manual_seed((recipe.seed + _STRIDE * distributed.rank()) % 2**64)
    return Loop(
        recipe=recipe,
        bare=bare,
        student=student.model,
        average=average,
        evaluated=evaluated,
        teacher=teacher,
        loader=loaders.train,
        validate=task.validation(loaders, data, teacher, accelerator.autocast),
        optimizer=make_optimizer(recipe, bare),
        accelerator=accelerator,
        record=run,
        callback=callback,
        classes=len(data.classes),
    )


def _taps(recipe: Recipe) -> bool:
    return recipe.method_spec.taps is not None


def _method(recipe: Recipe, task: Task[Any, Any], data: Any, student: Any, teacher: Teacher | None) -> Method:
    """Build the method; one that compares activations taps both models and fits its adapters to one image's."""
    spec = recipe.method_spec
    if spec.taps is None:
        method = spec.build(**recipe.options)
        _try(method, task.columns(data), recipe.epochs)
        return method
    assert teacher is not None  # the recipe refuses to go without one, and to go with more than one model
    (asked,) = (member.model for member in teacher.members)
    ours, theirs = spec.taps(student.stages(), asked.stages(), at_epoch(recipe.options, 0, 1))
    student.listen(ours)
    asked.listen(theirs)
    probes = [model.probe(data.image_size) for model in (student, asked)]
    torch.manual_seed(recipe.seed)  # of the adapters' initial weights, whoever the teacher is
    return spec.build(*probes, **recipe.options)


def _try(method: Method, columns: int, epochs: int) -> None:
    """Let a method of the logits refuse its options' values now, before the run has a folder, not at its first step."""
    blank = Outputs(torch.zeros(2, columns))
    for epoch in {0, epochs - 1}:  # options that move are at their ends there
        method.begin_epoch(epoch, epochs)
        method(blank, blank, torch.zeros(2, dtype=torch.int64))


def _average(recipe: Recipe, student: Any) -> tuple[AveragedModel | None, Any]:
    """Give the moving average, if the recipe has one, and the model that is evaluated and exported."""
    if recipe.ema is None:
        return None, student
    average = AveragedModel(student.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    return average, student.around(average.module)
