"""A state comes back bit for bit; the last two are kept, and one that is damaged is replaced by the one before."""

import hashlib
import io
import json
import shutil

import pytest
import torch
from safetensors.torch import save

import pldistill
from bad_json import NO_OBJECTS
from pldistill.recipe import make_recipe
from pldistill.training import checkpoint
from pldistill.training.loop import Loop
from pldistill.training.state import decode, encode
from tiny_runs import CE, KillAt, Killed, SilentCallback, assert_same_run, distill

TENSORS = {
    "bfloat16": torch.randn(5).bfloat16(),
    "none in it": torch.zeros(0, 3),
    "a number": torch.tensor(7),
    "bool": torch.tensor([True, False]),
    "not a number": torch.tensor([float("nan"), float("inf"), -0.0]),
    "float64": torch.randn(3, dtype=torch.float64),
    "generator": torch.get_rng_state(),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": torch.randn(4, 6).t(),
    "strided": torch.arange(10)[::3],
    "expanded": torch.ones(1).expand(4),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back(name):
    tensor = TENSORS[name]
    back = decode(encode({"x": tensor}))["x"]
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert back.contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8))
    if name in ("channels last", "transposed"):
        assert back.stride() == tensor.stride()


def test_a_tree_comes_back():
    tree = {
        0: {"lr": 0.1, "betas": (0.9, 0.999), "none": None, "amsgrad": False, "big": 2**70},
        "0": [1, [], {}, (), ""],
        "text": "Bäume",
        "infinite": float("-inf"),
    }
    assert decode(encode(tree)) == tree
    assert [type(key) for key in decode(encode(tree))] == [int, str, str, str]
    assert decode(encode({})) == {}


def test_an_optimizer_s_state_comes_back():
    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    back = decode(encode(state))
    assert back["param_groups"] == state["param_groups"]
    assert list(back["state"]) == [0, 1]
    assert all(torch.equal(back["state"][i][key], value) for i in (0, 1) for key, value in state["state"][i].items())


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": {1.5: 0}}, "state.a: expected keys that are texts or whole numbers, got 1.5"),
        ({"a": [0, {1}]}, r"state.a\[1\]: expected a tensor, number, text, list, tuple or dict, got set"),
    ],
)
def test_what_it_cannot_hold_is_named(state, says):
    with pytest.raises(ValueError, match=says):
        encode(state)


@pytest.mark.parametrize("data", [b"", b"x" * 64, encode({"x": 1})[:-4], encode({"x": torch.ones(3)})[:-4]])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="expected a state of a run"):
        decode(data)


def tree(content):
    """A state's bytes with another tree in them."""
    return save({}, metadata={"tree": content})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"tensor": 3}',
        '{"tensor": []}',
        '{"dict": 3}',
        '{"dict": [[[], 1]]}',
        '{"dict": [1]}',
        '{"odd": []}',
        "{}",
        '{"list": 3}',
        '{"list": [' * 100_000,
        '{"list": [' * 500 + "]}" * 500,
        "9" * 5000,
    ],
    ids=lambda content: content[:12],
)
def test_a_tree_of_another_form_is_refused_in_a_line(content):
    if content == "[]":  # a list is what no state is, but is one of JSON
        assert decode(tree(content)) == []
        return
    with pytest.raises(ValueError, match="expected a state of a run") as error:
        decode(tree(content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("data", [b"", b"x" * 64, b"(" * 1000, encode([1, 2]), encode({"x": 1})[:-4]])
def test_a_state_with_the_right_sum_and_another_content_is_refused_in_a_line(tmp_path, suffix, data):
    digest = hashlib.sha256(data).hexdigest()
    name = f"step-00000001-{digest[:8]}.{suffix}"
    (tmp_path / name).write_bytes(data)
    (tmp_path / checkpoint.INDEX).write_text(json.dumps({"file": name, "sha256": digest, "step": 1}))
    with pytest.raises(ValueError, match=rf"checkpoint: '.*{name}': expected a ") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", NO_OBJECTS)
def test_an_index_that_is_no_object_is_named(tmp_path, kind):
    (tmp_path / checkpoint.INDEX).write_bytes(NO_OBJECTS[kind][0])
    with pytest.raises(ValueError, match=r"index\.json' is damaged: expected a JSON object, got ") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"file": None}, "file"),
        ({"file": "../step-00000001-01234567.pt"}, "file"),
        ({"file": "/etc/passwd"}, "file"),
        ({"sha256": "0"}, "sha256"),
        ({"step": -1}, "step"),
        ({"step": "1"}, "step"),
        ({"before": []}, "before"),
        ({"before": {"file": "step-00000001-01234567.pt"}}, "before.sha256"),
    ],
)
def test_a_key_of_an_index_is_named(tmp_path, change, key):
    index = {"file": "step-00000001-01234567.pt", "sha256": "0" * 64, "step": 1}
    (tmp_path / checkpoint.INDEX).write_text(json.dumps({**index, **change}))
    with pytest.raises(ValueError, match=rf"index\.json' is damaged, key {key}: expected .*, got "):
        checkpoint.load(tmp_path)


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def two(tmp_path):
    """A folder with the states of steps 1, 2 and 3, of which the last two are kept."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, {"x": step, "weights": torch.full((50,), float(step))}, step=step)
    return tmp_path


def states(folder):
    return sorted(folder.glob("step-*"))


def test_a_damaged_one_is_replaced_by_the_one_before_with_a_note(two):
    older, newest = states(two)
    flip(newest)
    notes = []
    assert checkpoint.load(two)["x"] == 2  # a process that only reads changes nothing
    assert newest.exists()
    assert checkpoint.load(two, notes.append)["x"] == 2
    (note,) = notes
    assert f"'{newest}' is damaged: expected SHA-256" in note
    assert older.name in note
    checkpoint.save(two, {"x": 4}, step=4)
    assert [path.name[:13] for path in states(two)] == ["step-00000002", "step-00000004"]


def test_a_missing_one_is_replaced_too(two):
    states(two)[1].unlink()
    assert checkpoint.load(two, print)["x"] == 2


def test_both_damaged_are_named(two):
    for path in states(two):
        flip(path)
    with pytest.raises(ValueError, match=r"step-00000003.* is damaged.*step-00000002.* is damaged"):
        checkpoint.load(two)


def test_a_bit_of_the_index_costs_nothing(two):
    index = two / checkpoint.INDEX
    sound = index.read_bytes()
    for place in range(len(sound)):
        flip(index, place)
        assert checkpoint.load(two)["x"] in (2, 3), place
        index.write_bytes(sound)


def test_a_damaged_index_is_said_and_made_anew(two):
    (two / checkpoint.INDEX).write_text("{")
    notes = []
    assert checkpoint.load(two, notes.append)["x"] == 3
    assert checkpoint.load(two, notes.append)["x"] == 3
    (note,) = notes
    assert "index.json' is damaged: expected a JSON object, got '{' (" in note
    assert "; the run goes on from step-00000003" in note


def test_an_index_without_states_is_refused(two):
    for path in states(two):
        path.unlink()
    with pytest.raises(ValueError, match="which is missing"):
        checkpoint.load(two)
    (two / checkpoint.INDEX).write_text("{")
    with pytest.raises(ValueError, match=r"index\.json' is damaged"):
        checkpoint.load(two)


def test_what_others_put_there_stays_and_our_leftovers_go(two):
    (two / "mine").mkdir()
    (two / "mine" / "step-00000001-aaaaaaaa.safetensors").write_text("mine")
    (two / "step-00000009-aaaaaaaa.safetensors").mkdir()
    foreign = ["notes.txt", "step-best.pt", "model.safetensors", ".notes.txt.part", "step-00000007-copy.safetensors"]
    ours = ["step-00000001-0123abcd.pt", ".step-00000001-0123abcd.safetensors.part"]
    for name in (*foreign, *ours):
        (two / name).write_text("x")
    checkpoint.save(two, {"x": 4}, step=4)
    left = {path.name for path in two.iterdir()}
    assert {*foreign, "mine", "step-00000009-aaaaaaaa.safetensors"} <= left
    assert not set(ours) & left
    assert len(left) == len(foreign) + 2 + 3


def test_one_of_an_older_run_is_read(tmp_path):
    buffer = io.BytesIO()
    torch.save({"x": 1, "weights": {0: torch.ones(3)}}, buffer)
    data, name = buffer.getvalue(), "step-00000005-01234567.pt"
    (tmp_path / name).write_bytes(data)
    index = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "step": 5}
    (tmp_path / checkpoint.INDEX).write_text(json.dumps(index))
    assert checkpoint.load(tmp_path)["x"] == 1
    checkpoint.save(tmp_path, {"x": 2}, step=6)
    assert [path.name[:13] for path in states(tmp_path)] == ["step-00000005", "step-00000006"]
    flip(states(tmp_path)[1])
    assert checkpoint.load(tmp_path)["x"] == 1


class Notes(SilentCallback):
    """Keeps what it is warned of."""

    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


def killed(recipe, out):
    """A run that ended in its third epoch."""
    with pytest.raises(Killed):
        pldistill.train(recipe, out=out, device="cpu", callback=KillAt(2, 2))
    return out / "checkpoint"


def test_a_run_goes_on_from_the_one_before_bit_for_bit(teacher, tmp_path, every_step):
    recipe = distill(teacher, ema=0.9)
    pldistill.train(recipe, out=tmp_path / "whole", device="cpu")
    folder = killed(recipe, tmp_path / "cut")
    (folder / "notes").mkdir()
    (folder / "notes.txt").write_text("mine")
    flip(states(folder)[1])
    notes = Notes()
    torch.manual_seed(12345)
    pldistill.train(recipe, out=tmp_path / "cut", resume=True, device="cpu", callback=notes)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert sum("the run goes on from step-" in note for note in notes.said) == 1
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "notes").is_dir()


def test_a_run_without_a_sound_one_is_refused(teacher, tmp_path, every_step):
    recipe = distill(teacher)
    for path in states(killed(recipe, tmp_path / "cut")):
        flip(path)
    with pytest.raises(ValueError, match="is damaged: expected SHA-256"):
        pldistill.train(recipe, out=tmp_path / "cut", resume=True, device="cpu")


def test_a_checkpoint_is_of_its_recipe(tmp_path, every_step):
    recipe = make_recipe({**CE, "lr": 0.05})
    killed(recipe, tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    changed = {**json.loads(path.read_text()), "lr": 0.5}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"recipe\.json' has lr 0\.5, its checkpoint is of a run with 0\.05"):
        pldistill.train(make_recipe(changed), out=tmp_path / "run", resume=True, device="cpu")
    path.write_text(json.dumps(recipe.to_dict()))
    pldistill.train(recipe, out=tmp_path / "run", resume=True, device="cpu")


def replace_state(folder, change):
    """Put another state in the newest one's place, with the right sum and index."""
    state = checkpoint.load(folder)
    change(state)
    for path in folder.iterdir():
        path.unlink()
    checkpoint.save(folder, state, step=99)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("epoch"), "checkpoint: expected an epoch from 0 to 3 in its state, got None"),
        (lambda state: state.update(epoch=-1), "checkpoint: expected an epoch from 0 to 3 in its state, got -1"),
        (lambda state: state.update(epoch="2"), "checkpoint: expected an epoch from 0 to 3 in its state, got '2'"),
        (lambda state: state.pop("tally"), "does not fit the run: KeyError: 'tally'"),
        (lambda state: state.update(tally=3), "does not fit the run: "),
        (lambda state: state.update(rng=torch.ones(3)), "does not fit the run: "),
        (lambda state: state.update(optimizer={}), "does not fit the run: "),
        (lambda state: state["distiller"].popitem(), "does not fit the run: RuntimeError: "),
        (
            lambda state: state["distiller"].update({"student.model.conv1.weight": torch.ones(2)}),
            "does not fit the run",
        ),
        (lambda state: state.update(distiller=[1]), "does not fit the run: "),
        (lambda state: state.update(recipe=[1]), "checkpoint: expected a dict as recipe in its state, got [1]"),
        (lambda state: state["recipe"].update(student="resnet20"), "its checkpoint is of a run with 'resnet20'"),
    ],
)
def test_another_run_s_state_with_the_right_sum_is_refused_in_a_line(stopped, tmp_path, change, says):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    replace_state(run / "checkpoint", change)
    rows = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"\S") as error:
        pldistill.train(make_recipe(CE), out=run, resume=True, device="cpu")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert (run / "metrics.jsonl").read_bytes() == rows


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that ended in its third epoch; nobody writes to it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "LOOK_EVERY", -1.0)
        killed(make_recipe(CE), folder)
    return folder
