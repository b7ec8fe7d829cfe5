"""A teacher that ran once answers as the one that is asked each time, in training too."""

import shutil
from dataclasses import replace

import pytest
import torch

import pldistill
from pldistill.data import make_loader, open_data
from pldistill.data.sampling import order
from pldistill.recipe import make_recipe
from pldistill.studies import find_study
from pldistill.studies.runner import commands
from pldistill.studies.study import plan
from pldistill.teachers.live import open_teacher
from pldistill.types import Mixture
from tiny_runs import CE, KillAt, Killed, assert_same_run, rows
from tiny_stores import SMALL, cached, close, make, opened, recipe_of, shown

# The answers


def test_every_image_of_every_epoch_is_answered_as_the_live_teacher_answers(store, teacher):
    asked, live = opened(store), open_teacher(recipe_of(teacher), open_data(SMALL))
    loader = shown(views=2)
    for epoch in range(4):
        for batch in loader.epoch(epoch):
            assert batch.view == epoch % 2
            outputs = asked(batch)
            assert not outputs.features
            assert outputs.logits.dtype == torch.float32
            close(outputs.logits, live(batch).logits)
    assert asked.fingerprint() == live.fingerprint()
    assert asked.count_parameters() == live.count_parameters()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_looks_its_own_part_up(store, teacher, rank):
    asked, live = opened(store), open_teacher(recipe_of(teacher), open_data(SMALL))
    for batch in shown(views=2, batch_size=25, rank=rank, world=2).epoch(1):
        close(asked(batch).logits, live(batch).logits)


def test_copies_of_a_image_are_answered_each_by_its_own_view(store, teacher):
    asked, live = opened(store, repeats=2), open_teacher(recipe_of(teacher), open_data(SMALL))
    batch = next(shown(views=2, repeats=2).epoch(3))
    assert batch.views.tolist() == [0, 1] * 16
    close(asked(batch).logits, live(batch).logits)
    own = asked(replace(batch, views=1 - batch.views)).logits
    assert not torch.allclose(own, live(batch).logits, atol=1e-3)


def test_validation_images_are_answered_with_every_class(few, teacher):
    live, data = open_teacher(recipe_of(teacher), open_data(SMALL)), open_data(SMALL)
    asked = opened(few).at_validation()
    batch = next(
        make_loader(
            data.val.subset(torch.arange(50, 90)),
            batch_size=40,
            image_size=32,
            augment=None,
            seed=0,
            shuffle=False,
            device=torch.device("cpu"),
        ).epoch(0)
    )
    assert asked.at_validation() is asked
    close(asked(batch).logits, live(batch).logits)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_images_are_answered_by_the_mixture_of_their_answers(store, share):
    asked, batch = opened(store), next(shown(views=2).epoch(1))
    partners = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    alone = asked(batch).logits
    mixed = asked(replace(batch, mixture=Mixture(partners, batch.labels[partners], share))).logits
    torch.testing.assert_close(mixed, share * alone + (1 - share) * alone[partners], rtol=0, atol=1e-5)
    # at any temperature it is the two answers' geometric mean
    tempered = share * (alone / 4).log_softmax(1) + (1 - share) * (alone / 4).log_softmax(1)[partners]
    torch.testing.assert_close((mixed / 4).softmax(1), tempered.softmax(1))


# The loader


def test_views_come_again_in_an_order_that_is_each_epoch_s_own():
    loader, endless = shown(views=2, batch_size=100), shown(batch_size=100)
    (third,), (first,) = loader.epoch(2), endless.epoch(0)
    ids = open_data(SMALL).train.ids
    assert torch.equal(third.ids, ids[order(0, 2, ids)])
    assert not torch.equal(third.ids, first.ids)
    places = third.ids.argsort(), first.ids.argsort()
    assert torch.equal(third.images[places[0]], first.images[places[1]])


def test_views_are_as_many_as_copies_at_least():
    with pytest.raises(ValueError, match="views: expected at least 3, one for each of an image's copies, got 2"):
        shown(views=2, repeats=3)
    with pytest.raises(ValueError, match="views: expected at least 3"):
        make_recipe({**CE, "views": 2, "repeats": 3})


# Training


def test_a_run_from_the_store_is_the_live_run_with_as_many_views(store, teacher, tmp_path):
    live = pldistill.train(recipe_of(teacher, views=2, epochs=3), out=tmp_path / "live", device="cpu", workers=0)
    run = pldistill.train(cached(store, epochs=3), out=tmp_path / "run", device="cpu", workers=0)
    for ours, theirs in zip(rows(run.folder), rows(live.folder), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-2)
        assert ours["teacher_top1"] == theirs["teacher_top1"]
    recipe, env = run.record.read_recipe(), run.record.read_environment()
    assert (recipe["views"], recipe["teacher"]) == (2, str(teacher.folder))
    assert env["teacher_cache"]["places"] == 100
    assert env["teacher_sha256"] == live.record.read_environment()["teacher_sha256"]
    assert run.result["teacher_parameters"] == live.result["teacher_parameters"]


@pytest.mark.parametrize(
    "change", [{"mixup": 0.4}, {"method": "pld", "options": {"temperature": 4}}], ids=["all", "few"]
)
def test_no_model_of_the_teacher_is_needed(teacher, tmp_path, change):
    moved = tmp_path / "teacher"
    shutil.copytree(teacher.folder, moved)
    store = tmp_path / "store"
    make(pldistill.load_run(moved), store, views=1, places=10 if change.get("method") else None)
    shutil.rmtree(moved)
    recipe = cached(store, epochs=1, batch_size=50, accumulate=2, **change)
    assert pldistill.train(recipe, out=tmp_path / "run", device="cpu", workers=0).result["kl_last"] > 0


def test_the_teacher_is_tried_from_its_stored_answers(store, tmp_path):
    with pytest.raises(ValueError, match="expected better than chance") as caught:
        pldistill.train(cached(store, trust_teacher=False), out=tmp_path / "run", device="cpu", workers=0)
    assert "of 100 validation images right" in str(caught.value)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(store, tmp_path, every_step):
    recipe = cached(store, views=1)
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu", workers=0)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        pldistill.train(recipe, out=part, device="cpu", workers=0, callback=KillAt(1, 2))
    pldistill.train(recipe, out=part, resume=True, device="cpu", workers=0)
    assert_same_run(whole.folder, part)
    assert whole.recipe.views == 1


def test_a_run_goes_on_from_its_own_store_alone(store, teacher, tmp_path, every_step):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        pldistill.train(cached(other), out=part, device="cpu", workers=0, callback=KillAt(0, 1))
    shutil.rmtree(other)
    make(teacher, other, views=2, places=20)
    with pytest.raises(ValueError, match="is not the one the run began with"):
        pldistill.train(cached(other), out=part, resume=True, device="cpu", workers=0)


# Studies


def laid_out(tmp_path, **change):
    return plan(
        find_study("table1"),
        out=tmp_path,
        data="cifar100:PATH",
        pairs=("resnet56-resnet20",),
        rows=("ce", "at", "kd"),
        **change,
    )


def test_a_study_reads_stores_where_logits_are_enough_and_shows_all_as_many_views(tmp_path):
    layout = laid_out(tmp_path, seeds=2, teacher_cache="stores/{teacher}-{seed}", views=30)
    ce, at, kd, *_, last = layout.cells
    assert [cell.recipe.views for cell in layout.cells] == [30] * 6
    assert (ce.recipe.teacher_cache, at.recipe.teacher_cache) == (None, None)
    assert kd.recipe.teacher_cache == "stores/resnet56-0"
    assert last.recipe.teacher_cache == "stores/resnet56-1"
    assert layout.label.endswith("30 augmented views of each image, in turn")
    (teacher,) = layout.teachers
    assert teacher.recipe.views is None
    live = laid_out(tmp_path, seeds=2)
    assert teacher.folder == live.teachers[0].folder
    assert not {cell.folder for cell in layout.cells} & {cell.folder for cell in live.cells}
    elsewhere = laid_out(tmp_path, seeds=2, teacher_cache="/mnt/{teacher}-{seed}", views=30)
    assert [cell.folder for cell in elsewhere.cells] == [cell.folder for cell in layout.cells]
    (line,) = [line for line in commands(layout) if "--method kd" in line and "--seed" not in line]
    assert "--teacher-cache stores/resnet56-0" in line
    assert "--views 30" in line


def test_a_study_with_stores_says_how_many_views_the_others_show(tmp_path):
    with pytest.raises(ValueError, match="teacher_cache: expected --views N beside it"):
        laid_out(tmp_path, teacher_cache="stores/{teacher}")
