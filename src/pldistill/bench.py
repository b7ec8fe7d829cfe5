"""The time and the memory that losses take, side by side: `pldistill bench losses` and benchmarks/losses.py.

Timed is what a training step asks of a loss: forward and backward, from logits that are there already to the gradient
of the student's. All losses live in one process and take turns in an order that changes from round to round, so that a
slow moment of the machine meets all of them, and none always follows the same one. Ratios are of one round.

On a CPU the clock is the host's. On CUDA it is the device's: `eager` begins with an idle device, so that what the host
takes to start the kernels counts; `graph` is the replay of a CUDA graph behind a pause, the kernels' time alone.

`floor` reads both models' logits and writes one tensor of their size, in one pass: the least that a loss and its
gradient move. No row of a table is a loss as a method weighs it: `kd` is τ² KL, and `eager kd` cross-entropy + τ² KL.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pldistill import losses
from pldistill.losses import ranking
from pldistill.specs import unknown

Logits = tuple[Tensor, Tensor, Tensor]  # student (N, C), teacher (N, C), labels (N,)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Work = Callable[[], object]

SHAPES = ((128, 100), (256, 1000), (2048, 1000), (64, 21841), (32, 128256))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOOR, KD, LISTING = "floor", "eager kd", "listing"
# Fewer logits than these take less than what the process and its libraries do on the side.
FEWEST_FOR_MEMORY = 1_000_000
_PAUSE = 1_000_000  # of the device's clock: longer than the host takes to start a graph
_STATUS = Path("/proc/self/status")


def ce(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, which asks no teacher."""
    return functional.cross_entropy(student, labels)


def eager_kd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """L = CE + τ² KL(q_teacher ‖ q_student) in the operators of torch that public code takes."""
    ours = functional.log_softmax(student / temperature, dim=1)
    theirs = functional.softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean")
    return functional.cross_entropy(student, labels) + temperature**2 * divergence


def plain_pld(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """PLD without its kernels."""
    with ranking.kernels.switched_off():
        return losses.pld(student, teacher, labels)


LOSSES: dict[str, Loss] = {
    "ce": ce,
    KD: eager_kd,
    "kd": losses.kd,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": losses.jensen_shannon,
    "dkd": losses.dkd,
    "dist": losses.dist,
    "listmle": losses.listmle,
    "p_listmle": partial(losses.p_listmle, normalize=True),  # the others grow as 2^C
    "plackett_luce_kl": losses.plackett_luce_kl,
    "pld": losses.pld,
    "pld, plain": plain_pld,
}


@dataclass(frozen=True)
class Case:
    """The logits that losses are timed on.

    Raises:
        ValueError: without a row or two classes; for an unknown dtype or device; where there is no CUDA device.
    """

    rows: int
    classes: int
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.rows < 1 or self.classes < 2:
            raise ValueError(f"shape: expected at least 1 x 2 logits, got {self.rows} x {self.classes}")
        if self.dtype not in DTYPES:
            raise ValueError(unknown("dtype", self.dtype, DTYPES))
        if self.device not in ("cpu", "cuda"):
            raise ValueError(unknown("device", self.device, ("cpu", "cuda")))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: expected one that torch finds here, got 'cuda'")

    def draw(self) -> Logits:
        """Normal logits of deviation 3, made in place: a copy would be counted as memory."""
        generator = torch.Generator(self.device).manual_seed(0)
        empty = partial(torch.empty, self.rows, self.classes, dtype=DTYPES[self.dtype], device=self.device)
        student, teacher = (empty().normal_(0, 3, generator=generator) for _ in range(2))
        labels = torch.randint(self.classes, (self.rows,), generator=generator, device=self.device)
        return student.requires_grad_(), teacher, labels


def read_shape(text: str) -> tuple[int, int]:
    """N and C of `NxC`.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
    if match is None:
        raise ValueError(f"shape: expected ROWSxCLASSES, as 256x1000, got {text!r}")
    return int(match[1]), int(match[2])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within it, torch has as many threads, and where the system can say so they stay on as many cores.

    A thread that is moved to another core finds that one's cache cold.
    """
    before = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    torch.set_num_threads(count)
    if len(cores) > count:
        os.sched_setaffinity(0, sorted(cores)[-count:])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if cores:
            os.sched_setaffinity(0, cores)


def compare(
    timed: Mapping[str, Loss], case: Case, *, rounds: int, graph: bool = False, memory: bool = False
) -> list[dict[str, Any]]:
    """Time losses side by side; a line for each, the floor first.

    A line holds the case and: `mode` ("eager", "graph"); `seconds` of a call; `to_kd`, `to_listing` and `to_floor`,
    over those of the same round, where these were timed; each as a median with its quartiles (`seconds_q1`, ...), None
    of nothing. `bytes_per_logit` is the most memory that a call takes beyond the logits, its gradient included, over
    N C; None of fewer than 10^6 logits. `note` says what is odd: "out of memory", "waits for the device".

    Args:
        timed: losses by name; those of other than the floor's name.
        case: what they are timed on.
        rounds: how often each is timed.
        graph: replay CUDA graphs; a loss that waits for the device cannot be captured and gets no time.
        memory: measure the memory too: on a CPU each in a process of its own.

    Raises:
        ValueError: for graphs off CUDA, and for memory on a CPU where the system has no VmHWM.
    """
    if graph and case.device != "cuda":
        raise ValueError(f"graph: expected the device 'cuda', got {case.device!r}")
    if memory and case.device == "cpu" and not _STATUS.exists():
        raise ValueError(f"memory: expected a system that has {_STATUS}, got none")
    logits = case.draw()
    works: dict[str, Work] = {FLOOR: partial(torch.add, logits[0].detach(), logits[1])}
    works |= {name: partial(gradient, loss, logits) for name, loss in timed.items()}
    ready, notes = _prepare(works, case, graph)
    seconds = _measure(ready, case, rounds, graph)
    mode = {"mode": "graph" if graph else "eager", "rounds": rounds}
    found = []
    for name in works:
        figures = _figures(name, seconds)
        measured = memory and name in timed and name in ready and case.rows * case.classes >= FEWEST_FOR_MEMORY
        figures["bytes_per_logit"] = extra_memory(timed[name], case) if measured else None
        found.append({"what": name, **vars(case), **mode, **figures, "note": notes.get(name, "")})
    return found


def gradient(loss: Loss, logits: Logits) -> Tensor:
    """One call: the loss, and its gradient (N, C) in the student's logits."""
    return torch.autograd.grad(loss(*logits), logits[0])[0]


def quartiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Median and quartiles, None of nothing."""
    if len(values) > 1:
        low, middle, high = statistics.quantiles(values, method="inclusive")
    else:
        low = middle = high = values[0] if values else None
    return {name: middle, f"{name}_q1": low, f"{name}_q3": high}


def extra_memory(loss: Loss, case: Case) -> float:
    """The most bytes a logit that a call takes beyond the logits, its gradient included."""
    if case.device == "cpu":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            return fresh.submit(peak_here, loss, case, torch.get_num_threads()).result()
    logits = case.draw()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradient(loss, logits)
    return (torch.cuda.max_memory_allocated() - before) / (case.rows * case.classes)


def peak_here(loss: Loss, case: Case, count: int) -> float:
    """`extra_memory` by this process's own high-water mark: true only where nothing that was freed can be taken."""
    with threads(count):
        logits = case.draw()
        gradient(loss, Case(2, 64, case.dtype).draw())  # what is loaded at the first call is no call's memory
        Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is taken now
        before = _kilobytes("VmRSS")
        gradient(loss, logits)
        return 1024 * (_kilobytes("VmHWM") - before) / (case.rows * case.classes)


def _kilobytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def _figures(name: str, seconds: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    mine = seconds.get(name, [])
    figures = quartiles("seconds", mine)
    for ratio, other in (("to_kd", KD), ("to_listing", LISTING), ("to_floor", FLOOR)):
        figures |= quartiles(ratio, [a / b for a, b in zip(mine, seconds.get(other, []), strict=False)])
    return figures


def _measure(works: Mapping[str, Work], case: Case, rounds: int, graph: bool) -> dict[str, list[float]]:
    """Seconds by round."""
    clock = partial(_on_device, graph) if case.device == "cuda" else _on_host
    seconds: dict[str, list[float]] = {name: [] for name in works}
    order, shuffled = list(works), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            seconds[name].append(clock(works[name]))
    return seconds


def _on_host(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _on_device(graph: bool, work: Work) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if graph:
        torch.cuda._sleep(_PAUSE)
    began.record()
    work()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


def _prepare(works: Mapping[str, Work], case: Case, graph: bool) -> tuple[dict[str, Work], dict[str, str]]:
    """The works that can be timed, warm; and what is odd about any."""
    ready, notes = {}, {}
    pool = torch.cuda.graph_pool_handle() if graph else None
    for name, work in works.items():
        try:
            for _ in range(3 if case.device == "cuda" else 1):
                work()
            waits = case.device == "cuda" and _waits(work)
            if waits:
                notes[name] = "waits for the device"
            if not (graph and waits):
                ready[name] = _captured(work, pool) if graph else work
        except torch.OutOfMemoryError:
            notes[name] = "out of memory"
    return ready, notes


def _waits(work: Work) -> bool:
    """Whether the host waits for the device on the way."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _captured(work: Work, pool: Any) -> Work:
    """The work as a graph. The graphs share their memory: none looks at what another left."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph.replay
