"""Text as sequences of tokens: documents joined, the end of a text between them, and cut into equal pieces.

Of a text's tokens x_0 x_1 ... x_T, x_0 the end of a text, sequence k predicts x_{kL+1} ... x_{kL+L}, each from those of
its sequence before it: every token is predicted once, and none is padding but at the end of the validation text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pldistill.data.loader import check_place, divided
from pldistill.data.registry import SOURCES, Request, read_spec
from pldistill.data.sampling import order, uniform
from pldistill.specs import split_spec, unknown
from pldistill.tasks.language.options import LanguageOptions, trained_size
from pldistill.tasks.language.text import TEXT_SOURCES, Documents
from pldistill.tasks.language.tokenizer import encode, read_tokenizer, token_names, train_tokenizer
from pldistill.types import NOT_PREDICTED, TokenBatch

DEFAULT_SIZE = 512  # of a vocabulary that is trained where nothing else is said


class TokenSplit:
    """Sequences of one text.

    Attributes:
        tokens: `(T + 1,)` int32, the text.
        ids: `(N,)` int64, which of its sequences these are.
        context: tokens of a sequence.
        size: bytes of UTF-8 of the text, the ends of its documents not counted.
    """

    def __init__(self, tokens: Tensor, ids: Tensor, context: int, size: int) -> None:
        self.tokens, self.ids, self.context, self.size = tokens, ids, context, size

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: Sequence[int] | Tensor) -> TokenSplit:
        """The sequences at these positions; their ids stay what they were."""
        return TokenSplit(self.tokens, self.ids[torch.as_tensor(indices, dtype=torch.int64)], self.context, self.size)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels `(B, L)` int64 of these sequences; beyond the text inputs are 0 and labels no token."""
        places = ids[:, None] * self.context + torch.arange(self.context + 1)
        there = places < len(self.tokens)
        found = self.tokens[places.clamp(max=len(self.tokens) - 1)].long()
        return found.where(there, 0)[:, :-1], found.where(there, NOT_PREDICTED)[:, 1:]

    def fingerprint(self) -> str:
        """A SHA-256 over the text and which of its sequences these are."""
        digest = hashlib.sha256(self.tokens.numpy().tobytes())
        digest.update(self.ids.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class TextData:
    """A text in a tokenizer's tokens.

    Attributes:
        spec: the text that opened it.
        tokenizer: what made the tokens.
        classes: the tokens' names by id.
        image_size: tokens of a sequence.
        train: what the student learns from.
        val: what scores it.
        holdout: training sequences that are kept from it; None where none are.
        skipped: nothing; of images those that cannot be read.
    """

    spec: str
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    image_size: int
    train: TokenSplit
    val: TokenSplit
    holdout: TokenSplit | None = None
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What a user should know of it before the run."""
        return []


def open_text(spec: str, options: LanguageOptions, teacher: str | None = None, *, evaluation: bool = False) -> TextData:
    """The text that `spec` names, as sequences of tokens; see `TEXT_SOURCES`.

    `train=N` keeps N of the training sequences and `validation=N` holds N out, from all over the text; `val=N` keeps
    the first N validation sequences. The tokenizer is that of the
    options, else the teacher's.

    Raises:
        ValueError: an unknown name or option, a file that is missing, empty or no UTF-8, and too short a text.
    """
    name, _, _ = split_spec(spec)
    if name in SOURCES and name not in TEXT_SOURCES:
        raise ValueError(f"data: {name} has images and no text: it is for another task")
    if name not in TEXT_SOURCES:
        raise ValueError(unknown("text", name, TEXT_SOURCES))
    path, numbers = read_spec(spec, TEXT_SOURCES[name])
    documents = TEXT_SOURCES[name].open(Request(spec, path, {}, None, False, evaluation, True, "stop"))
    return cut(spec, documents, options, teacher, evaluation=evaluation, **numbers)


def cut(
    spec: str,
    documents: Documents,
    options: LanguageOptions,
    teacher: str | None,
    *,
    evaluation: bool,
    train: int | None = None,
    val: int | None = None,
    validation: int | None = None,
) -> TextData:
    """The documents in tokens, in sequences.

    Raises:
        ValueError: for less text than a sequence, or fewer sequences than are asked for.
    """
    tokenizer = _tokenizer(documents, options, teacher)
    context = options.context
    scored = _split(tokenizer, documents.val, context, whole=True)
    kept = _split(tokenizer, [] if evaluation else documents.train, context, whole=False)
    data = TextData(spec, tokenizer, token_names(tokenizer), context, kept, scored)
    for name, part in (("validation", scored), *([] if evaluation else [("training", kept)])):
        if len(part) == 0:
            raise ValueError(
                f"data {spec!r}: expected {name} text of at least {context} tokens (--task-option context)"
            )
    if val is not None:
        data = replace(data, val=_first(tokenizer, data, val))
    return data if evaluation else _divided(data, train, validation)


def _tokenizer(documents: Documents, options: LanguageOptions, teacher: str | None) -> Tokenizer:
    size = trained_size(options.tokenizer)
    if size is None and options.tokenizer:
        return read_tokenizer(options.tokenizer, "task option tokenizer")
    if size is None and teacher is not None:
        return read_tokenizer(teacher, "teacher")
    if not documents.train:
        raise ValueError("data: expected training text, to train the tokenizer on, got none")
    return train_tokenizer(documents.train, size or DEFAULT_SIZE)


def _split(tokenizer: Tokenizer, documents: Sequence[str], context: int, *, whole: bool) -> TokenSplit:
    """The documents' sequences; `whole` with the last one, which the text may not fill."""
    tokens = torch.from_numpy(encode(tokenizer, documents))
    predicted = len(tokens) - 1 if documents else 0
    count = -(-predicted // context) if whole and predicted >= context else predicted // context
    return TokenSplit(tokens, torch.arange(count), context, sum(len(text.encode()) for text in documents))


def _first(tokenizer: Tokenizer, data: TextData, count: int) -> TokenSplit:
    """The first validation sequences, of a text that ends with them."""
    whole = data.val
    if not 1 <= count <= len(whole):
        raise ValueError(f"{data.spec}: val: expected 1 to {len(whole)} sequences, got {count}")
    tokens = whole.tokens[: 1 + count * whole.context]
    text = tokenizer.decode(tokens.tolist()).rstrip("\N{REPLACEMENT CHARACTER}")  # half a character at the end
    return TokenSplit(tokens, whole.ids[:count], whole.context, len(text.encode()))


def _divided(data: TextData, train: int | None, validation: int | None) -> TextData:
    """Hold `validation` training sequences out, and keep `train` of the others: the same ones always, from all over.

    A hash puts the sequences in an order; those held out come from its end and those kept from its front.
    """
    whole, most = data.train, len(data.train) - 1
    drawn = torch.from_numpy(np.argsort(uniform(0, 0, whole.ids.numpy(), "part"), kind="stable"))
    if validation is not None:
        if not 1 <= validation <= most:
            raise ValueError(f"{data.spec}: validation: expected 1 to {most} sequences, got {validation}")
        drawn, held = drawn[:-validation], drawn[-validation:]
        data = replace(data, train=whole.subset(drawn.sort().values), holdout=whole.subset(held.sort().values))
    if train is not None:
        if not 1 <= train <= len(drawn):
            raise ValueError(f"{data.spec}: train: expected 1 to {len(drawn)} sequences, got {train}")
        data = replace(data, train=whole.subset(drawn[:train].sort().values))
    return data


class TokenLoader:
    """Batches of a split's sequences, view after view: in training in an order of (seed, view).

    Attributes:
        num_samples: sequences in a view, over all processes.
        joined: sequences in each batch, over all processes.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(split) < max(1, world):
            raise ValueError(f"split: expected at least {world} sequences, one for each process, got {len(split)}")
        self.num_samples = len(split)
        self._split, self._seed, self._shuffle, self._device = split, seed, shuffle, device
        self._bounds, self.joined = divided(len(split), batch_size, shuffle, rank, world)

    def __len__(self) -> int:
        """Batches in a view."""
        return len(self._bounds)

    def epoch(self, view: int, start: int = 0) -> Iterator[TokenBatch]:
        """The batches of this view from the `start`-th on.

        Raises:
            ValueError: a negative view, or a start outside 0 ... len(loader).
        """
        check_place(view, start, len(self))
        ids = self._split.ids
        places = order(self._seed, view, ids) if self._shuffle else torch.arange(len(ids))
        return self._batches(view, [ids[places[first:last]] for first, last in self._bounds[start:]])

    def _batches(self, view: int, parts: list[Tensor]) -> Iterator[TokenBatch]:
        device = self._device
        for ids in parts:
            inputs, labels = self._split.read(ids)
            yield TokenBatch(inputs.to(device), labels.to(device), ids.to(device), view)
