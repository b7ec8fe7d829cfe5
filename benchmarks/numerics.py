"""Print how exact PLD is in float32, as a Markdown table: python benchmarks/numerics.py

Each case's relative error against a float64 reference (worst row), in eager mode (which chooses its way by the logits'
range), as the branch-free graph that `torch.compile` makes of it, and for the arithmetic of the paper's listing.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import reference
from numeric_cases import CASES
from pldistill.losses import pld


def listing(student, teacher, labels, *, temperature, reduction):
    """The listing's losses row by row: its mean over a batch of one."""
    assert reduction == "none"
    rows = zip(student, teacher, labels, strict=True)
    return torch.stack([reference.listing(s[None], t[None], y[None], temperature) for s, t, y in rows])


def main() -> None:
    torch.set_num_threads(1)
    ways: dict[str, Callable] = {
        "eager": pld,
        "compiled": torch.compile(pld, backend="aot_eager", fullgraph=True, dynamic=False),
        "listing": listing,
    }
    print("| case | bound: loss | bound: gradient |", *(f"{way}: loss | {way}: gradient |" for way in ways))
    print("|---|---|---|" + "---|---|" * len(ways))
    for case in CASES:
        torch.compiler.reset()
        errors = (f"{error:.1e} |" for way in ways.values() for error in case.errors(way))
        print(f"| {case.name} | {case.loss_bound:.0e} | {case.gradient_bound:.0e} |", *errors)


if __name__ == "__main__":
    main()
