"""PLD in a Trainer of Hugging Face's transformers: a teacher by cross-entropy, then a student from its logits.

    pip install transformers
    python examples/transformers_trainer.py        # seconds on one core, nothing is downloaded

For your own work: load two models with `from_pretrained`, give your data set, and set the TrainingArguments as ever.
Text goes alike: `inputs` holds `input_ids` and `attention_mask`; both models need one tokenizer and the same classes.
"""

import tempfile

import torch
from torch import nn
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.models.resnet import ResNetConfig, ResNetForImageClassification

from pldistill import PLDLoss
from pldistill.data import TensorSplit, normalize
from pldistill.data.embedded import DIGITS_MEAN, DIGITS_STD, digits


class Distiller(Trainer):
    """A Trainer whose loss is PLD on the logits of its own model and of `teacher`."""

    def __init__(self, *args, teacher: nn.Module, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.criterion = PLDLoss(temperature=1.0)
        # The loss below is a mean over its batch: with accumulated gradients the Trainer must divide it.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}  # no cross-entropy for nothing
        logits = model(**inputs).logits
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        loss = self.criterion(logits, teacher_logits, labels)
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss


def examples(split: TensorSplit) -> list[dict]:
    """Handwritten digits as the models of transformers want them: `pixel_values (3, 32, 32)` and `labels`."""
    images = normalize(split.images, DIGITS_MEAN, DIGITS_STD)
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, split.labels, strict=True)]


def resnet(width: int) -> ResNetForImageClassification:
    """A small ResNet with random weights and ten classes."""
    config = ResNetConfig(embedding_size=width, hidden_sizes=[width, 2 * width], depths=[1, 1], layer_type="basic")
    config.num_labels = 10
    return ResNetForImageClassification(config)


def accuracy(told: EvalPrediction) -> dict[str, float]:
    right = torch.as_tensor(told.predictions).argmax(1) == torch.as_tensor(told.label_ids)
    return {"accuracy": 100 * right.float().mean().item()}


def fit(trainer: Trainer) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for row in trainer.state.log_history:
        if "loss" in row:
            print(f"  epoch {row['epoch']:.0f}: loss {float(row['loss']):.4f}")
    print(f"  accuracy {trainer.evaluate()['eval_accuracy']:.1f} %")


set_seed(0)
train, val = (examples(split) for split in digits())
with tempfile.TemporaryDirectory() as folder:
    quiet = {"logging_strategy": "epoch", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    hyper = {"num_train_epochs": 3, "per_device_train_batch_size": 32, "learning_rate": 4e-3}
    arguments = TrainingArguments(folder, **hyper, **quiet, dataloader_pin_memory=torch.cuda.is_available())
    common = {"args": arguments, "train_dataset": train, "eval_dataset": val, "compute_metrics": accuracy}
    print("teacher, a ResNet of 32 and 64 channels, by cross-entropy")
    teacher = resnet(32)
    fit(Trainer(teacher, **common))
    print("student, a ResNet of 8 and 16 channels, by PLD")
    fit(Distiller(resnet(8), teacher=teacher, **common))
