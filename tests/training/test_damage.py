"""One flipped bit in any file of a finished run is seen where the file is used, and said by name."""

import json
import re
import shutil

import pytest
import torch

import pldistill
from pldistill.files import check_run_files, sha256
from pldistill.models import build, load_folder, save_folder
from pldistill.models.checkpoints import load_weights
from pldistill.record import RunRecord
from pldistill.reports.runs import group_runs
from pldistill.tasks.detection.weights import load_detector
from pldistill.training.run import evaluate, load_run, predict
from tiny_detectors import distilled
from tiny_runs import distill

FILES = ["recipe.json", "env.json", "metrics.jsonl", "model.safetensors", "config.json"]
BEST = ["best/model.safetensors", "best/config.json", "best/epoch.json"]


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """A finished run; nobody writes to it."""
    return pldistill.train(distill(teacher, epochs=2), out=tmp_path_factory.mktemp("finished") / "run", device="cpu")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be damaged."""
    return load_run(shutil.copytree(finished.folder, tmp_path / "run"))


def flip(path, place=None):
    """Flip a bit of a middle digit, or at `place`, so that a text stays a text."""
    data = bytearray(path.read_bytes())
    if place is None:  # a digit: what is JSON stays JSON
        place = next(i for i in range(len(data) // 2, len(data)) if path.suffix == ".safetensors" or 48 <= data[i] < 58)
    data[place] ^= 1
    path.write_bytes(data)


def test_the_result_has_the_digests_of_all_files(finished):
    digests = finished.result["sha256"]
    assert set(digests) == {*FILES, *BEST, "result.json"}
    for name in {*FILES, *BEST}:
        assert digests[name] == sha256(finished.folder / name)


@pytest.mark.parametrize("name", ["recipe.json", "env.json", "metrics.jsonl", "result.json"])
def test_a_text_of_the_record(run, name):
    flip(run.folder / name)
    says = rf"'.*{name}' is damaged: expected SHA-256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}"
    for use in (
        lambda: run.result,
        lambda: run.recipe,
        lambda: RunRecord(run.folder).read_result(),
        lambda: evaluate(run, device="cpu"),
    ):
        with pytest.raises(ValueError, match=says):
            use()
    with pytest.raises(ValueError, match=re.escape(name)):  # a row of another epoch is seen before
        group_runs([run.record])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_the_model(run, tmp_path, name):
    flip(run.folder / name)
    digest = run.result["sha256"][name]
    for use in (
        lambda: load_folder(run.folder),
        lambda: run.load(),
        lambda: evaluate(run, device="cpu"),
        lambda: predict(run, []),
        lambda: load_weights(build("resnet8", num_classes=100), run.folder),
        lambda: pldistill.train(distill(run), out=tmp_path / "student", device="cpu"),
    ):
        with pytest.raises(ValueError, match=rf"'.*{name}' is damaged: expected SHA-256 {digest}, got [0-9a-f]{{64}}"):
            use()
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("name", ["best/model.safetensors", "best/config.json"])
def test_a_file_of_the_best_model(run, name):
    flip(run.folder / name)
    with pytest.raises(ValueError, match=rf"'.*{name}' is damaged"):
        evaluate(run, device="cpu", weights="best")
    evaluate(run, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_named(run, name):
    (run.folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}"):
        evaluate(run, device="cpu")


def test_every_bit_of_the_result_that_means_something(run):
    path = run.folder / "result.json"
    sound, figures = path.read_bytes(), run.result
    for place in range(0, len(sound), 7):
        flip(path, place)
        try:
            assert {**run.record.read_result(), "sha256": None} == {**figures, "sha256": None}  # white space, or ...
        except ValueError:
            pass  # ... it is refused
        except AssertionError:
            assert b'"sha256"' not in path.read_bytes()  # as in a result of an older run
        path.write_bytes(sound)


def test_a_result_of_an_older_run_opens_as_before(run):
    result = {name: value for name, value in run.result.items() if name != "sha256"}
    (run.folder / "result.json").write_text(json.dumps(result))
    env = run.folder / "env.json"
    env.write_text(env.read_text().replace('"torch": "', '"torch": "9'))  # another value, and a valid one
    flip(run.folder / "model.safetensors")
    assert run.result == result
    evaluate(run, device="cpu")


def test_a_command_says_it_in_a_line(run, capsys):
    from pldistill.__main__ import main

    flip(run.folder / "metrics.jsonl")
    for line in (["evaluate", str(run.folder)], ["train", "--resume", "--out", str(run.folder), "--device", "cpu"]):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert end.value.code == 2
        assert "is damaged: expected SHA-256" in capsys.readouterr().err


def test_a_detector_and_what_it_found(tmp_path):
    run = pldistill.train(distilled(epochs=1), out=tmp_path / "run", device="cpu", workers=0)
    assert {"detections.json", "best/config.json"} <= set(run.result["sha256"])
    flip(run.folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged"):
        load_detector(run.folder)
    flip(run.folder / "detections.json")
    with pytest.raises(ValueError, match=r"detections\.json' is damaged"):
        run.record.read_result()


def with_right_sums(run):
    """The run's result again, with the sums of the files that are there now."""
    result = json.loads((run.folder / "result.json").read_text())
    del result["sha256"]
    run.record.write_result(result, files=[*FILES, *BEST])


def test_another_model_with_the_right_sums_is_refused_in_a_line(run, tmp_path):
    other = build("resnet20", num_classes=100)
    save_folder(other, tmp_path, classes=range(100), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=32)
    shutil.copy(tmp_path / "model.safetensors", run.folder)
    with_right_sums(run)
    for use in (lambda: evaluate(run, device="cpu"), lambda: predict(run, []), lambda: load_folder(run.folder)):
        with pytest.raises(ValueError, match=r"model\.safetensors does not fit the model: \d+ unexpected") as error:
            use()
        assert "\n" not in str(error.value)
    shutil.copy(tmp_path / "config.json", run.folder)
    with_right_sums(run)
    with pytest.raises(ValueError, match=r"expected the run's 100 classes \(0, 1, 2, \.\.\.\)"):
        evaluate(run, device="cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "detection"}, "unknown weight 'task'; known: "),
        ({"data": "digits"}, "expected the run's 100 classes"),
        ({"method": "nonsense"}, "unknown method 'nonsense'"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"epochs": 0}, "epochs: expected a whole number from 1"),
        ({"later": 3}, "unknown recipe field 'later'"),
    ],
)
def test_another_recipe_with_the_right_sums_is_refused_in_a_line(run, change, says):
    path = run.folder / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with_right_sums(run)
    with pytest.raises(ValueError, match=r"\S") as error:
        evaluate(run, device="cpu")
    assert str(path) in str(error.value) or "data" in change
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_modules_of_one_s_own(tmp_path):
    batches = [(torch.randn(8, 6), torch.arange(8) % 3)]
    how = {"out": tmp_path / "run", "epochs": 1, "device": "cpu"}
    run = pldistill.distill(torch.nn.Linear(6, 3), torch.nn.Linear(6, 3), batches, batches, **how)
    assert {"model.safetensors", "best/model.safetensors"} <= set(run.result["sha256"])
    flip(run.folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged"):
        pldistill.distill(torch.nn.Linear(6, 3), torch.nn.Linear(6, 3), batches, batches, resume=True, **how)


def test_a_large_file_is_read_in_parts(tmp_path):
    import hashlib

    data = bytes(range(256)) * 40_000  # more than two parts
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_nothing_is_checked_in_a_folder_without_a_result(tmp_path):
    check_run_files(tmp_path, FILES)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json' is damaged"):
        check_run_files(tmp_path, FILES)
