"""The calls that docs/losses.md names compute the formulas that stand beside them."""

import csv
import math
import re
from statistics import fmean, median, stdev

import torch

from places import ROOT
from pldistill import losses
from pldistill.tasks.language.tokenizer import train_tokenizer


def kl(a, b):
    return (a * (a / b).log()).sum(-1)


def mixture(p, q, beta):
    m = beta * q + (1 - beta) * p
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


# Beside a word of the first column: the formula, the temperature, whether labels are shifted and the sum divided by n.
FORMULAS = {
    "TRL GKD": (lambda p, q: mixture(p, q, 0.5), 1.0, True, False),
    "TRL GOLD": (lambda p, q: mixture(p, q, 0.5), 0.9, True, False),
    "TRL DistillationTrainer": (lambda p, q: kl(p, q), 1.0, True, True),
    "DistiLLM forward": (lambda p, q: -(q * p.log()).sum(-1), 1.0, True, False),
    "DistiLLM skew forward": (lambda p, q: -(q * (0.1 * q + 0.9 * p).log()).sum(-1), 1.0, True, False),
    "DistiLLM skew reverse": (lambda p, q: kl(p, 0.1 * p + 0.9 * q), 1.0, True, False),
    "DSKD forward": (lambda p, q: kl(q, p), 2.0, True, True),
    "ModelOpt": (lambda p, q: 4 * kl(q, p), 2.0, True, False),
    "DistillKit": (lambda p, q: 4 * kl(q, p), 2.0, False, False),
}


def test_every_call_is_its_formula():
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| `([^`]+)` \|$", text, re.MULTILINE)
    assert len(rows) == len(FORMULAS)
    generator = torch.Generator().manual_seed(7)
    s, t = (2 * torch.randn(3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.randint(6, (3, 5), generator=generator)
    y[torch.rand(3, 5, generator=generator) < 0.3] = -100
    for name, call in rows:
        ((formula, temperature, shift, by_n),) = [made for key, made in FORMULAS.items() if name.startswith(key)]
        found = eval(call, {**vars(losses), "s": s, "t": t, "y": y, "n": 100})
        shifted = (s[:, :-1], t[:, :-1], y[:, 1:]) if shift else (s, t, y)
        valid = shifted[2] != -100
        p, q = ((z[valid] / temperature).softmax(-1) for z in shifted[:2])
        expected = formula(p, q).sum().item() / (100 if by_n else int(valid.sum()))
        assert math.isclose(found.item(), expected, rel_tol=1e-12), name


def test_the_code_for_two_tokenizers_runs():
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "align_tokens" in block]
    texts = ["the cat sat on the mat", "a cat and a mat"]
    tokenizers = [train_tokenizer(texts * 9, size) for size in (262, 270)]
    models = [torch.nn.Embedding(tokenizer.get_vocab_size(), tokenizer.get_vocab_size()) for tokenizer in tokenizers]
    names = {"texts": texts, "student": models[0], "teacher": models[1]}
    names |= {"student_tokenizer": tokenizers[0], "teacher_tokenizer": tokenizers[1]}
    exec(compile(code, "losses.md", "exec"), names)
    assert names["loss"].item() > 0
    assert int(names["chunks"].max()) == int(names["teacher_chunks"].max()) > 5


def test_the_table_of_two_tokenizers_is_the_record_s():
    with (ROOT / "benchmarks" / "cross-tokenizer-cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    methods = {row["method"] for row in rows}
    assert len(methods) == 6
    for method in methods:
        runs = [row for row in rows if row["method"] == method]
        assert sorted(row["seed"] for row in runs) == ["0", "1", "2"]
        bits, top1, seconds = ([float(row[name]) for row in runs] for name in ("bits_per_byte", "top1", "seconds"))
        figures = (
            f"{fmean(bits):.3f} ± {stdev(bits):.3f} | {fmean(top1):.2f} ± {stdev(top1):.2f} | {median(seconds):.0f}"
        )
        name = "cross-entropy alone" if method == "ce" else method
        assert f"| {name} | {figures} |" in text
    assert f"at {float(rows[0]['teacher_bits_per_byte']):.3f} bits a byte" in " ".join(text.split())
