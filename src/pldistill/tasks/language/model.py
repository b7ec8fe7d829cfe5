"""Causal language models of Hugging Face `transformers`: built from a configuration, read from and left in its folders.

A run's folder is one that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` open.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from typing_extensions import Self

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded; read when transformers is imported
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from pldistill.files import check_run_files, write_atomically
from pldistill.models import TaskModel
from pldistill.paths import kind_of
from pldistill.specs import unknown
from pldistill.tasks.language.tokenizer import FILE, end_of_text, read_tokenizer, token_names
from pldistill.types import Outputs, TokenBatch

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BESIDE = (FILE, "tokenizer_config.json", "generation_config.json")  # of a run's folder, beside the two
CONTEXT = "pldistill_context"  # the configuration's own key: tokens of the sequences that it was scored on
_PAIR = re.compile(r"([A-Za-z_]\w*)=([^=,]+)")

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()


class LanguageModel(TaskModel):
    """A causal language model; a row of logits for every token of a batch, cut to the tokenizer's vocabulary.

    Public models pad their vocabulary to a round number; those columns are no tokens.

    Args:
        model: of `transformers`, from input ids `(N, L)` to logits `(N, L, V')`, V' at least V.
        vocabulary: V, the tokenizer's tokens.
    """

    def __init__(self, model: Any, vocabulary: int) -> None:
        super().__init__()
        self.model, self.vocabulary = model, vocabulary

    def forward(self, inputs: Tensor) -> Outputs:
        logits = self.model(input_ids=inputs, use_cache=False).logits
        return Outputs(logits[..., : self.vocabulary].flatten(0, 1))

    def answer(self, batch: TokenBatch) -> Outputs:
        return self(batch.inputs)

    def around(self, model: Any) -> Self:
        return type(self)(model, self.vocabulary)

    def probe(self, image_size: int) -> Outputs:
        """Answer a sequence of so many tokens, all of them the first of the vocabulary."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(torch.zeros(1, image_size, dtype=torch.int64, device=self.model.device))
        except (RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{type(self.model).__name__}: cannot take sequences of {image_size}: {reason}") from error
        finally:
            self.train(was_training)

    def check(self, what: str, context: int) -> None:
        """Refuse a model that cannot take the sequences, or whose answers depend on the tokens after them.

        An encoder (BERT and its kin) has a causal class of the same name, and reads the token that it is to predict.
        """
        length = min(context, 8)
        tokens = torch.zeros(2, length, dtype=torch.int64)
        tokens[1, -1] = self.vocabulary - 1
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                logits = self(tokens).logits.view(2, length, -1)[:, :-1]
        except Exception as error:  # whatever an architecture raises that wants other inputs
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{what}: {type(self.model).__name__} answers no token ids: {reason}") from error
        finally:
            self.train(was_training)
        difference, size = (logits[0] - logits[1]).abs().max().item(), logits.abs().max().item()
        if not difference <= 1e-5 * max(1.0, size):
            raise ValueError(
                f"{what}: expected a causal language model, got {type(self.model).__name__}, whose answers depend on "
                "the tokens that follow"
            )


def build_model(name: str, tokenizer: Tokenizer, vocabulary: int, *, context: int, pretrained: bool) -> LanguageModel:
    """The model that `name` says: TYPE:key=value,... with weights from torch's generator, or a folder.

    Of a folder the configuration is taken, and the weights too with `pretrained`.

    Raises:
        ValueError: an unknown type or key, values that do not fit one another, or a vocabulary of another size.
    """
    if kind_of(Path(name)) == "a folder":
        if pretrained:
            return _pretrained(Path(name), tokenizer, vocabulary, context)
        config = _read_config(Path(name), "student")
    elif pretrained:
        raise ValueError(f"pretrained: expected a folder with weights for a student, got {name!r}")
    else:
        config = _configured(name)
    end = end_of_text(tokenizer)
    config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = vocabulary, end, end, None
    _check_positions(config, name, context)
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # whatever an architecture raises of numbers that do not fit one another
        raise ValueError(f"student {name!r}: expected values that fit: {' '.join(str(error).split())}") from error
    built = LanguageModel(model, vocabulary)
    built.check(f"student {name!r}", context)
    return built


def _check_positions(config: PretrainedConfig, name: str, context: int) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions < context:
        raise ValueError(f"student {name!r}: expected positions for {context} tokens, got {positions} (context)")


def _pretrained(folder: Path, tokenizer: Tokenizer, vocabulary: int, context: int) -> LanguageModel:
    """A folder's model with its weights, whose tokens must be the data's."""
    _check_positions(_read_config(folder, "student"), str(folder), context)
    if token_names(read_tokenizer(folder, "student")) != token_names(tokenizer):
        raise ValueError(
            f"student {str(folder)!r}: expected weights of the data's {vocabulary} tokens, got those of another "
            f"tokenizer (--task-option tokenizer={folder})"
        )
    model = LanguageModel(_read_model(folder, vocabulary, "student"), vocabulary)
    model.check("student", context)
    return model


def _configured(name: str) -> PretrainedConfig:
    """A type's configuration with the keys of `TYPE:key=value,...`, each of which it must have."""
    kind, _, rest = name.partition(":")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(unknown("language model", kind, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    given: dict[str, Any] = {}
    for text in filter(None, rest.split(",")):
        match = _PAIR.fullmatch(text)
        if match is None or match[1] in given:
            raise ValueError(f"student {name!r}: expected {kind}:key=value,... with each key once, got {text!r}")
        given[match[1]] = _value(match[2])
    with _quiet():
        default = AutoConfig.for_model(kind)
        for key in given:
            if not hasattr(default, key):
                raise ValueError(unknown(f"key of {kind}", key, {**default.to_dict(), **type(default).attribute_map}))
        try:
            return AutoConfig.for_model(kind, **given)
        except Exception as error:  # a value of another type, in transformers' own words
            raise ValueError(f"student {name!r}: {' '.join(str(error).split())}") from error


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def save_model(model: LanguageModel, folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """Write the model and its tokenizer as `transformers` has them, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.id_to_token(end_of_text(tokenizer))
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        model.model.config.pldistill_context = context
        model.model.save_pretrained(scratch)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end).save_pretrained(scratch)
        for name in (*BESIDE, WEIGHTS, CONFIG):
            write_atomically(folder / name, (Path(scratch) / name).read_bytes())


def load_model(folder: Path, what: str = "model") -> tuple[LanguageModel, Tokenizer, int]:
    """The model that lies in a folder in eval mode, its tokenizer, and the tokens of a sequence it was scored on.

    Raises:
        ValueError: for a missing or damaged file, or a model that is no causal language model.
    """
    check_run_files(folder, (CONFIG, WEIGHTS, *BESIDE))
    tokenizer = read_tokenizer(folder, what)
    vocabulary = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    model = _read_model(folder, vocabulary, what)
    positions = getattr(model.config, CONTEXT, None) or getattr(model.config, "max_position_embeddings", None) or 1024
    loaded = LanguageModel(model, vocabulary).eval()
    loaded.check(what, min(int(positions), 1024))
    return loaded, tokenizer, min(int(positions), 1024)


def _read_config(folder: Path, what: str) -> PretrainedConfig:
    if kind_of(folder / CONFIG) is None:
        raise ValueError(f"{what}: expected a folder with a {CONFIG}, got {str(folder)!r}, which has none")
    try:
        with _quiet():
            return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises of many kinds
        raise ValueError(
            f"{what}: {str(folder / CONFIG)!r} is damaged or no language model's: {' '.join(str(error).split())}"
        ) from None


def _read_model(folder: Path, vocabulary: int, what: str) -> Any:
    config = _read_config(folder, what)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{what}: expected a causal language model in {str(folder)!r}, got {config.model_type!r}")
    if config.vocab_size < vocabulary:
        raise ValueError(
            f"{what}: expected at least the tokenizer's {vocabulary} tokens in {str(folder)!r}, got {config.vocab_size}"
        )
    try:
        with _quiet():
            how = {"local_files_only": True, "dtype": torch.float32, "output_loading_info": True}
            loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), **how)
    except Exception as error:  # transformers raises of many kinds
        raise ValueError(
            f"{what}: the weights in {str(folder)!r} are damaged: {' '.join(str(error).split())}"
        ) from None
    model, report = loaded
    wrong = [f"{len(report[kind])} {kind.replace('_', ' ')}" for kind in _KINDS if report.get(kind)]
    if wrong:  # transformers would draw what is missing at random
        raise ValueError(f"{what}: the weights in {str(folder)!r} do not fit the model: {', '.join(wrong)}")
    return model


_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of `transformers` about values that are set a line later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
