"""Causal language models as data: the options, the defaults and the metrics; `task` has the rest."""

from __future__ import annotations

from typing import Any

from pldistill.specs import ENSEMBLE, RANDOM
from pldistill.tasks.language.methods import SPECS
from pldistill.tasks.language.options import LanguageOptions
from pldistill.tasks.spec import Metric, TaskSpec

_IMAGES = "there are no images"


def _check(recipe: Any) -> None:
    """Refuse teachers that are no folder of a language model."""
    teacher = recipe.teacher or ""
    if teacher.startswith((ENSEMBLE, RANDOM)):
        raise ValueError(f"teacher: expected the folder of one language model, got {teacher!r}")
    if recipe.views not in (None, 1):
        raise ValueError(f"views: expected 1, for a text has one view, got {recipe.views}")


SPEC = TaskSpec(
    module="pldistill.tasks.language.task",
    methods=SPECS,
    metrics={
        "perplexity": Metric(
            "perplexity",
            "exp of the mean cross-entropy of a validation token; lower is better",
            lower=True,
            title="Perplexity",
            unit="",
            in_progress=True,
        ),
        "bits_per_byte": Metric(
            "bits a byte",
            "cross-entropy of the validation text in bits, by its bytes of UTF-8; tells models of different tokenizers "
            "apart; lower is better",
            3,
            lower=True,
            title="Bits a byte",
            unit="",
        ),
        "next_top1": Metric(
            "next-token top-1",
            "validation tokens that are the first answer, in percent",
            title="Next-token top-1",
            in_progress=True,
        ),
        "token_ece": Metric(
            "token ECE",
            "expected calibration error of the next token, 15 equal bins of the largest probability, in percent; lower "
            "is better",
            lower=True,
        ),
        "scaled_perplexity": Metric(
            "scaled perplexity",
            "perplexity after temperature scaling: the logits divided by one number, fitted on the held-out text",
            lower=True,
            unit="",
        ),
        "temperature": Metric(
            "fitted temperature", "that number; 1 where none improves the held-out text", 3, unit="", in_summary=False
        ),
        "token_kl": Metric(
            "token KL",
            "KL(teacher ‖ student) of the next token at temperature 1, in nats; lower is closer",
            3,
            lower=True,
            unit="nats",
            in_progress=True,
        ),
        "token_agreement": Metric(
            "token agreement",
            "validation tokens where both models give the same token first, in percent",
            in_summary=False,
        ),
        "token_overlap5": Metric(
            "token top-5 overlap",
            "of the teacher's first five tokens those among the student's first five, in percent",
            in_summary=False,
        ),
    },
    score="perplexity",
    options=LanguageOptions,
    defaults={
        "batch_size": 32,
        "lr": 1e-3,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "decay_all": False,
        "clip_grad": 1.0,
        "epochs": 3,
    },
    refused={
        "image_size": "the length of a sequence is the task option context",
        "mixup": _IMAGES,
        "cutmix": _IMAGES,
        "mix_probability": _IMAGES,
        "hflip": _IMAGES,
        "exif": _IMAGES,
        "on_bad_image": _IMAGES,
        "repeats": _IMAGES,
        "augment_seed": "a text has one view",
        "unlabelled": "all text is labelled by itself",
        "class_map": "teacher and student read the same tokens",
        "sync_batchnorm": "language models have no BatchNorm",
        "new_head": "the head is of the tokenizer's size from the start",
        "student_checkpoint": "a student's folder has its weights: --pretrained takes them",
        "teacher_checkpoint": "a teacher's folder has its weights",
    },
    check=_check,
    sources="pldistill.tasks.language.text:TEXT_SOURCES",
    own_sources=("text", "kjv"),
    models="TYPE:key=value,..., an architecture of Hugging Face transformers and keys of its configuration, as "
    "llama:hidden_size=64,num_hidden_layers=2; or a folder with a config.json",
    scored_at_once=16,
    samples="sequences",
    files=("tokenizer.json", "tokenizer_config.json", "generation_config.json"),
)
