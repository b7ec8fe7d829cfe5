"""Sequences of tokens: each token is predicted once, in batches that depend on (seed, view) alone."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pldistill.tasks.language.dataset import TokenLoader, cut
from pldistill.tasks.language.options import LanguageOptions
from pldistill.tasks.language.text import Documents
from pldistill.tasks.language.tokenizer import (
    END,
    encode,
    end_of_text,
    fingerprint,
    read_tokenizer,
    token_names,
    train_tokenizer,
)
from pldistill.types import NOT_PREDICTED

TEXTS = ["the cat sat on the mat\n" * 9, "a dog; naïve café ☃\n" * 5, "x"]
LOADER = {"seed": 3, "shuffle": True, "device": torch.device("cpu")}


def data(context=7, size=300, **parts):
    options = LanguageOptions(context=context, tokenizer=f"bpe:{size}")
    return cut("text:x", Documents(TEXTS, TEXTS[:2]), options, None, evaluation=False, **parts)


def test_a_tokenizer_reads_back_any_bytes_and_is_the_same_again():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert (
        tokenizer.decode(tokenizer.encode("never seen: \x00 žluťoučký 🦜\r\n").ids)
        == "never seen: \x00 žluťoučký 🦜\r\n"
    )
    assert fingerprint(tokenizer) == fingerprint(train_tokenizer(TEXTS, 300))
    assert len(token_names(tokenizer)) <= 300
    assert token_names(tokenizer)[end_of_text(tokenizer)] == END


def test_the_end_of_a_text_stands_before_each_document_and_after_the_last():
    tokenizer = train_tokenizer(TEXTS, 300)
    end, tokens = end_of_text(tokenizer), encode(tokenizer, TEXTS).tolist()
    expected = [end]
    for text in TEXTS:
        expected += [*tokenizer.encode(text).ids, end]
    assert tokens == expected


def test_every_token_is_predicted_once_from_the_one_before_it():
    split = data().val
    inputs, labels = split.read(split.ids)
    assert inputs.shape == labels.shape == (len(split), 7)
    predicted = labels != NOT_PREDICTED
    tokens = split.tokens.long()
    assert labels[predicted].tolist() == tokens[1:].tolist()
    assert inputs[predicted].tolist() == tokens[:-1].tolist()
    assert torch.equal(inputs[:, 1:][predicted[:, 1:]], labels[:, :-1][predicted[:, 1:]])
    assert predicted[:-1].all()


def test_training_sequences_are_full():
    split = data().train
    assert (split.read(split.ids)[1] != NOT_PREDICTED).all()
    assert 0 <= len(split.tokens) - 1 - 7 * len(split) < 7


def test_the_bytes_are_those_of_the_text():
    assert data().val.size == sum(len(text.encode()) for text in TEXTS[:2])


def test_batches_follow_from_seed_and_view():
    split = data(context=4).train
    loader = TokenLoader(split, batch_size=5, **LOADER)
    first, again, next_view = (list(loader.epoch(view)) for view in (0, 0, 1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert sorted(torch.cat([batch.ids for batch in next_view]).tolist()) == split.ids.tolist()
    assert torch.cat([batch.ids for batch in next_view]).tolist() != torch.cat([b.ids for b in first]).tolist()
    assert torch.equal(next(loader.epoch(1, start=2)).labels, next_view[2].labels)


def test_two_processes_see_what_one_does():
    split = data(context=4).train
    whole = TokenLoader(split, batch_size=6, **LOADER)
    parts = [TokenLoader(split, batch_size=3, rank=rank, world=2, **LOADER) for rank in (0, 1)]
    assert parts[0].joined == parts[1].joined == whole.joined
    for alone, *shared in zip(whole.epoch(0), *(part.epoch(0) for part in parts), strict=True):
        assert torch.equal(alone.inputs, torch.cat([part.inputs for part in shared]))


def test_the_tokenizer_of_a_file_or_of_the_teacher(tmp_path):
    own = train_tokenizer(["zzzz " * 9], 300)
    own.save(str(tmp_path / "tokenizer.json"))
    documents = Documents(TEXTS, TEXTS[:2])
    for options, teacher in (
        (LanguageOptions(context=7, tokenizer=str(tmp_path)), None),
        (LanguageOptions(context=7, tokenizer=str(tmp_path / "tokenizer.json")), None),
        (LanguageOptions(context=7), str(tmp_path)),
    ):
        assert fingerprint(cut("x", documents, options, teacher, evaluation=False).tokenizer) == fingerprint(own)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": 3}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer: .*tokenizer\.json' is damaged or no tokenizer"):
        read_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"teacher: expected a tokenizer.json or a folder with one"):
        read_tokenizer(tmp_path / "none", "teacher")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokenizer": "bpe:256"}, "a size from 257 to 1,000,000"),
        ({"tokenizer": "bpe"}, "expected bpe:SIZE, as bpe:512"),
        ({"context": 1}, "context"),
    ],
)
def test_options_that_make_no_sequences(options, says):
    from pldistill.tasks.language import SPEC

    with pytest.raises(ValueError, match=says):
        SPEC.complete(options)


def test_a_tokenizers_own_truncation_and_padding_are_not_of_a_corpus(tmp_path):
    own = train_tokenizer(TEXTS, 300)
    own.enable_truncation(5)
    own.enable_padding(length=400)
    own.save(str(tmp_path / "tokenizer.json"))
    assert encode(read_tokenizer(tmp_path), TEXTS).tolist() == encode(train_tokenizer(TEXTS, 300), TEXTS).tolist()


def test_a_tokenizer_that_cannot_write_the_text_is_named():
    words = Tokenizer(WordLevel({END: 0, "the": 1}))
    with pytest.raises(ValueError, match="tokenizer: cannot write the text: "):
        encode(words, ["the cat"])
