"""Two processes are one with their batches joined; what goes wrong in one of them is said once, and ends both."""

import json
import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console
from safetensors.torch import load_file

import pldistill
from places import SUPPORT
from pldistill import distributed, launch, models
from pldistill.data import TensorSplit, make_loader, open_data
from pldistill.data.loader import share
from pldistill.launch import Interrupts
from pldistill.recipe import make_recipe
from pldistill.studies import find_study
from pldistill.studies.runner import reproduce
from pldistill.studies.study import plan
from pldistill.tasks.base import make_task
from pldistill.tasks.detection.metrics import COLUMNS
from pldistill.training import build, checkpoint
from pldistill.training.progress import StudyProgress
from pldistill.training.run import evaluate
from two_processes import recipes

CLOCKS = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder that two processes have filled, what the launch said, and when it ended."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(5)
    torch.save(models.build("test_vit", num_classes=100, image_size=32).state_dict(), folder / "teacher.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SUPPORT / "two_processes.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    ended = time.time()
    assert (folder / "said-1.json").exists(), done.stderr
    return folder, done, ended


@pytest.fixture(scope="module")
def said(launched):
    return [json.loads((launched[0] / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


@pytest.mark.parametrize("name", recipes(Path(), 1))
def test_two_processes_come_to_the_weights_of_one(launched, tmp_path, name):
    folder = launched[0]
    alone = recipes(folder, 1)["kd" if name == "accumulated" else name]
    one = pldistill.train(make_recipe(alone), out=tmp_path / "one", device="cpu")
    ours, theirs = load_file(tmp_path / "one" / "model.safetensors"), load_file(folder / name / "model.safetensors")
    torch.manual_seed(0)
    start = models.build("test_vit", num_classes=100, image_size=32).state_dict()
    moved = max((ours[key] - start[key]).abs().max().item() for key in ours)
    apart = max((ours[key] - theirs[key]).abs().max().item() for key in ours)
    assert apart < 2e-6
    assert moved > 1e-3
    (mine,), (row,) = rows(one.folder), rows(folder / name)
    assert row["loss"] == pytest.approx(mine["loss"], rel=1e-5)
    for figure in ("train_top1", "top1", "top5", "val_loss", "kl"):
        assert row[figure] == pytest.approx(mine[figure], rel=1e-5, abs=1e-6)


def test_accumulated_batches_are_one_large_batch(launched, tmp_path):
    """In one process too; `clip_grad` and the average see whole steps, and the last step's batches are uneven."""
    cases = recipes(launched[0], 1)
    runs_of = [
        pldistill.train(make_recipe(cases[name]), out=tmp_path / name, device="cpu") for name in ("kd", "accumulated")
    ]
    large, parts = (load_file(run.folder / "model.safetensors") for run in runs_of)
    assert all((large[key] - parts[key]).abs().max() < 2e-6 for key in large)
    assert rows(runs_of[0].folder)[0]["lr"] == rows(runs_of[1].folder)[0]["lr"]
    steps = {json.loads((run.folder / "checkpoint" / checkpoint.INDEX).read_text())["step"] for run in runs_of}
    assert steps == {7}


def test_each_image_is_evaluated_once(launched, said):
    alone = evaluate(pldistill.load_run(launched[0] / "kd"), device="cpu")
    words = {name: alone.pop(name) for name in ("precision", "notes")}
    for one in said:
        assert {name: one["figures"].pop(name) for name in words} == words
        assert one["figures"] == pytest.approx(alone, rel=1e-6)


def test_two_processes_distil_a_detector(launched, said):
    """Each image is learned from once and scored once; the samplers draw for themselves in each process."""
    folder = launched[0] / "boxes"
    run = pldistill.load_run(folder)
    (row,) = run.record.epochs()
    assert set(row["terms"]) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "pld"}
    assert (run.record.read_environment()["world_size"], len(run.result["per_class"])) == (2, 12)
    alone = evaluate(run, device="cpu", workers=0)
    assert alone["images"] == 5
    measured = [name for name in COLUMNS if alone[name] is not None]
    assert "AP50" in measured
    for one in (*(each["boxes"] for each in said), run.result):
        assert {name: one[name] for name in measured} == pytest.approx({name: alone[name] for name in measured})


def test_a_signal_to_one_stops_both_and_the_run_goes_on_as_if_nothing_had_been(launched, said):
    folder = launched[0]
    for one in said:
        assert one["stop"].startswith("Interrupted: stopped in epoch 2 of 2 after step 2 of 4")
    assert rows(folder / "whole") == rows(folder / "cut")
    whole, cut = (load_file(folder / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    state = checkpoint.load(folder / "whole" / "checkpoint")
    assert state is not None
    (other,) = state["others"]
    assert not torch.equal(state["rng"], other["rng"])
    assert json.loads((folder / "cut" / "env.json").read_text())["world_size"] == 2


@pytest.mark.parametrize(("timed", "other"), [("timed", "whole"), ("timed dist joined", "dist joined")])
def test_a_run_that_is_timed_before_its_first_step_is_the_same(launched, timed, other):
    folder = launched[0]
    assert rows(folder / timed) == rows(folder / other)
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in (timed, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    states = [checkpoint.load(folder / name / "checkpoint") for name in (timed, other)]
    assert torch.equal(states[0]["rng"], states[1]["rng"])
    assert torch.equal(states[0]["others"][0]["rng"], states[1]["others"][0]["rng"])


def test_another_number_of_processes_does_not_resume(launched):
    run = pldistill.load_run(launched[0] / "killed")
    with pytest.raises(ValueError, match="resume: expected 2 processes, as the run began with, got 1"):
        pldistill.train(run.recipe, out=run.folder, device="cpu", resume=True)


def test_what_is_wrong_in_one_is_raised_in_both(said):
    wrong = "ValueError: expected bread, got stone"
    assert [one["everywhere"] for one in said] == [
        [wrong, f"RemoteProcessError: process 1 failed: {wrong}"],
        [f"RemoteProcessError: process 0 failed: {wrong}", wrong],
    ]
    assert [one["on_first"] for one in said] == [[7, wrong], [7, f"RemoteProcessError: process 0 failed: {wrong}"]]


def test_a_loss_that_is_not_finite_in_one_ends_both_at_its_step(said):
    wrong = "NonFiniteLoss: term 'kd' of the loss was not finite in epoch 2, step 7"
    assert [one["bad step"] for one in said] == [wrong, wrong]


def test_a_mistake_is_said_once(launched, said):
    assert [one[kind] for one in said for kind in ("usage", "input")] == ["SystemExit: 2"] * 4
    assert launched[1].stderr.count("No such option") == 1
    assert launched[1].stderr.count("out: expected a new or empty folder") == 1
    assert 'two_processes.py", line' not in launched[1].stderr  # the launcher's own traceback is all there is


def test_a_process_that_is_killed_ends_the_run_and_spares_the_checkpoint(launched):
    folder, done, ended = launched
    assert done.returncode != 0
    assert done.stderr.count("another process has ended") == 1
    index = folder / "killed" / "checkpoint" / checkpoint.INDEX
    assert ended - index.stat().st_mtime < 60
    state = checkpoint.load(index.parent)
    assert state is not None
    assert state["epoch"] == len(rows(folder / "killed")) == 1


def test_shares_are_even_and_leave_nothing_out():
    for count in range(3, 12):
        bounds = [share(count, rank, 3) for rank in range(3)]
        assert [place for low, high in bounds for place in range(low, high)] == list(range(count))
        assert {high - low for low, high in bounds} <= {count // 3, count // 3 + 1}


def test_a_launcher_may_repeat_a_signal():
    with Interrupts(patient=True) as interrupts:
        for _ in range(2):
            os.kill(os.getpid(), 2)
    assert interrupts.received == 2


CE = {"data": "glyphs:train=112,val=101", "student": "resnet8", "method": "ce", "epochs": 1}
FROM = {"teacher": "resnet8", "teacher_checkpoint": "some.pt"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relation": "local"}, r"relation: expected a method .*\(dist, skd, pkt, rkd, sp\), got 'ce'"),
        ({"method": "rkd", **FROM, "accumulate": 2}, "accumulate: expected 1 or relation='local'.*relation=None"),
        ({"method": "rkd", **FROM, "accumulate": 2, "relation": "global"}, "got accumulate=2, relation='global'"),
    ],
)
def test_fields_that_contradict_one_another_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_recipe({**CE, **fields})


def test_statistics_over_all_processes_need_gpus(tmp_path):
    with pytest.raises(ValueError, match="sync_batchnorm: expected GPUs, got 'cpu'"):
        pldistill.train(make_recipe({**CE, "sync_batchnorm": True}), out=tmp_path / "run", device="cpu")


def test_models_in_pieces_are_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match=r"accelerate: expected data-parallel processes \(DDP\), got FSDP"):
        build._check(accelerator, "off", "cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    with pytest.raises(ValueError, match=r"processes: expected at most this machine's .* GPUs, got 16"):
        pldistill.train(make_recipe(CE), out=tmp_path / "run", device="cuda")


def test_a_launch_whose_processes_do_not_meet_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="processes: expected the 2 that were launched to meet on 'cpu', got 1 alone"):
        build._check(Accelerator(cpu=True), "off", "cpu")


def test_mpi_names_its_processes_otherwise(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("MPI_LOCALNRANKS", "2")
    assert (launch.launched(), launch.launched_here(), distributed.rank()) == (4, 2, 3)
    assert not distributed.is_main_process()


def test_a_study_wants_one_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    layout = plan(find_study("cifar100-sgd"), out=tmp_path, scale="smoke")
    with pytest.raises(ValueError, match="processes: expected one for a study, got 2"):
        reproduce(layout, tmp_path, callback=StudyProgress(Console(quiet=True)))


def test_a_student_may_have_its_statistics_over_all_processes():
    recipe, dataset = make_recipe({**CE, "sync_batchnorm": True}), open_data(CE["data"])
    ours = make_task(recipe).student(recipe, dataset).model
    theirs = make_task(make_recipe(CE)).student(make_recipe(CE), dataset).model
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in ours.modules()) == sum(
        isinstance(module, torch.nn.BatchNorm2d) for module in theirs.modules()
    )
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def loader(count, batch_size, rank=0, world=1, shuffle=True):
    split = TensorSplit(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    device, how = torch.device("cpu"), {"image_size": 8, "augment": None, "seed": 3, "shuffle": shuffle}
    return make_loader(split, batch_size=batch_size, device=device, rank=rank, world=world, **how)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "batch_size"), [(24, 4), (31, 4), (25, 4), (27, 4), (7, 1), (3, 4), (35, 4)])
def test_the_batches_of_all_processes_are_one_order_cut_and_shared(count, batch_size, shuffle):
    loaders = [loader(count, batch_size, rank, 3, shuffle) for rank in range(3)]
    steps = list(zip(*(one.epoch(2) for one in loaders), strict=True))
    together = [torch.cat([batch.ids for batch in step]).tolist() for step in steps]
    alone = [batch.ids.tolist() for batch in loader(count, 3 * batch_size, shuffle=shuffle).epoch(2)]
    assert list(chain(*together)) == list(chain(*alone))
    assert [len(step) for step in together] == loaders[0].joined
    assert min(len(batch.ids) for step in steps for batch in step) >= (2 if shuffle and count > 7 else 1)
    if len(alone[-1]) >= 6 or len(alone) == 1:
        assert together == alone


def test_a_process_without_a_image_is_refused():
    with pytest.raises(ValueError, match="split: expected at least 4 images, one for each process, got 3"):
        loader(3, 2, rank=0, world=4)
