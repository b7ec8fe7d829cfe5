"""Print how exact PLD and `plackett_luce_kl` are in float32, as Markdown tables: python benchmarks/numerics.py

Each case's relative error against a float64 reference (worst row), in eager mode (which chooses its way by the logits'
range), as the branch-free graph that `torch.compile` makes of it, and, of PLD, for the arithmetic of the paper's
listing.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import reference
from numeric_cases import CASES
from pldistill.losses import plackett_luce_kl, pld


def listing(student, teacher, labels, *, temperature, reduction):
    """The listing's losses row by row: its mean over a batch of one."""
    assert reduction == "none"
    rows = zip(student, teacher, labels, strict=True)
    return torch.stack([reference.listing(s[None], t[None], y[None], temperature) for s, t, y in rows])


def compiled(loss: Callable) -> Callable:
    return torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)


def table(ways: dict[str, Callable], exact_rows: Callable) -> None:
    print("| case | bound: loss | bound: gradient |", *(f"{way}: loss | {way}: gradient |" for way in ways))
    print("|---|---|---|" + "---|---|" * len(ways))
    for case in CASES:
        torch.compiler.reset()
        errors = (f"{error:.1e} |" for way in ways.values() for error in case.errors(way, exact_rows))
        print(f"| {case.name} | {case.loss_bound:.0e} | {case.gradient_bound:.0e} |", *errors)
    print()


def main() -> None:
    torch.set_num_threads(1)
    print("PLD\n")
    table({"eager": pld, "compiled": compiled(pld), "listing": listing}, reference.pld)
    for stages in (2, "teacher"):
        loss = partial(plackett_luce_kl, stage_weights=stages)
        print(f"plackett_luce_kl, stage_weights={stages!r}\n")
        exact_rows = partial(reference.plackett_luce_kl, stages=stages)
        table({"eager": loss, "compiled": compiled(loss)}, exact_rows)


if __name__ == "__main__":
    main()
