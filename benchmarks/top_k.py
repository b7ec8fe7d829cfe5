"""PLD on the first K ranks beside eager KD, in time and against its bound: python benchmarks/top_k.py

Forward and backward of `pld(..., top_k=K)` and of `pldistill.bench.eager_kd` (cross-entropy plus KL, torch's own
functions), in turn in one process, on teachers whose best token has a probability of 0.9 and whose others are Gaussian
(2.5 nats), Zipf's (exponent 1.2) or flat, as of label smoothing; the student is 0.95 times the teacher plus noise of
0.4. `to_kd` is the median of the paired ratios. `gradient_to_bound` is the largest over rows of the L1 norm of the
gradient's difference from that of all ranks, divided by its bound 2 ε, in float64.

Lines are added to the CSV, with the machine, its CPU capability, versions and commit in each.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from loader import append
from torch import Tensor

from pldistill import bench, losses
from pldistill.record import environment

KINDS = ("gauss", "zipf", "smoothed")


def draw(kind: str, rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and labels, the labels nine times in ten the teacher's best token."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, classes - 1, generator=generator)
    power = -1.2 * torch.arange(1, classes).log()
    tail = {"gauss": 2.5 * noise, "zipf": power + 0.05 * noise, "smoothed": 0.05 * noise}[kind].log_softmax(1)
    teacher = torch.cat([torch.full((rows, 1), math.log(0.9)), tail + math.log(0.1)], 1)
    teacher = teacher[:, torch.randperm(classes, generator=generator)]
    student = 0.95 * teacher + 0.4 * torch.randn(rows, classes, generator=generator)
    best, other = teacher.argmax(1), torch.randint(classes, (rows,), generator=generator)
    return student, teacher, torch.where(torch.rand(rows, generator=generator) < 0.9, best, other)


def seconds(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    student = student.detach().requires_grad_()
    began = time.perf_counter()
    loss(student, teacher, labels).backward()
    return time.perf_counter() - began


def timed(case: tuple[Tensor, Tensor, Tensor], top_k: int, rounds: int) -> dict[str, float]:
    def head(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return losses.pld(student, teacher, labels, top_k=top_k)

    ours, kd = [], []
    for count in range(rounds + 1):
        pair = [(head, ours), (bench.eager_kd, kd)]
        for loss, found in pair if count % 2 else reversed(pair):
            found.append(seconds(loss, *case))
    middle = rounds // 2  # the first round warms up
    ratios = sorted(a / b for a, b in zip(ours[1:], kd[1:], strict=True))
    return {
        "seconds": sorted(ours[1:])[middle],
        "kd_seconds": sorted(kd[1:])[middle],
        "to_kd": ratios[middle],
        "to_kd_q1": ratios[rounds // 4],
        "to_kd_q3": ratios[3 * rounds // 4],
    }


def checked(case: tuple[Tensor, Tensor, Tensor], top_k: int) -> dict[str, float]:
    student, teacher, labels = case[0].double().requires_grad_(), case[1].double(), case[2]
    bound = losses.pld_top_k_bound(student, losses.teacher_top_k(teacher, top_k, labels), labels)
    found = [losses.pld(student, teacher, labels, reduction="none", **more) for more in ({}, {"top_k": top_k})]
    whole, head = (torch.autograd.grad(each.sum(), student)[0] for each in found)
    missing = (found[0] - found[1]).detach()
    return {
        "mass": bound.mass.mean().item(),
        "loss_to_bound": (missing / bound.loss).max().item(),
        "gradient_to_bound": ((whole - head).abs().sum(1) / bound.gradient).max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--classes", type=int, default=128_256)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("top-k-cpu.csv"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    env = environment(device="cpu", world_size=1)
    for seed, kind in enumerate(KINDS):
        case = draw(kind, args.rows, args.classes, seed)
        shape = {"teacher": kind, "rows": args.rows, "classes": args.classes, "top_k": args.top_k}
        few = case[0][:8], case[1][:8], case[2][:8]
        line = {**shape, "rounds": args.rounds, **timed(case, args.top_k, args.rounds), **checked(few, args.top_k)}
        append(args.out, [{**line, **env}])
        shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in line.items()}
        print(", ".join(f"{name} {value}" for name, value in shown.items()))


if __name__ == "__main__":
    main()
