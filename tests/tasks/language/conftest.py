"""A text, and a language model that learned it, for all tests of the task; nobody writes to them."""

import pytest

from tiny_texts import train_teacher, write_text


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "verse.txt")


@pytest.fixture(scope="session")
def teacher(text, tmp_path_factory):
    return train_teacher(text, tmp_path_factory.mktemp("lm") / "teacher")
