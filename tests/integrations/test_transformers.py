"""A Trainer of transformers that distills: its numbers are the formula's, in any cut of a step's tokens."""

import copy
import json
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

import tiny_language_models as tiny
from places import ROOT, SUPPORT
from pldistill.integrations.transformers import DistillationTrainer
from pldistill.losses import dist, generalized_jsd, kd, pld, pld_from_top_k

KD = {"loss": kd, "loss_options": {"temperature": 2.0}, "task_weight": 0.5}


def trainer_of(folder, student=None, teacher=None, *, options=KD, **arguments):
    data = {"train_dataset": tiny.examples(16), "eval_dataset": tiny.examples(6, seed=9)}
    models = student or tiny.model(1), teacher or tiny.model(2)
    return DistillationTrainer(*models, tiny.arguments(folder, **arguments), **data, **options)


def kd_by_hand(s, t, y, temperature=2.0, task_weight=0.5):
    q, log_p = (t / temperature).softmax(-1), (s / temperature).log_softmax(-1)
    divergence = temperature**2 * (q * (q.log() - log_p)).sum(-1)
    return divergence + task_weight * -s.log_softmax(-1).gather(1, y[:, None])[:, 0]


def batch_of(examples):
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


@pytest.mark.parametrize("num_items", [None, 50, torch.tensor(50)])
def test_the_loss_is_the_formula(tmp_path, num_items):
    trainer = trainer_of(tmp_path)
    batch = tiny.examples(5)
    s, t, y = tiny.rows(trainer.model, trainer.teacher, batch)
    losses = kd_by_hand(s, t, y)
    given = batch_of(batch)
    loss, outputs = trainer.compute_loss(trainer.model, given, True, num_items_in_batch=num_items)
    torch.testing.assert_close(loss, losses.sum() / (num_items or len(y)), rtol=1e-12, atol=0)
    assert outputs.logits.shape == (5, tiny.LENGTH, tiny.VOCABULARY)
    assert "labels" in given  # for compute_metrics


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (pld, {"temperature": 1.5, "top_k": 7}),
        (generalized_jsd, {"beta": 0.3}),
        (partial(kd, tau_squared=False), {"temperature": 2.0}),
    ],
)
def test_any_loss_of_rows_with_its_options(tmp_path, loss, options):
    trainer = trainer_of(tmp_path, options={"loss": loss, "loss_options": options})
    batch = tiny.examples(3)
    s, t, y = tiny.rows(trainer.model, trainer.teacher, batch)
    expected = loss(s, t, y, reduction="sum", **options) / 70
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch_of(batch), False, 70), expected)


@pytest.mark.parametrize("options", [KD, {"loss": pld}], ids=["kd", "pld"])
def test_accumulated_micro_batches_are_one_large_batch(tmp_path, options):
    """Their numbers of predicted tokens differ, so means of means are other weights, as the last lines see."""
    one = trainer_of(tmp_path, options=options, per_device_train_batch_size=8)
    four = trainer_of(tmp_path, options=options, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    whole, parts = tiny.weights_after_training(one), tiny.weights_after_training(four)
    assert one.state.global_step == four.state.global_step == 4
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-12)
    said = [row["train_loss"] for each in (one, four) for row in each.state.log_history if "train_loss" in row]
    assert said == [pytest.approx(said[0], rel=1e-6)] * 2  # summed in float32
    means = trainer_of(tmp_path, options=options, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    means.loss_is_scaled_for_ga = means.model_accepts_loss_kwargs = False
    means._get_num_items_in_batch = lambda batches, device: None
    assert max((value - whole[name]).abs().max() for name, value in tiny.weights_after_training(means).items()) > 1e-4


def test_a_step_of_sgd_is_the_gradient_of_the_formula(tmp_path):
    trainer = trainer_of(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4, max_grad_norm=0.0)
    trainer.args.num_train_epochs = 1
    student = copy.deepcopy(trainer.model)
    joined = batch_of(tiny.examples(16))
    labels = joined.pop("labels")[:, 1:]
    s, t = (each(**joined).logits[:, :-1][labels != -100] for each in (student, trainer.teacher))
    kd_by_hand(s, t.detach(), labels[labels != -100]).mean().backward()
    weights = tiny.weights_after_training(trainer)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach() - 0.05 * parameter.grad, rtol=0, atol=1e-12)


def test_two_processes_come_to_the_weights_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SUPPORT / "two_trainers.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    alone = DistillationTrainer(
        tiny.model(1),
        tiny.model(2),
        tiny.arguments(tmp_path, per_device_train_batch_size=4, per_device_eval_batch_size=4),
        loss=kd,
        task_weight=0.5,
        train_dataset=tiny.examples(16),
        eval_dataset=tiny.examples(4, seed=9),
    )
    weights, theirs = tiny.weights_after_training(alone), load_file(tmp_path / "weights.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-12)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == {"eval_loss": pytest.approx(alone.evaluate()["eval_loss"], rel=1e-12), "world": 2}
    start = tiny.model(1).state_dict()
    assert max((value - start[name]).abs().max() for name, value in weights.items()) > 1e-3


def test_a_loss_that_relates_rows_is_one_of_a_micro_batch(tmp_path):
    trainer = trainer_of(tmp_path, options={"loss": dist}, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    s, t, y = tiny.rows(trainer.model, trainer.teacher, tiny.examples(4))
    given = batch_of(tiny.examples(4))
    torch.testing.assert_close(trainer.compute_loss(trainer.model, given, False, 50), dist(s, t, y))
    assert trainer._get_num_items_in_batch([given, given], torch.device("cpu")) is None
    assert trainer.loss_is_scaled_for_ga is False
    tiny.weights_after_training(trainer)
    assert trainer.state.global_step == 4


def test_evaluation_is_the_same_loss_and_keeps_the_predictions(tmp_path):
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=6)
    s, t, y = tiny.rows(trainer.model, trainer.teacher, trainer.eval_dataset)
    answers = []

    def measure(told):
        answers.append(told)
        return {"first": float((told.predictions[:, :-1].argmax(-1) == told.label_ids[:, 1:]).sum())}

    trainer.compute_metrics = measure
    figures = trainer.evaluate()
    assert figures["eval_loss"] == pytest.approx(kd_by_hand(s, t, y).mean().item(), rel=1e-6)
    assert figures["eval_first"] == (s.argmax(-1) == y).sum().item()
    assert answers[0].predictions.shape == (6, tiny.LENGTH, tiny.VOCABULARY)
    unlabelled = [{"input_ids": row["input_ids"]} for row in trainer.eval_dataset]
    assert trainer.predict(unlabelled).predictions.shape == (6, tiny.LENGTH, tiny.VOCABULARY)


class Watched(nn.Module):
    """A teacher with dropout that notes how it is asked."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.model, self.asked = tiny.model(2, attention_dropout=dropout), []
        self.config = self.model.config

    def forward(self, **inputs):
        self.asked.append((self.training, torch.is_grad_enabled(), sorted(inputs)))
        return self.model(**inputs)


def test_the_teacher_is_asked_in_eval_mode_without_gradient_and_labels(tmp_path):
    teacher = Watched().train()
    trainer = trainer_of(tmp_path, teacher=teacher, per_device_train_batch_size=4)
    teacher.train()  # by somebody, later
    expected = tiny.weights_after_training(trainer_of(tmp_path, per_device_train_batch_size=4))  # no dropout
    weights = tiny.weights_after_training(trainer)
    assert len(teacher.asked) == 8
    assert {(training, grad) for training, grad, _ in teacher.asked} == {(False, False)}
    assert {name for *_, names in teacher.asked for name in names} <= {"attention_mask", "input_ids", "use_cache"}
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_teacher_is_unchanged_in_no_optimizer_and_not_saved(tmp_path):
    teacher = tiny.model(2)
    before = copy.deepcopy(teacher.state_dict())
    more = {"per_device_train_batch_size": 8, "save_strategy": "epoch", "weight_decay": 0.1}
    trainer = trainer_of(tmp_path, teacher=teacher, **more)
    weights = tiny.weights_after_training(trainer)
    trainer.save_model(str(tmp_path / "saved"))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    held = {id(each) for group in trainer.optimizer.param_groups for each in group["params"]}
    assert held == {id(each) for each in trainer.model.parameters()}
    theirs, ours = (values["lm_head.weight"].numpy().tobytes() for values in (before, weights))
    for folder in (tmp_path / "saved", tmp_path / "checkpoint-4"):
        files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
        assert sum(ours in file for file in files) == 1
        assert not any(theirs in file for file in files)
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


def test_a_run_resumes_to_the_same_weights(tmp_path):
    more = {"per_device_train_batch_size": 8, "save_strategy": "epoch"}
    whole = tiny.weights_after_training(trainer_of(tmp_path, **more))
    resumed = trainer_of(tmp_path, student=tiny.model(7), **more)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(value, whole[name]) for name, value in resumed.model.state_dict().items())


def test_vocabularies_of_two_sizes_are_refused_or_cut(tmp_path):
    padded = tiny.model(2, vocabulary=48)
    with pytest.raises(ValueError, match="teacher has 48 tokens but model 40: common_vocabulary=True"):
        trainer_of(tmp_path, teacher=padded)
    batch = tiny.examples(4)
    trainer = trainer_of(tmp_path, teacher=padded, options={**KD, "common_vocabulary": True})
    s, t, y = tiny.rows(trainer.model, padded, batch)
    expected = kd_by_hand(s, t[:, :40], y).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch_of(batch)), expected, rtol=1e-12, atol=0)
    trainer = trainer_of(tmp_path, student=padded, options={**KD, "common_vocabulary": True}, teacher=tiny.model(2))
    s, t, y = tiny.rows(padded, trainer.teacher, batch)
    whole = 0.5 * functional.cross_entropy(s, y)  # over the student's own vocabulary
    expected = kd_by_hand(s[:, :40], t, y, task_weight=0.0).mean() + whole
    torch.testing.assert_close(trainer.compute_loss(padded, batch_of(batch)), expected, rtol=1e-12, atol=0)


def test_a_batch_without_a_predicted_token_has_a_loss_of_zero(tmp_path):
    trainer = trainer_of(tmp_path)
    batch = batch_of(tiny.examples(2))
    batch["labels"][:, 1:] = -100
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.compute_loss(trainer.model, batch, False, count)
    loss.backward()
    assert (count.item(), loss.item()) == (0, 0.0)


def test_the_first_token_is_counted_for_nobody(tmp_path):
    whole = [{**row, "labels": row["input_ids"]} for row in tiny.examples(3)]
    count = trainer_of(tmp_path)._get_num_items_in_batch([batch_of(whole)] * 2, torch.device("cpu"))
    assert count == 2 * 3 * (tiny.LENGTH - 1)


def test_a_model_init_makes_the_student(tmp_path):
    trainer = DistillationTrainer(
        None, tiny.model(2), tiny.arguments(tmp_path), model_init=lambda: tiny.model(1), loss=kd
    )
    assert trainer.model.config.vocab_size == 40


def encoder_decoder():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=40, **sizes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kd"}, "loss must be a function of pldistill.losses, got 'kd'"),
        ({"loss": pld_from_top_k}, "loss must read the teacher's logits, got pld_from_top_k"),
        ({"loss_options": {"temprature": 2.0}}, "loss_options: unknown option of kd 'temprature'.*temperature"),
        ({"loss_options": {"temperature": 0.0}}, "temperature must be a positive finite number"),
        ({"loss": pld, "loss_options": {"top_k": 41}}, "top_k"),
        ({"loss_options": {"reduction": "mean"}}, "reduction is not an option"),
        ({"task_weight": -1.0}, "task_weight must be a finite number of at least 0, got -1.0"),
        ({"common_vocabulary": 1}, "common_vocabulary must be True or False, got 1"),
        ({"compute_loss_func": lambda *_, **__: 0}, "compute_loss_func is not an option"),
        ({"teacher": nn.Linear(2, 2)}, "teacher must have a vocab_size in its config"),
        ({"teacher": "gpt2"}, "teacher must be a torch.nn.Module, got str"),
        ({"teacher": encoder_decoder}, "teacher must be a causal language model, got T5ForConditionalGeneration"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(tmp_path, options, message):
    teacher = options.get("teacher", partial(tiny.model, 2))
    teacher = teacher() if callable(teacher) and not isinstance(teacher, nn.Module) else teacher
    options = {name: value for name, value in options.items() if name != "teacher"}
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(tiny.model(1), teacher, tiny.arguments(tmp_path), **{"loss": kd, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not an option.*got 0.1"),
        ({"use_liger_kernel": True}, "use_liger_kernel is not an option.*which the loss reads"),
    ],
)
def test_arguments_that_would_be_forgotten_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, **arguments)


def test_sequences_in_pieces_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillationTrainer, "get_cp_size", lambda self: 2)
    with pytest.raises(ValueError, match="parallelism_config must leave sequences whole"):
        trainer_of(tmp_path)


def test_a_teacher_that_is_trained_with_the_student_is_refused(tmp_path):
    student = tiny.model(1)
    with pytest.raises(ValueError, match="teacher must share no parameter with model"):
        trainer_of(tmp_path, student=student, teacher=student)


def test_inputs_without_labels_have_no_loss(tmp_path):
    trainer = trainer_of(tmp_path)
    with pytest.raises(ValueError, match="inputs must have labels, got attention_mask, input_ids"):
        trainer.compute_loss(
            trainer.model, {key: value for key, value in batch_of(tiny.examples(2)).items() if key != "labels"}
        )


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # TrainingArguments as they come, on a CPU
def test_the_code_of_the_document_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("student", "teacher")):
        tiny.model(seed, vocabulary=100).save_pretrained(name)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.DOTALL)
    names = {"train": tiny.examples(8), "val": tiny.examples(4)}
    exec(compile(code, "integrations.md", "exec"), names)
    assert names["trainer"].state.global_step == 3
    assert "eval_loss" in capsys.readouterr().out
