"""What each of two processes does for test_transformers.py: the training that one does alone, half a batch each."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import tiny_language_models as tiny
from pldistill.integrations.transformers import DistillationTrainer
from pldistill.losses import kd

folder = Path(sys.argv[1])
trainer = DistillationTrainer(
    tiny.model(1),
    tiny.model(2),
    tiny.arguments(folder / "out", per_device_train_batch_size=2, per_device_eval_batch_size=2, ddp_backend="gloo"),
    loss=kd,
    task_weight=0.5,
    train_dataset=tiny.examples(16),
    eval_dataset=tiny.examples(4, seed=9),
)
weights = tiny.weights_after_training(trainer)
figures = {"eval_loss": trainer.evaluate()["eval_loss"], "world": trainer.args.world_size}
if trainer.is_world_process_zero():
    save_file(weights, folder / "weights.safetensors")
    (folder / "figures.json").write_text(json.dumps(figures))
torch.distributed.destroy_process_group()
