"""`distill`: any modules and loaders of (inputs, labels), in the loop, with its record and its resume."""

import copy
import json
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

import pldistill
from pldistill.launch import Interrupted
from pldistill.training.progress import SilentCallback

CLASSES = 3


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centers = torch.eye(CLASSES, 8)[labels] * 3
    return centers + torch.randn(count, 8, generator=generator), labels


class Jittered(TensorDataset):
    """A data set whose samples draw from torch's global generator, as transforms do."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return v2.functional.to_dtype(x) + 0.1 * torch.randn(8), y


def loaders():
    train, val = Jittered(*samples(50, 0)), TensorDataset(*samples(30, 1))
    return DataLoader(train, batch_size=8, shuffle=True), DataLoader(val, batch_size=16)


def linear(seed, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES))


class Stop(SilentCallback):
    """Sends a SIGTERM at the second step of an epoch."""

    def __init__(self, epoch):
        self.at, self.seen = epoch, 0

    def begin(self, title, epochs, done, batches):
        self.epoch_now = done

    def epoch(self, row):
        self.epoch_now = row["epoch"]
        if self.epoch_now == self.at:
            signal.raise_signal(signal.SIGTERM)


def test_a_student_learns_and_leaves_a_run(tmp_path):
    teacher, student = linear(0), linear(1)
    with torch.no_grad():
        teacher[-1].weight.zero_()
    before = copy.deepcopy(teacher.state_dict())
    run = pldistill.distill(
        teacher, student, *loaders(), out=tmp_path / "run", method="ce", epochs=4, lr=0.1, device="cpu", amp="off"
    )
    rows = run.record.epochs()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert run.result["top1_last"] == rows[-1]["top1"] > 80
    # The figure is the student's own, as it stands now.
    inputs, labels = samples(30, 1)
    assert rows[-1]["top1"] == pytest.approx(100 * (student.eval()(inputs).argmax(1) == labels).float().mean().item())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_step_is_the_loss_written_out(tmp_path):
    """One batch, one epoch of SGD without momentum: the weights are those of the formula's gradient."""
    data = TensorDataset(*samples(12, 2))
    teacher, student = nn.Linear(8, CLASSES).eval(), nn.Linear(8, CLASSES)
    expected = copy.deepcopy(student)
    one = DataLoader(data, batch_size=12)
    pldistill.distill(
        teacher, student, one, one, out=tmp_path / "run", epochs=1, lr=0.5, momentum=0.0, weight_decay=0.0,
        schedule="constant", options={"temperature": 2.0}, device="cpu", amp="off",
    )  # fmt: skip
    inputs, labels = data.tensors
    loss = pldistill.losses.pld(expected(inputs), teacher(inputs).detach(), labels, temperature=2.0)
    loss.backward()
    for ours, theirs in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach() - 0.5 * theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    settings = {"epochs": 3, "lr": 0.05, "device": "cpu", "amp": "off", "seed": 5}
    whole, cut = linear(1, dropout=0.5), linear(1, dropout=0.5)
    pldistill.distill(linear(0), whole, *loaders(), out=tmp_path / "whole", **settings)
    torch.manual_seed(99)  # what was drawn before has no part in it
    with pytest.raises(Interrupted, match="stopped in epoch 2 of 3 after step 1"):
        pldistill.distill(linear(0), cut, *loaders(), out=tmp_path / "cut", callback=Stop(1), **settings)
    again = linear(7, dropout=0.5)  # its weights come from the checkpoint
    run = pldistill.distill(linear(0), again, *loaders(), out=tmp_path / "cut", resume=True, **settings)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    times = ("seconds", "images_per_second")
    first, second = (
        [
            {key: value for key, value in row.items() if key not in times}
            for row in map(json.loads, file.read_text().splitlines())
        ]
        for file in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "cut" / "metrics.jsonl")
    )
    assert first == second
    # A finished run is returned, and the student given its weights.
    fresh = linear(8, dropout=0.5)
    same = pldistill.distill(linear(0), fresh, *loaders(), out=run.folder, resume=True, **settings)
    assert same.result == run.result
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in whole.state_dict().items())


class Pairs:
    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


X = torch.randn(4, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": "resnet8"}, "student: expected a torch.nn.Module, got str"),
        ({"method": "pldd"}, "unknown method 'pldd'"),
        ({"method": "at"}, "method 'at' compares activations: expected a method of the logits"),
        ({"lrr": 0.1}, "unknown setting of distill 'lrr'; did you mean lr"),
        ({"lr": -1}, "lr"),
        ({"train_loader": iter([])}, "train_loader: expected an iterable with a length"),
        ({"train_loader": Pairs()}, "train_loader: expected at least one batch, got none"),
        ({"train_loader": Pairs((X,))}, "train_loader: expected pairs of tensors, inputs and labels"),
        ({"train_loader": Pairs((X, torch.zeros(4)))}, "train_loader: expected labels .N,. of an integer dtype"),
        ({"train_loader": Pairs((X, torch.zeros(3).long()))}, "N = 4 as the inputs have, got .3,."),
        ({"student": nn.Linear(9, 3)}, "student: cannot take inputs .4, 8."),
        ({"student": nn.Linear(8, 4)}, "teacher: expected the student's 4 classes, got 3"),
        ({"student": nn.Unflatten(1, (2, 4))}, "student: expected logits .4, C., got .4, 2, 4."),
    ],
)
def test_what_does_not_fit_is_refused_before_a_file_is_written(tmp_path, change, message):
    good = Pairs((X, torch.zeros(4, dtype=torch.int64)))
    fields = {"teacher": nn.Linear(8, 3), "student": nn.Linear(8, 3), "train_loader": good, "val_loader": good}
    with pytest.raises(ValueError, match=message):
        pldistill.distill(**{**fields, **change}, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_average_is_what_is_left_and_measured(tmp_path):
    student = linear(1)
    run = pldistill.distill(
        linear(0), student, *loaders(), out=tmp_path / "run", epochs=2, lr=0.1, ema=0.9, device="cpu", amp="off"
    )
    from safetensors.torch import load_file

    left = load_file(run.folder / "model.safetensors")
    assert set(left) == set(student.state_dict())
    assert not torch.equal(left["0.weight"], student.state_dict()["0.weight"])
