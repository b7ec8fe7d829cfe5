"""The demo of language models: a teacher of 4 layers reads the Bible, students of 2 learn from it on less.

Nothing is published for this text. The tokenizer has 512 tokens; the teacher answers once, and its answers are stored.
As PLD is no proper score (it asks for ever wider gaps), the table has perplexity, first answers and calibration side by
side, and the perplexity after temperature scaling: the logits divided by one number, fitted on held-out text.
Command: `pldistill demo --task language`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console

from pldistill.recipe import Recipe, make_recipe
from pldistill.reports.html import write_report
from pldistill.reports.render import FittedTable, Table, formatted, signed, spread_texts
from pldistill.studies.demo import ALONE, Amount, demo_figures, folder_of, train_all, write_curves
from pldistill.studies.study import Fields
from pldistill.tasks.registry import find_method
from pldistill.training.parallel import Job
from pldistill.training.run import Run

CONTEXT, TOKENIZER = 64, "bpe:512"
_SHAPE = (
    "llama:hidden_size={},intermediate_size={},num_hidden_layers={},num_attention_heads={},tie_word_embeddings=true"
)
SETTING: Fields = {"task": "language", "task_options": {"context": CONTEXT}, "batch_size": 32, "amp": "off"}
TEACHER: Fields = {
    **SETTING,
    "task_options": {"context": CONTEXT, "tokenizer": TOKENIZER},
    "student": _SHAPE.format(96, 256, 4, 4),
    "method": "ce",
    "lr": 0.004,
    "warmup_epochs": 0.1,
    "epochs": 2,
}
STUDENT: Fields = {**SETTING, "student": _SHAPE.format(48, 128, 2, 2), "lr": 0.006, "warmup_epochs": 0.2, "epochs": 4}
# The methods with the task's defaults: temperature 1, and no cross-entropy beside a divergence.
STUDENTS: Mapping[str, Fields] = {
    "CE": {"method": "ce"},
    "KD": {"method": "kd"},
    "reverse KL": {"method": "rkl"},
    "JSD": {"method": "jsd"},
    "PLD": {"method": "pld"},
    "PLD top-64": {"method": "pld", "options": {"top_k": 64}},
    "CE + PLD": {"method": "pld", "weights": {"task": 1.0}},
    "CE + decoupled PLD": {"method": "decoupled_pld", "weights": {"task": 1.0}},
    "CE + PL-KL": {"method": "plkl"},
}
WHOLE = Amount("kjv:train=16000,val=1024,validation=512", "kjv:train=4000,val=1024,validation=512", 2, {})
SMOKE = Amount(
    "kjv:train=256,val=32,validation=32",
    "kjv:train=128,val=32,validation=32",
    1,
    {"epochs": 1, "warmup_epochs": 0.0, "trust_teacher": True},
)
FIGURES = {
    "perplexity": "perplexity_last",
    "bits": "bits_per_byte_last",
    "top1": "next_top1_last",
    "ece": "token_ece_last",
    "scaled": "scaled_perplexity_last",
    "temperature": "temperature_last",
    "agreement": "token_agreement_last",
    "seconds": "seconds",
}


def teacher_recipe(amount: Amount) -> Recipe:
    """Give the teacher's run."""
    return make_recipe({**TEACHER, "data": amount.teacher_data, **amount.fields})


def student_recipe(name: str, seed: int, teacher: Path, store: Path, amount: Amount) -> Recipe:
    """Give a student's run: all of them alike but for the method and the seed, in the teacher's tokens."""
    fields = {**STUDENT, "data": amount.data, **STUDENTS[name], **amount.fields, "seed": seed}
    if find_method(fields["method"], "language").needs_teacher:
        fields |= {"teacher": str(teacher), "teacher_cache": str(store), "views": 1}
    else:
        # Trained on the same text it is the teacher's, which may be in training now.
        fields["task_options"] = {**fields["task_options"], "tokenizer": TOKENIZER}
    return make_recipe(fields)


def run_demo(out: Path, *, smoke: bool, device: str, console: Console) -> list[Run]:
    """Train the rows, each in its folder below `out`, and print the table, what it shows, and what to try next.

    Rows that are finished in `out` are kept, and one that was interrupted goes on.
    """
    amount = SMOKE if smoke else WHOLE
    teacher, store = out / "teacher", out / "store"
    jobs = [
        Job(student_recipe(name, seed, teacher, store, amount), folder_of(out, name, seed))
        for name in STUDENTS
        for seed in range(amount.seeds)
    ]
    runs = train_all(teacher_recipe(amount), jobs, out, device, console)
    records = [run.record for run in runs]
    page = write_report(records, out / "report.html", title="pldistill demo: language models")
    write_curves(records, out / "perplexity.svg", "perplexity")
    console.print(FittedTable(demo_table(out)))
    console.print(demo_sentence(out), highlight=False, markup=False)
    own, small = "pldistill train --task language --data text:PATH", "llama:hidden_size={},num_hidden_layers={}"
    for name, text in (
        ("report", str(page)),
        ("image", str(out / "perplexity.svg")),
        ("yours", f"{own} --student {small.format(256, 6)} --method ce --out runs/teacher"),
        (
            "",
            f"{own} --student {small.format(128, 2)} --teacher runs/teacher --method kd --out runs/student",
        ),
    ):
        console.print(f"{name:<8} {text}", highlight=False, markup=False, soft_wrap=True)
    return runs


def demo_table(out: Path) -> Table:
    """The demo's table, from the records in `out`."""
    lines = demo_figures(out, STUDENTS, FIGURES)
    students = lines.index != "teacher"
    over = (lines["top1_mean"] - lines["top1_mean"].get(ALONE, math.nan)).where(students & (lines.index != ALONE))
    cells = {
        "": ["teacher, 4 layers" if name == "teacher" else f"2 layers, {name}" for name in lines.index],
        "top-1 (%)": spread_texts(lines["top1_mean"], lines["top1_std"], 2),
        f"over {ALONE}": [signed(gain, 2) for gain in over],
        "perplexity": spread_texts(lines["perplexity_mean"], lines["perplexity_std"], 2),
        "scaled": formatted(lines["scaled_mean"], ".2f"),
        "by T": formatted(lines["temperature_mean"], ".2f"),
        "ECE (%)": formatted(lines["ece_mean"], ".1f"),
        "agrees (%)": formatted(lines["agreement_mean"].where(students), ".1f"),
        "n": [str(n) for n in lines["n"]],
    }
    return Table.of(pd.DataFrame(cells))


def demo_sentence(out: Path) -> str:
    """What the table shows, in two sentences."""
    lines = demo_figures(out, STUDENTS, FIGURES).drop("teacher")
    gains = (lines["top1_mean"] - lines["top1_mean"][ALONE]).drop(ALONE)
    best, pld = gains.idxmax(), lines.loc["PLD"]
    return (
        f"The same small model, shown the same text, gets {gains[best]:.1f} points more next tokens right when it "
        f"learns from the teacher by {best} than from the text alone. PLD asks for an order, not for probabilities: "
        f"its perplexity of {pld['perplexity_mean']:.1f} is {pld['scaled_mean']:.1f} once its logits are divided by "
        f"{pld['temperature_mean']:.2f}."
    )
