"""Tiny causal language models of transformers, tokens for them to learn, and a step's loss written out."""

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainingArguments

logging.getLogger("transformers").setLevel(logging.ERROR)
VOCABULARY, LENGTH = 40, 10


def model(seed: int, vocabulary: int = VOCABULARY, **config: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, initializer_range=0.5, **config)).double()


def examples(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Sequences of which 1 to 9 of 9 tokens are predicted: no two in turn have the same number."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        ids = torch.randint(VOCABULARY, (LENGTH,), generator=generator)
        labels = ids.clone()
        labels[: 1 + number * 4 % 9] = -100
        rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return rows


def arguments(folder: object, **more: object) -> TrainingArguments:
    """Two epochs of plain SGD, so that weights differ by what gradients differ by."""
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False}
    hyper = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "num_train_epochs": 2}
    return TrainingArguments(str(folder), **{"use_cpu": True, "seed": 3, **quiet, **hyper, **more})


def weights_after_training(trainer) -> dict[str, Tensor]:
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def rows(student: nn.Module, teacher: nn.Module, batch: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both models that say a predicted token, in eval mode, and the tokens."""
    joined = {name: torch.stack([example[name] for example in batch]) for name in batch[0]}
    labels = joined.pop("labels")[:, 1:]
    with torch.no_grad():
        s, t = (each.eval()(**joined).logits[:, :-1][labels != -100] for each in (student, teacher))
    return s, t, labels[labels != -100]
