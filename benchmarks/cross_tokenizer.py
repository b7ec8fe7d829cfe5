"""Does a teacher of another tokenizer help? python benchmarks/cross_tokenizer.py --seed 0

The King James Bible in passages of some verses. The teacher has a BPE of 1,024 tokens, the student one of 512 of the
same text, nested in it: every token of the student's is one of the teacher's. The student learns from the first
`--passages` by cross-entropy, alone or beside one of the losses across tokenizers, weight 1, with the same steps and
order. `bits_per_byte` of the held-out chapters is of the text, whatever the tokens; `top1` of the student's tokens.

Lines are added to the CSV, with the machine, its CPU capability, versions and commit in each. The teacher is trained
once, with seed 0, and kept in --teacher.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
from loader import append

from pldistill import losses
from pldistill.data.registry import Request
from pldistill.record import environment
from pldistill.tasks.language.alignment import encode_with_ends, make_projection
from pldistill.tasks.language.model import build_model
from pldistill.tasks.language.text import TEXT_SOURCES
from pldistill.tasks.language.tokenizer import train_tokenizer

WIDTHS = {
    "teacher": "llama:hidden_size=128,intermediate_size=320,num_hidden_layers=4,num_attention_heads=4",
    "student": "llama:hidden_size=48,intermediate_size=120,num_hidden_layers=2,num_attention_heads=4",
}
BATCH, CONTEXT = 16, 256


def passages(documents: list[str], size: int = 240) -> list[str]:
    """Verses of a chapter, joined up to `size` characters or a little more."""
    made = []
    for document in documents:
        text = ""
        for verse in document.splitlines():
            text += verse + "\n"
            if len(text) >= size:
                made.append(text)
                text = ""
    return [text for text in made if len(text) < 2 * size]


def model_of(kind, tokenizer, seed):
    torch.manual_seed(seed)
    return build_model(WIDTHS[kind], tokenizer, tokenizer.get_vocab_size(), context=CONTEXT, pretrained=False).model


def cut(ids, ends):
    """A batch to its longest row."""
    length = int((ends >= 0).sum(1).max())
    return ids[:, :length], ends[:, :length]


def cross_entropy(logits, ids, ends, reduction="mean"):
    labels = ids.masked_fill(ends < 0, -100)[:, 1:]
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction=reduction)


def optimize(model, steps, lr, loss_of):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def measure(model, ids, ends, size):
    """Bits a byte of the text, the ends of its passages not counted as bytes, and next-token top-1 in percent."""
    model.eval()
    nats, right, count = 0.0, 0, 0
    for at in range(0, len(ids), 64):
        batch, stops = cut(ids[at : at + 64], ends[at : at + 64])
        logits = model(input_ids=batch).logits
        nats += cross_entropy(logits, batch, stops, "sum").item()
        asked = stops[:, 1:] >= 0
        right += int(((logits[:, :-1].argmax(-1) == batch[:, 1:]) & asked).sum())
        count += int(asked.sum())
    return {"bits_per_byte": nats / size / math.log(2), "top1": 100 * right / count}


def order(count, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-steps * BATCH // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[: steps * BATCH].view(
        -1, BATCH
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passages", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--teacher-steps", type=int, default=900)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--teacher", type=Path, default=Path("runs/cross-tokenizer-teacher.pt"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cross-tokenizer-cpu.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    documents = TEXT_SOURCES["kjv"].open(Request("kjv", "", {}, None, False, False, True, "stop"))
    train, val = passages(documents.train), passages(documents.val)[:600]
    size = sum(len(text.encode()) for text in val)
    tokenizers = {"teacher": train_tokenizer(documents.train, 1024), "student": train_tokenizer(documents.train, 512)}
    data = {kind: encode_with_ends(tokenizer, train) for kind, tokenizer in tokenizers.items()}
    held = {kind: encode_with_ends(tokenizer, val) for kind, tokenizer in tokenizers.items()}
    teacher = model_of("teacher", tokenizers["teacher"], 0)
    if args.teacher.exists():
        teacher.load_state_dict(torch.load(args.teacher, weights_only=True))
    else:
        plan, (ids, ends) = order(len(train), args.teacher_steps, 0), data["teacher"]

        def of_teacher(step):
            batch, stops = cut(ids[plan[step]], ends[plan[step]])
            return cross_entropy(teacher(input_ids=batch).logits, batch, stops)

        optimize(teacher, args.teacher_steps, 3e-3, of_teacher)
        args.teacher.parent.mkdir(parents=True, exist_ok=True)
        torch.save(teacher.state_dict(), args.teacher)
    teachers = measure(teacher, *held["teacher"], size)
    print(f"teacher {teachers['bits_per_byte']:.3f} bits a byte, top-1 {teachers['top1']:.2f} %")

    w = make_projection(tokenizers["student"], tokenizers["teacher"])
    back = make_projection(tokenizers["teacher"], tokenizers["student"], pieces=1, both_ways=False)
    methods = {
        "ce": None,
        "uld": losses.uld,
        "p_kl": partial(losses.p_kl, projection=w),
        "h_kl": partial(losses.h_kl, common=losses.common_tokens(w)),
        "projected kd": partial(losses.projected_tokens, losses.kd, projection=back, temperature=1.0),
        "projected pld": partial(losses.projected_tokens, losses.pld, projection=back),
    }
    plan, env = order(args.passages, args.steps, 100 + args.seed), environment(device="cpu", world_size=1)
    for name in args.methods or methods:
        student, began = model_of("student", tokenizers["student"], args.seed), time.perf_counter()

        def of_student(step, name=name, student=student):
            (ids, ends), (others, stops) = (
                cut(*(part[plan[step]] for part in data[kind])) for kind in ("student", "teacher")
            )
            logits = student(input_ids=ids).logits
            loss = cross_entropy(logits, ids, ends)
            if methods[name] is None:
                return loss
            with torch.no_grad():
                answer = teacher(input_ids=others).logits
            chunks = losses.align_tokens(ends, stops)
            sides = (logits, ids, chunks[0]), (answer, others, chunks[1])
            return loss + args.weight * methods[name](*(losses.ChunkedLogits(*side) for side in sides))

        optimize(student, args.steps, 5e-3, of_student)
        row = {"method": name, "seed": args.seed, "weight": args.weight, "passages": args.passages, "steps": args.steps}
        row |= measure(student, *held["student"], size)
        row |= {"teacher_bits_per_byte": teachers["bits_per_byte"], "seconds": time.perf_counter() - began}
        append(args.out, [{**row, **env}])
        print(f"{name}: {row['bits_per_byte']:.3f} bits a byte, top-1 {row['top1']:.2f} %, {row['seconds']:.0f} s")


if __name__ == "__main__":
    main()
