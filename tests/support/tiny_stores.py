"""Stores of two hundred answers, and the runs that read them."""

import torch

from pldistill.data import make_loader, open_data, training_augment
from pldistill.recipe import make_recipe
from pldistill.tasks.base import make_task
from pldistill.teachers.cache import with_cache
from pldistill.training.cache_teacher import cache_teacher
from tiny_runs import CE, distill

SMALL = "glyphs:train=100,val=100"


class Watch:
    """Looks on, and may stop the making after so many images of this call."""

    def __init__(self, after=None, by=None):
        self.after, self.by, self.seen, self.done = after, by, 0, None

    def warn(self, message):
        """A teacher of one epoch is not worth a word."""

    def tell(self, message):
        """Nobody reads it."""

    def begin(self, about, done):
        self.about, self.done = about, done

    def asked(self, images):
        self.seen += images
        if self.after is not None and self.seen >= self.after:
            self.by()

    def end(self):
        self.ended = True


def recipe_of(teacher, **change):
    return distill(teacher, **{"data": SMALL, "epochs": 2, "batch_size": 32, **change})


def make(teacher, out, callback=None, views=2, places=None, temperature=4.0, **change):
    asked = recipe_of(teacher, **change)
    callback = callback or Watch()
    return cache_teacher(
        asked, out, views=views, places=places, temperature=temperature, device="cpu", workers=0, callback=callback
    )


def cached(store, **change):
    fields = {**CE, "data": SMALL, "epochs": 2, "method": "kd", "teacher_cache": str(store), **change}
    return make_recipe(fields)


def opened(store, **change):
    recipe = with_cache(cached(store, **change))
    data = open_data(recipe.data, image_size=recipe.image_size)
    return make_task(recipe).teacher(recipe, data)


def shown(views=None, repeats=1, batch_size=32, **change):
    """What the recipe's run sees of the training images."""
    recipe = make_recipe({**CE, "data": SMALL})
    data = open_data(SMALL)
    return make_loader(
        data.train,
        batch_size=batch_size,
        image_size=32,
        augment=training_augment(data, recipe.hflip),
        seed=recipe.seed,
        shuffle=True,
        device=torch.device("cpu"),
        views=views,
        repeats=repeats,
        **change,
    )


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def close(found, expected):
    """To float16's rounding of the distance from a row's largest, and what a batch's make-up does to a float32."""
    below = expected.amax(1, keepdim=True) - expected
    assert torch.all((found - expected).abs() <= below * 2.0**-11 + 1e-5)
