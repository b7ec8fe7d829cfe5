"""The reader of all JSON files: what is no JSON object, and what is not the object that a file must hold, in a line."""

import os
import socket

import pytest

from bad_json import NO_OBJECTS
from pldistill.json_files import Digest, JsonFile, Number, parse_object, read_checked, read_json


class Inner(JsonFile):
    """An object below another."""

    side: int


class Example(JsonFile):
    """A file with a key of each kind."""

    rate: Number
    name: str | None = None
    parts: list[Inner] = []  # noqa: RUF012
    digests: dict[str, Digest] = {}  # noqa: RUF012


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_what_is_no_json_object_is_refused_in_a_line_that_names_the_file(tmp_path, kind):
    content, says = NO_OBJECTS[kind]
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json: expected a JSON object, got ") as error:
        read_json(tmp_path / "x.json", Example)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "key rate: expected a value, got none"),
        ('{"rate": "1"}', "key rate: expected a number, got '1'"),
        ('{"rate": true}', "key rate: expected a number, got True"),
        ('{"rate": null}', "key rate: expected a number, got None"),
        ('{"rate": 1, "name": 3}', "key name: expected a text, got 3"),
        ('{"rate": 1, "parts": {}}', "key parts: expected a list, got {}"),
        ('{"rate": 1, "parts": [{"side": 1}, {"side": 2.5}]}', "key parts.1.side: expected a whole number, got 2.5"),
        ('{"rate": 1, "parts": [7]}', "key parts.0: expected an object, got 7"),
        ('{"rate": 1, "digests": []}', "key digests: expected an object, got []"),
        (
            '{"rate": 1, "digests": {"a": "0"}}',
            "key digests.a: expected a text of the pattern '^[0-9a-f]{64}$', got '0'",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_named_with_what_was_expected_and_what_came(tmp_path, content, says):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="key") as error:
        read_json(path, Example)
    assert str(error.value) == f"{path}, {says}"


def test_a_long_value_is_cut_short(tmp_path):
    (tmp_path / "x.json").write_text('{"rate": "' + "x" * 10_000 + '"}')
    with pytest.raises(ValueError, match="key rate") as error:
        read_json(tmp_path / "x.json", Example)
    assert len(str(error.value)) < 300


def test_keys_of_other_versions_stay_in_their_order(tmp_path):
    content = {"later": [1], "rate": 1, "earlier": None}
    (tmp_path / "x.json").write_text('{"later": [1], "rate": 1, "earlier": null}')
    assert list(read_checked(tmp_path / "x.json", Example)) == list(content)
    assert read_checked(tmp_path / "x.json", Example) == content
    assert read_json(tmp_path / "x.json", Example).rate == 1


def test_64_levels_are_read_and_one_more_is_not():
    assert parse_object('{"a":' * 64 + "1" + "}" * 64, "x")
    with pytest.raises(ValueError, match="more than 64 levels"):
        parse_object('{"a":' * 65 + "1" + "}" * 65, "x")


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a socket", "a device", "nothing there"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path may be short alone
    path = tmp_path / "x.json"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("x.json")
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=rf"x\.json: expected a file, got {kind}$"):
        read_json(path, Example)
