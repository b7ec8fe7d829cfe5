"""`hfds/NAME` as text: splits, rows and what is refused, on a stand-in for `datasets` and on the package itself."""

import importlib.machinery
import importlib.util
import json
import sys
import types

import pytest

from pldistill.tasks.language.dataset import open_text
from pldistill.tasks.language.huggingface import read_splits
from pldistill.tasks.language.options import LanguageOptions

TRAIN, VAL = ["a first text", "", None, "a second"], ["scored"]


class Rows:
    """As much of `datasets.Dataset` as is asked for."""

    def __init__(self, texts, column="text"):
        self.columns = {"id": list(range(len(texts))), column: texts}
        self.column_names = list(self.columns)

    def __getitem__(self, name):
        return self.columns[name]


@pytest.fixture
def package(monkeypatch):
    """Stand in for `datasets`; the splits are set by the test."""
    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    module.splits = {"train": Rows(TRAIN), "validation": Rows(VAL)}
    module.load_dataset = lambda name: module.splits
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_document_is_a_row_with_a_text(package, tmp_path):
    assert read_splits(tmp_path / "poems", evaluation=False) == (["a first text", "a second"], VAL)
    assert read_splits(tmp_path / "poems", evaluation=True) == ([], VAL)


def test_without_a_validation_split_the_last_tenth_is(package):
    package.splits = {"train": Rows([f"line {number:02d}\n" for number in range(40)])}
    options = LanguageOptions(context=4, tokenizer="bpe:257")
    data = open_text("hfds/someone/poems,train=10", options)
    assert len(data.train) == 10
    assert 0 < len(data.val) < 12


def test_a_test_split_alone_can_be_evaluated(package, tmp_path):
    package.splits = {"test": Rows(VAL)}
    assert read_splits(tmp_path, evaluation=True) == ([], VAL)
    with pytest.raises(ValueError, match="expected a split train, got test"):
        read_splits(tmp_path, evaluation=False)


REFUSED = {
    "another column": ({"train": Rows(TRAIN, "body")}, 'expected a column "text" in train, got id, body'),
    "numbers": ({"train": Rows(["a", 7])}, 'expected strings in the column "text" of train, got 7 in row 1'),
    "no splits": ({}, "expected a split train, got none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused(package, tmp_path, name):
    package.splits, says = REFUSED[name]
    with pytest.raises(ValueError, match=f"^hfds/{tmp_path}: {says}"):
        read_splits(tmp_path, evaluation=False)


def test_the_packages_errors_are_one_line(package, tmp_path):
    def fails(name):
        raise FileNotFoundError("Couldn't find it\nanywhere")

    package.load_dataset = fails
    with pytest.raises(ValueError, match=r"datasets failed \(FileNotFoundError: Couldn't find it\)$"):
        read_splits(tmp_path, evaluation=False)


def test_the_package_is_named_where_it_is_not_installed(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    with pytest.raises(ValueError, match=r"hfds: expected the package datasets for hfds/.*; pip install datasets"):
        read_splits(tmp_path, evaluation=False)


@pytest.mark.filterwarnings("default")  # the package's own
def test_the_real_package_reads_files_and_what_it_saved(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    files = tmp_path / "files"
    files.mkdir()
    for split, texts in (("train", TRAIN), ("test", VAL)):
        lines = [json.dumps({"text": text}) for text in texts]
        (files / f"{split}.jsonl").write_text("\n".join(lines))
    expected = (["a first text", "a second"], VAL)
    assert read_splits(files, evaluation=False) == expected
    loaded = datasets.load_dataset(str(files))
    loaded.save_to_disk(str(tmp_path / "saved"))
    assert read_splits(tmp_path / "saved", evaluation=False) == expected
    loaded["train"].save_to_disk(str(tmp_path / "one"))
    assert read_splits(tmp_path / "one", evaluation=False) == (expected[0], [])
