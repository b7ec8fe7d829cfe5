"""A teacher that was asked once answers as the one that is asked each time; what does not fit is refused at once."""

import json
import os
import shutil
import signal
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

import pldistill
from pldistill import answers, processes, storing
from pldistill.assemble import augmentation
from pldistill.contracts import Mixture
from pldistill.data import make_loader, open_data
from pldistill.data.random import order
from pldistill.interrupt import Interrupted
from pldistill.recipe import make_recipe
from pldistill.stored import open_stored, with_store
from pldistill.storing import store_answers
from pldistill.teachers import open_teacher
from tiny_runs import CE, KillAt, Killed, assert_same_run, distil, rows

SMALL = "glyphs:train=100,val=100"


class Watch:
    """Looks on, and may stop the making after so many pictures of this call."""

    def __init__(self, after=None, by=None):
        self.after, self.by, self.seen, self.done = after, by, 0, None

    def warn(self, message):
        """A teacher of one epoch is not worth a word."""

    def begin(self, about, done):
        self.about, self.done = about, done

    def asked(self, pictures):
        self.seen += pictures
        if self.after is not None and self.seen >= self.after:
            self.by()

    def end(self):
        self.ended = True


def recipe_of(teacher, **change):
    return distil(teacher, **{"data": SMALL, "epochs": 2, "batch_size": 32, **change})


def make(teacher, out, watch=None, views=2, places=None, temperature=4.0, **change):
    asked = recipe_of(teacher, **change)
    watch = watch or Watch()
    return store_answers(
        asked, out, views=views, places=places, temperature=temperature, device="cpu", workers=0, watch=watch
    )


def cached(store, **change):
    fields = {**CE, "data": SMALL, "epochs": 2, "method": "kd", "teacher_cache": str(store), **change}
    return make_recipe(fields)


def opened(store, **change):
    recipe = with_store(cached(store, **change))
    data = open_data(recipe.data, image_size=recipe.image_size)
    return open_stored(recipe, data, augmentation(recipe, data))


def shown(views=None, repeats=1, batch_size=32, **change):
    """What the recipe's run sees of the training pictures."""
    recipe = make_recipe({**CE, "data": SMALL})
    data = open_data(SMALL)
    return make_loader(
        data.train,
        batch_size=batch_size,
        image_size=32,
        augment=augmentation(recipe, data),
        seed=recipe.seed,
        shuffle=True,
        device=torch.device("cpu"),
        views=views,
        repeats=repeats,
        **change,
    )


@pytest.fixture(scope="module")
def store(teacher, tmp_path_factory):
    """Two views, all classes; nobody writes to it."""
    folder = tmp_path_factory.mktemp("stores") / "all"
    make(teacher, folder)
    return folder


@pytest.fixture(scope="module")
def few(teacher, tmp_path_factory):
    """Two views, ten of the classes, at temperature 4."""
    folder = tmp_path_factory.mktemp("stores") / "few"
    make(teacher, folder, places=10)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def close(found, expected):
    """To float16's rounding of the distance from a row's largest, and what a batch's make-up does to a float32."""
    below = expected.amax(1, keepdim=True) - expected
    assert torch.all((found - expected).abs() <= below * 2.0**-11 + 1e-5)


# The answers


def test_every_picture_of_every_epoch_is_answered_as_the_live_teacher_answers(store, teacher):
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


def test_copies_of_a_picture_are_answered_each_by_its_own_view(store, teacher):
    asked, live = opened(store, repeats=2), open_teacher(recipe_of(teacher), open_data(SMALL))
    batch = next(shown(views=2, repeats=2).epoch(3))
    assert batch.views.tolist() == [0, 1] * 16
    close(asked(batch).logits, live(batch).logits)
    own = asked(replace(batch, views=1 - batch.views)).logits
    assert not torch.allclose(own, live(batch).logits, atol=1e-3)


def test_validation_pictures_are_answered_with_every_class(few, teacher):
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
def test_mixed_pictures_are_answered_by_the_mixture_of_their_answers(store, share):
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
    with pytest.raises(ValueError, match="views: expected at least 3, one for each of a picture's copies, got 2"):
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


@pytest.mark.parametrize("change", [{"mixup": 0.4}, {"method": "pld"}], ids=["all", "few"])
def test_no_net_of_the_teacher_is_needed(teacher, tmp_path, change):
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
    assert "of 100 validation pictures right" in str(caught.value)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(store, tmp_path, every_step):
    recipe = cached(store, views=1)
    whole = pldistill.train(recipe, out=tmp_path / "whole", device="cpu", workers=0)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        pldistill.train(recipe, out=part, device="cpu", workers=0, watch=KillAt(1, 2))
    pldistill.train(recipe, out=part, resume=True, device="cpu", workers=0)
    assert_same_run(whole.folder, part)
    assert whole.recipe.views == 1


def test_a_run_goes_on_from_its_own_store_alone(store, teacher, tmp_path, every_step):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        pldistill.train(cached(other), out=part, device="cpu", workers=0, watch=KillAt(0, 1))
    shutil.rmtree(other)
    make(teacher, other, views=2, places=20)
    with pytest.raises(ValueError, match="is not the one the run began with"):
        pldistill.train(cached(other), out=part, resume=True, device="cpu", workers=0)


# Making a store


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("by", "how"), [(kill, Killed), (terminate, Interrupted)])
@pytest.mark.parametrize("after", [1, 64, 140, 260])
def test_a_store_that_was_stopped_goes_on_to_the_same_bytes(store, teacher, tmp_path, monkeypatch, by, how, after):
    monkeypatch.setattr(storing, "SYNC_EVERY", 0.0)
    with pytest.raises(how):
        make(teacher, tmp_path / "store", Watch(after, by))
    with pytest.raises(ValueError, match=r"is not finished: the line of `pldistill cache` that began it goes on"):
        opened(tmp_path / "store")
    watch = Watch()
    make(teacher, tmp_path / "store", watch)
    assert watch.done == 300 - watch.seen
    assert watch.seen < 300 or after == 1
    assert watch.ended
    assert files(tmp_path / "store") == files(store)


def test_a_plug_that_is_pulled_costs_what_was_not_yet_synced(store, teacher, tmp_path):
    with pytest.raises(Killed):
        make(teacher, tmp_path / "store", Watch(140, kill))
    part = tmp_path / "store" / ".view-0001.bin.part"
    part.write_bytes(part.read_bytes() + b"torn")
    make(teacher, tmp_path / "store", watch := Watch())
    assert watch.done == 100
    assert files(tmp_path / "store") == files(store)


def test_a_store_that_is_whole_is_left_alone_and_a_damaged_file_is_made_anew(store, teacher, tmp_path):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    make(teacher, other, watch := Watch())
    assert (watch.done, watch.seen) == (300, 0)
    (other / "view-0001.bin").write_bytes(b"short")
    make(teacher, other, watch := Watch())
    assert watch.seen == 100
    assert files(other) == files(store)


def test_a_store_takes_what_it_said(store):
    about = answers.open_store(store)
    sizes = about.sizes()
    assert sizes == {"view-0000.bin": 20800, "view-0001.bin": 20800, "validation.bin": 20800}
    assert {name: len(content) for name, content in files(store).items() if name != answers.HEADER} == sizes


def test_a_disk_without_room_is_refused_before_anything_is_asked(teacher, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda path: usage(62399))
    with pytest.raises(ValueError, match=r"out: expected 62,400 bytes free for .*, got 62,399"):
        make(teacher, tmp_path / "store", Watch(0, kill))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"views": 3}, "expected views 3, got 2"),
        ({"places": 5}, "expected places 5, got 100"),
        ({"seed": 4}, "expected seed 4, got 0"),
        ({"amp": "bf16"}, "expected amp 'bf16', got 'off'"),
        ({"batch_size": 50}, "expected batch_size 50, got 32"),
    ],
)
def test_a_folder_of_another_store_is_refused(store, teacher, change, says):
    with pytest.raises(ValueError, match=r"holds another store") as caught:
        make(teacher, store, **change)
    assert says in str(caught.value)


def test_what_cannot_be_made_is_refused(teacher, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="expected a store that `pldistill cache` made, got"):
        make(teacher, tmp_path / "full")
    with pytest.raises(ValueError, match="top_k: expected 1 to the data's 100 classes, or all, got 101"):
        make(teacher, tmp_path / "store", places=101)
    with pytest.raises(ValueError, match="expected better than chance"):
        make(teacher, tmp_path / "store", trust_teacher=False)
    with pytest.raises(ValueError, match="teacher: expected a run folder or a net's name, got none"):
        store_answers(make_recipe({**CE}), tmp_path / "store", views=1, device="cpu", watch=Watch())
    monkeypatch.setattr(processes, "launched", lambda: 2)
    with pytest.raises(ValueError, match="processes: expected one to make a store, got 2"):
        make(teacher, tmp_path / "store")


# What does not fit


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "expected answers for the run's seed, 1, got those for 0"),
        ({"amp": "bf16"}, "the run's amp, 'bf16', got those for 'off'"),
        ({"image_size": 40}, "the run's image_size, 40, got those for 32"),
        ({"hflip": True}, "the run's augmentation, "),
        ({"data": "digits"}, "the run's number of classes, 10, got those for 100"),
        ({"data": "glyphs:train=200,val=100"}, "the run's number of pictures, 200, got those for 100"),
        ({"data": "glyphs:train=100,val=100,seed=3"}, "the run's training pictures, 'glyphs:train=100,val=100,seed=3'"),
        ({"data": "glyphs:train=100,val=200"}, "the run's validation pictures, "),
        ({"teacher": "random:resnet8"}, "the run's teacher, 'random:resnet8', whose SHA-256 is "),
        ({"views": 3}, "views: expected at most the 2 of "),
        ({"repeats": 3}, "views: expected at least 3, one for each of a picture's copies, got 2"),
        ({"method": "at"}, "method 'at' compares activations, which a store does not hold"),
        ({"method": "ce"}, "method 'ce' asks no teacher, got teacher_cache="),
        ({"teacher_checkpoint": "x.pt"}, "teacher_checkpoint: expected none beside teacher_cache="),
        ({"class_map": "x.json"}, "class_map: expected none beside teacher_cache="),
        ({"teacher_cache": "nowhere"}, "teacher_cache: expected a store that `pldistill cache` made, got 'nowhere'"),
    ],
)
def test_a_run_whose_answers_are_not_there_is_refused(store, change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(**{"store": store, **change}) if "teacher_cache" not in change else opened(change["teacher_cache"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "dkd"}, "method 'dkd': expected a store of all classes (--top-k all), got the 10 of 100 in"),
        ({"method": "listmle"}, "the mass of the others is enough for kd, pld, without standardised logits"),
        ({"options": {"standardize": "both"}}, "method 'kd': expected a store of all classes"),
        ({"options": {"temperature": 2}}, "temperature: expected the store's, 4, at which"),
        ({"method": "pld", "mixup": 0.2}, "mixup and cutmix: expected a store of all classes"),
        ({"cutmix": 0.2}, "mixup and cutmix: expected a store of all classes"),
    ],
)
def test_a_method_that_needs_more_places_is_refused(few, change, says):
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(few, **change)
    assert says in str(caught.value)


@pytest.mark.parametrize("method", ["rkl", "js", "dist", "dkd", "pld", "plkl", "listmle", "plistmle"])
def test_every_method_of_the_logits_takes_a_store_of_all_classes(store, method):
    assert opened(store, method=method).about.form.whole


def test_a_teacher_trained_anew_in_its_folder_is_not_the_store_s(store, teacher, tmp_path, monkeypatch):
    recipe = with_store(cached(store))
    assert recipe.teacher == str(teacher.folder)
    data = open_data(SMALL)
    trained = open_teacher(recipe, data)
    monkeypatch.setattr(type(trained), "fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="whose SHA-256 is other, got those for"):
        open_stored(recipe, data, augmentation(recipe, data))


@pytest.mark.parametrize("name", ["view-0000.bin", "view-0001.bin", "validation.bin"])
def test_a_damaged_file_is_named(store, tmp_path, name):
    other = tmp_path / "store"
    shutil.copytree(store, other)
    content = bytearray((other / name).read_bytes())
    content[1234] ^= 1
    (other / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is damaged: expected SHA-256"):
        opened(other)
    (other / name).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name}' is damaged: expected 20800 bytes, got 20799"):
        opened(other)
    (other / name).unlink()
    with pytest.raises(ValueError, match=f"{name}', which is missing"):
        opened(other)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "about": {"teacher": "t"}}'])
def test_a_header_that_is_not_one_is_named(tmp_path, content):
    (tmp_path / answers.HEADER).write_text(content)
    with pytest.raises(ValueError, match=r"header\.json: expected a header of format 1; make the store anew"):
        answers.read_header(tmp_path)


def test_a_header_says_what_the_answers_depend_on(few):
    about = json.loads((few / answers.HEADER).read_text())["about"]
    assert (about["views"], about["places"], about["temperature"], about["tail"]) == (2, 10, 4.0, "even")
    assert (about["seed"], about["amp"], about["augment"]["crop"]) == (0, "off", "pad")
    assert len(about["teacher_sha256"]) == 64
