"""A teacher's first K tokens, stored: readable by anyone, made resumably, as good as the teacher within the bound."""

import os
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional

import pldistill
from pldistill.__main__ import main
from pldistill.launch import Interrupted
from pldistill.losses import kd, pld, pld_top_k_bound, teacher_top_k
from pldistill.recipe import make_recipe
from pldistill.tasks.base import Placement, make_task
from pldistill.teachers.cache import open_store, with_cache
from pldistill.training.cache_teacher import cache_teacher
from pldistill.types import NOT_PREDICTED
from tiny_stores import Watch
from tiny_texts import distilled, fields

K = 64


def make(teacher, text, out, places=K, callback=None):
    recipe = distilled(text, teacher, "kd", batch_size=8)
    return cache_teacher(
        recipe, out, views=1, places=places, temperature=1.0, device="cpu", workers=0, callback=callback or Watch()
    )


@pytest.fixture(scope="module")
def store(teacher, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "tokens"
    make(teacher, text, folder)
    return folder


def stored(text, store, method, **more):
    change = {"task_options": {"context": 16}, "teacher_cache": str(store), "method": method, **more}
    return make_recipe(fields(text, **change))


def both(teacher, text, store):
    """The live teacher's logits and the stored ones for a batch in training order, and the labels."""
    recipe = with_cache(stored(text, store, "kd"))
    task = make_task(recipe)
    live = task.open(recipe, download=False)
    asked = [task.teacher(recipe.model_copy(update={"teacher_cache": cache}), live) for cache in (None, str(store))]
    loader = task.loader(live.train, recipe, live, Placement(torch.device("cpu"), 0), train=True)
    batch = next(loader.epoch(3))
    return *(teacher(batch).logits for teacher in asked), batch.labels.flatten()


def test_it_holds_the_first_tokens_the_label_and_the_mass_of_the_rest(teacher, text, store):
    live, read, labels = both(teacher, text, store)
    log_p, log_q = live.log_softmax(1), read.log_softmax(1)
    top = live.topk(K - 1, dim=1).indices
    torch.testing.assert_close(log_q.gather(1, top), log_p.gather(1, top), rtol=0, atol=2e-3 * 16)
    rows = labels[:, None]
    torch.testing.assert_close(log_q.gather(1, rows), log_p.gather(1, rows), rtol=0, atol=2e-3 * 16)
    head = torch.cat([top, rows], 1)
    rest = [(1 - p.exp().scatter(1, head, 0).sum(1)) for p in (log_p, log_q)]
    torch.testing.assert_close(*rest, rtol=0, atol=5e-3)


def test_kd_from_it_is_that_from_the_teacher_within_the_rest_mass(teacher, text, store):
    live, read, labels = both(teacher, text, store)
    student = torch.randn(live.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    gradients = [torch.autograd.grad(kd(student, each.double(), temperature=1.0), student)[0] for each in (live, read)]
    head = read.topk(K, dim=1).indices
    mass = 1 - live.double().softmax(1).gather(1, head).sum(1)
    error = len(labels) * (gradients[0] - gradients[1]).abs().sum(1)
    assert (error <= 4 * mass + 0.02).all()  # and the rounding of the stored logits to 16 bits


def test_pld_of_the_first_ranks_from_it_is_that_from_the_teacher(teacher, text, store):
    live, read, labels = both(teacher, text, store)
    student = torch.randn(live.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (pld(student, each.double(), labels, top_k=8, reduction="none") for each in (read, live))
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)
    whole = pld(student, live.double(), labels, reduction="none")
    bound = pld_top_k_bound(student, teacher_top_k(live.double(), 8, labels), labels)
    assert (whole - theirs <= bound.loss + 1e-9).all()


def test_anyone_can_read_it(store):
    """As numpy has it, without this package: 8 bytes of two numbers, then K logits and K ids of 16 bits."""
    about = open_store(store)
    assert (about.rows, about.places, about.classes, about.views) == (16, K, 280, 1)
    kind = np.dtype([("top", "<f4"), ("logsumexp", "<f4"), ("logits", "<f2", (K,)), ("ids", "<u2", (K,))])
    records = np.fromfile(store / "view-0000.bin", kind).reshape(about.images, about.rows)
    log_p = records["logits"].astype(np.float64) / about.temperature - records["logsumexp"][..., None]
    mass = np.exp(log_p).sum(-1)
    assert (mass < 1.01).all()
    assert mass.mean() > 0.9
    assert (
        np.diff(records["logits"][..., 1:].astype(np.float64), axis=-1) <= 0
    ).all()  # behind the label, the best first


def test_made_with_stops_it_is_the_same_to_the_byte(teacher, text, store, tmp_path):
    def stop():
        os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "stopped"
    for _ in range(20):
        try:
            make(teacher, text, folder, callback=Watch(after=17, by=stop))
        except Interrupted:
            continue
        break
    else:
        raise AssertionError("it never ended")
    for name in ("view-0000.bin", "validation.bin"):
        assert (folder / name).read_bytes() == (store / name).read_bytes()


@pytest.mark.parametrize(("method", "options"), [("kd", {}), ("pld", {"top_k": 8})])
def test_a_student_of_any_seed_learns_from_it_as_from_the_teacher(teacher, text, store, tmp_path, method, options):
    recipe = stored(text, store, method, seed=1, options=options)
    read = pldistill.train(recipe, out=tmp_path / "read", device="cpu")
    live = pldistill.train(distilled(text, teacher, method, options=options), out=tmp_path / "live", device="cpu")
    for name, near in (("perplexity_last", 0.03), ("token_kl_last", 0.05), ("teacher_perplexity", 1e-3)):
        assert read.result[name] == pytest.approx(live.result[name], rel=near)
    assert read.record.read_environment()["teacher_cache"]["rows"] == 16


def test_the_command(teacher, text, tmp_path, capsys):
    line = ["cache", "--task", "language", "--data", f"text:{text},validation=8", "--teacher", str(teacher.folder)]
    options = ["--task-option", "context=16", "--views", "1", "--top-k", "8", "--temperature", "1", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        main([*line, *options, "--out", str(tmp_path / "store")])
    assert "finished: 1 views" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*line, *[o.replace("1", "2") if o == "1" else o for o in options], "--out", str(tmp_path / "two")])
    assert "views: expected 1" in capsys.readouterr().err


def test_the_end_of_the_validation_text_has_no_label(store, teacher, text):
    recipe = with_cache(stored(text, store, "kd"))
    task = make_task(recipe)
    data = task.open(recipe, download=False)
    cached, live = task.teacher(recipe, data), task.teacher(recipe.model_copy(update={"teacher_cache": None}), data)
    loader = task.loader(data.val, recipe, data, Placement(torch.device("cpu"), 0), train=False)
    nats = [0.0, 0.0]
    for batch in loader.epoch(0):
        for place, teacher_ in enumerate((cached.at_validation(), live)):
            logits = teacher_(batch).logits
            nats[place] += functional.cross_entropy(
                logits, batch.labels.flatten(), ignore_index=NOT_PREDICTED, reduction="sum"
            ).item()
    assert nats[0] == pytest.approx(nats[1], rel=1e-3)
