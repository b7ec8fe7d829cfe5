"""Peak memory of a loss of tokens with and without its logits: python benchmarks/fused_linear.py

Forward and backward of `tokens` on the logits that two heads make, and of `fused_linear` on the same hidden states,
each in a process of its own. `peak_bytes` is by how much the largest resident memory of the process exceeds what it
held before the loss, when hidden states and heads were there; the gradients of the student's are part of it. `to_plain`
is the ratio to the plain path of the same loss. `seconds` is of the one pass, for orientation.

Lines are added to the CSV, with the machine, its CPU capability, versions and commit in each. Linux alone.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from loader import append

from pldistill import losses
from pldistill.record import environment

LOSSES = {
    "kd": (losses.kd, {"temperature": 1.0}),
    "generalized_jsd": (losses.generalized_jsd, {}),
    "pld, top_k=64": (losses.pld, {"top_k": 64}),
}


def resident() -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) * 1024


def once(what: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure in this process, which does nothing else."""
    torch.set_num_threads(args.threads)
    function, options = LOSSES[args.loss]
    generator = torch.Generator().manual_seed(0)
    tokens, width, vocabulary = args.tokens, args.width, args.vocabulary
    hidden, theirs = (torch.randn(1, tokens, width, generator=generator) for _ in range(2))
    weight, their_weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5 for _ in range(2))
    labels = torch.randint(vocabulary, (1, tokens), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    losses.tokens(losses.kd, hidden[:, :2], theirs[:, :2], torch.zeros(1, 2, dtype=torch.long)).backward()  # warms up
    hidden.grad = None
    before, began = resident(), time.perf_counter()
    if what == "plain":
        logits = hidden @ weight.T, theirs @ their_weight.T
        loss = losses.tokens(function, *logits, labels, shift=False, **options)
    else:
        teacher = losses.TeacherHead(theirs, their_weight)
        loss = losses.fused_linear(function, hidden, weight, teacher, labels, chunk=args.chunk, shift=False, **options)
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"peak_bytes": peak, "seconds": time.perf_counter() - began, "loss": loss.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("fused-linear-cpu.csv"))
    parser.add_argument("--loss", choices=LOSSES, help="this one alone")
    parser.add_argument("--what", choices=("plain", "fused"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        print(json.dumps(once(args.what, args)))
        return
    names = ("tokens", "vocabulary", "width", "chunk", "threads")
    shape = {name: getattr(args, name) for name in names}
    env = environment(device="cpu", world_size=1)
    for loss in [args.loss] if args.loss else LOSSES:
        plain = 0.0
        for what in ("plain", "fused"):
            given = [f"--{name}={shape[name]}" for name in names]
            line = [sys.executable, __file__, f"--loss={loss}", f"--what={what}", *given]
            found = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
            plain = plain or found["peak_bytes"]
            sizes = {name: shape[name] for name in names[:-1]}
            row = {"loss_name": loss, "what": what, **sizes, **found, "to_plain": found["peak_bytes"] / plain}
            append(args.out, [{**row, **env}])
            told = f"{found['peak_bytes'] / 2**20:,.0f} MiB, {row['to_plain']:.3f} of plain, {found['seconds']:.1f} s"
            print(f"{loss}, {what}: {told}, loss {found['loss']:.6f}")


if __name__ == "__main__":
    main()
