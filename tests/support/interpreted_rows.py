"""The CUDA kernel in Triton's interpreter, on a CPU: `python interpreted_rows.py QUESTIONS ANSWERS`, both torch files.

A process of its own, since Triton looks for TRITON_INTERPRET when it is imported, and another test may have done that.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl

from pldistill.kernels import cuda
from pldistill.kernels._row_kernel import followed, joined


@triton.jit
def bracketed(numbers, answers, BLOCK: tl.constexpr):
    """((a b) c) and (a (b c)) of both ways to join runs of places; `numbers` (9, BLOCK), `answers` (2, 5, BLOCK)."""
    at = tl.arange(0, BLOCK)
    a1, a2, a3 = tl.load(numbers + at), tl.load(numbers + BLOCK + at), tl.load(numbers + 2 * BLOCK + at)
    b1, b2, b3 = tl.load(numbers + 3 * BLOCK + at), tl.load(numbers + 4 * BLOCK + at), tl.load(numbers + 5 * BLOCK + at)
    c1, c2, c3 = tl.load(numbers + 6 * BLOCK + at), tl.load(numbers + 7 * BLOCK + at), tl.load(numbers + 8 * BLOCK + at)
    x1, x2 = joined(a1, a2, b1, b2)
    x1, x2 = joined(x1, x2, c1, c2)
    y1, y2, y3 = followed(a1, a2, a3, b1, b2, b3)
    y1, y2, y3 = followed(y1, y2, y3, c1, c2, c3)
    tl.store(answers + at, x1)
    tl.store(answers + BLOCK + at, x2)
    tl.store(answers + 2 * BLOCK + at, y1)
    tl.store(answers + 3 * BLOCK + at, y2)
    tl.store(answers + 4 * BLOCK + at, y3)
    x1, x2 = joined(b1, b2, c1, c2)
    x1, x2 = joined(a1, a2, x1, x2)
    y1, y2, y3 = followed(b1, b2, b3, c1, c2, c3)
    y1, y2, y3 = followed(a1, a2, a3, y1, y2, y3)
    tl.store(answers + 5 * BLOCK + at, x1)
    tl.store(answers + 6 * BLOCK + at, x2)
    tl.store(answers + 7 * BLOCK + at, y1)
    tl.store(answers + 8 * BLOCK + at, y2)
    tl.store(answers + 9 * BLOCK + at, y3)


def main(questions: str, answers: str) -> None:
    torch.set_num_threads(1)
    asked = torch.load(questions)
    told = {name: cuda.pld(*question) for name, question in asked["rows"].items()}
    brackets = torch.empty(2, 5, 64)
    bracketed[(1,)](asked["brackets"], brackets, BLOCK=64)
    torch.save({"rows": told, "brackets": brackets}, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
