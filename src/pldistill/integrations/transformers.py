"""A Trainer of Hugging Face transformers that distills a causal language model by any loss of rows of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from pldistill.losses import pld_from_top_k, tokens
from pldistill.losses._inputs import check_factor, check_flag, computing_dtype
from pldistill.losses.sequence import check_token_options, common_size, loss_couples_rows, loss_name
from pldistill.specs import unknown

IGNORED = -100  # the label of positions that are not predicted, in all of transformers
# What a Trainer may be asked for, and this one would not do.
_REFUSED = {
    "compute_loss_func": "the loss is that of the arguments loss and task_weight",
    "label_smoothing_factor": "task_weight has no label smoothing",
    "use_liger_kernel": "it leaves the logits out, which the loss reads",
}


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` whose loss is Σ_i [L(s_i, t_i, y_i) + w CE(s_i, y_i)] / n over the tokens i of a step.

    s are the logits of `model`, t those of `teacher`, y the next tokens, n the number of tokens that are predicted in
    all micro-batches of a step, on all processes. So a step is the same with any number of accumulated micro-batches
    and processes, however unequal the numbers of tokens in them. The teacher is in eval mode and under no_grad in each
    step, is not given the labels, and is in no optimizer and in nothing that is saved. It is moved to the device.

    Labels are the tokens themselves, as transformers has them: shifted here, not by the caller, -100 where nothing is
    predicted. `eval_loss` is the same loss of the evaluation data. `dist` and `skd` correlate the rows of a batch, so
    theirs is that of a micro-batch, and a step takes the mean over micro-batches.

    Args:
        model: the student, a causal language model; None with a `model_init`.
        teacher: t, a causal language model with the student's tokens under the student's ids. Only the size of the
            vocabulary can be checked: two tokenizers of one size are not noticed.
        args: `transformers.TrainingArguments`.
        loss: L, a function of `pldistill.losses` such as `kd`, `pld` or `generalized_jsd`.
        loss_options: the loss's own options, `{"temperature": 2.0}` for example.
        task_weight: w, at least 0. The cross-entropy runs over all of the student's vocabulary.
        common_vocabulary: where the sizes of the vocabularies differ, cut both models' logits in L to the smaller one;
            right where one vocabulary is the other with padding behind it. Without it two sizes are refused.
        options: of `transformers.Trainer`, by name.

    Raises:
        ValueError: options do not fit the loss; the vocabularies' sizes differ; the models share parameters; a model
            without a vocabulary, or with an encoder; what a Trainer can and this one does not (`compute_loss_func`,
            label smoothing, Liger's kernels, sequences cut over several devices).

    Source: `transformers.Trainer.compute_loss` says what a Trainer owes; the losses are their own papers'.
    """

    def __init__(
        self,
        model: nn.Module | None,
        teacher: nn.Module,
        args: TrainingArguments | None = None,
        *,
        loss: Callable[..., Tensor],
        loss_options: Mapping[str, Any] | None = None,
        task_weight: float = 0.0,
        common_vocabulary: bool = False,
        **options: Any,
    ) -> None:
        self.loss, self.loss_options = loss, dict(loss_options or {})
        _check_loss(loss, self.loss_options)
        check_factor("task_weight", task_weight)
        check_flag("common_vocabulary", common_vocabulary)
        for name, reason in _REFUSED.items():
            value = options.get(name) or getattr(args, name, None)
            if value:
                raise ValueError(f"{name} is not an option of DistillationTrainer: {reason}; got {value!r}")
        super().__init__(model, args, **options)  # pyright: ignore[reportArgumentType]
        assert isinstance(self.model, nn.Module)
        _check_models(self.model, teacher)
        size = common_size(
            "teacher", _vocabulary("teacher", teacher), "model", _vocabulary("model", self.model), common_vocabulary
        )
        _try(loss, self.loss_options, size)
        if self.get_cp_size() > 1 or self.get_sp_size() > 1:
            raise ValueError("parallelism_config must leave sequences whole, got context or sequence parallelism")
        self.task_weight, self.common_vocabulary = task_weight, common_vocabulary
        self.teacher = teacher.eval() if _is_placed(teacher) else teacher.to(self.args.device).eval()
        # Divided by the tokens of all micro-batches, unless it correlates the rows of one of them.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = not loss_couples_rows(loss)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one micro-batch, times the number of processes where `num_items_in_batch` counts on all of them.

        Args:
            model: the student, as the Trainer has wrapped it.
            inputs: `labels` and whatever both models read.
            return_outputs: return (loss, the student's outputs) in place of the loss.
            num_items_in_batch: n; None: the predicted tokens of these inputs.

        Raises:
            ValueError: no labels; a model that answers without logits.
        """
        labels = inputs.get("labels")
        if labels is None:
            raise ValueError(f"inputs must have labels, got {', '.join(sorted(inputs)) or 'nothing'}")
        others = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**others)
        logits = _logits("model", outputs)
        teacher_logits = self._ask_teacher(others).to(logits.device)
        count = None
        if num_items_in_batch is not None and not loss_couples_rows(self.loss):
            count = torch.as_tensor(num_items_in_batch).to(logits.device).clamp(min=1)
        common = {"num_items": count, "ignore_index": IGNORED}
        loss = tokens(
            self.loss,
            logits,
            teacher_logits,
            labels,
            common_vocabulary=self.common_vocabulary,
            **common,
            **self.loss_options,
        )
        if self.task_weight:
            loss = loss + self.task_weight * tokens(_cross_entropy, logits, logits.detach(), labels, **common)
        if count is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the gradients' mean over processes is to be their sum
        return (loss, outputs) if return_outputs else loss

    def _ask_teacher(self, inputs: dict[str, Any]) -> Tensor:
        self.teacher.eval()  # whatever has been done to it since the last step
        caches = getattr(getattr(self.teacher, "config", None), "use_cache", False)
        with torch.no_grad():
            outputs = self.teacher(**inputs, **({"use_cache": False} if caches else {}))
        return _logits("teacher", outputs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """The predicted tokens of these micro-batches, of all processes where the arguments ask for it.

        The Trainer's own count leaves the first token of a sequence out by the name of the model's loss alone.
        """
        if loss_couples_rows(self.loss) or not all("labels" in batch for batch in batch_samples):
            return None
        counts = [(batch["labels"][..., 1:] != IGNORED).sum().to(device) for batch in batch_samples]
        if not counts:
            return None
        count = torch.stack(counts).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            gathered = self.accelerator.gather(count)
            assert isinstance(gathered, Tensor)
            count = gathered.sum()
        return count


def _cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, reduction: str, ignore_index: int
) -> Tensor:
    """The cross-entropy as a loss of rows; what a teacher says has no part in it."""
    logits = student_logits.to(computing_dtype(student_logits))
    return nn.functional.cross_entropy(logits, labels.long(), reduction=reduction, ignore_index=ignore_index)


def _logits(name: str, outputs: Any) -> Tensor:
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} must answer with logits, as models for causal language do, got {type(outputs)}")
    return logits


def _check_loss(loss: Any, options: dict[str, Any]) -> None:
    check_token_options(loss, True, None, IGNORED, options)
    if loss is pld_from_top_k:
        raise ValueError(
            "loss must read the teacher's logits, got pld_from_top_k, which reads a store; loss_options={'top_k': 64} "
            "of pld asks the teacher itself"
        )
    taken = set(inspect.signature(loss).parameters) - {"student_logits", "teacher_logits", "labels", "reduction"}
    taken -= {"class_dim", "ignore_index", "sample_weight"}
    for name in options:
        if name not in taken:
            raise ValueError(f"loss_options: {unknown(f'option of {loss_name(loss)}', name, taken)}")


def _try(loss: Callable[..., Tensor], options: dict[str, Any], size: int) -> None:
    """Let the loss refuse its options now, not after the first batch."""
    logits = torch.zeros(1, 3, size)
    tokens(loss, logits, logits, torch.zeros(1, 3, dtype=torch.int64), **options)


def _check_models(model: nn.Module, teacher: object) -> None:
    if not isinstance(teacher, nn.Module):
        raise ValueError(f"teacher must be a torch.nn.Module, got {type(teacher).__name__}")
    ours = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in ours for parameter in teacher.parameters()):
        raise ValueError("teacher must share no parameter with model, which would change it; copy.deepcopy makes two")


def _vocabulary(name: str, model: nn.Module) -> int:
    """How many tokens a model's configuration says that it has."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} must be a causal language model, got {type(model).__name__}, which has an encoder")
    size = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "vocab_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{name} must have a vocab_size in its config, as language models do, got {size!r}")
    return size


def _is_placed(model: nn.Module) -> bool:
    """Whether a model was put where it is when it was loaded, over several devices maybe."""
    return getattr(model, "hf_device_map", None) is not None
