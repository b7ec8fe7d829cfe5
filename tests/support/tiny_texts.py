"""Tiny language models on verse of nineteen words, and what the tests of them share."""

import pldistill
from pldistill.recipe import make_recipe

TINY = "llama:hidden_size=16,intermediate_size=32,num_hidden_layers=1,num_attention_heads=2,tie_word_embeddings=true"
WORDS = "the cat sat on a mat and saw the red dog run to my old hat by the sea"


def verse(number):
    words = WORDS.split()
    return " ".join(words[(number * step) % len(words)] for step in range(1, 9)) + "\n"


def write_text(file):
    file.write_text("".join(verse(number) for number in range(120)))
    return file


def fields(text, **more):
    return {
        "task": "language",
        "data": f"text:{text},validation=8",
        "student": TINY,
        "method": "ce",
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.02,
        "amp": "off",
        "task_options": {"context": 16, "tokenizer": "bpe:280"},
        **more,
    }


def distilled(text, teacher, method, **more):
    options = {"task_options": {"context": 16}, "method": method, "teacher": str(teacher.folder), "seed": 1}
    return make_recipe(fields(text, **{**options, **more}))


def train_teacher(text, out):
    return pldistill.train(make_recipe(fields(text, epochs=12)), out=out, device="cpu")
