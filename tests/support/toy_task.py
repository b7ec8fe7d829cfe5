"""A task of one's own: whose band of brightness does each pixel lie in? What `docs/add_a_task.md` shows."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from pldistill.methods import METHODS
from pldistill.models import TaskModel
from pldistill.tasks.base import Loaded, Pair, Task, float32
from pldistill.tasks.spec import Metric, TaskSpec
from pldistill.types import Batch, Outputs

SPEC = TaskSpec(
    module=__name__,
    methods={name: METHODS[name] for name in ("ce", "kd", "pld")},
    metrics={"pixels": Metric("pixels", "pixels whose band is right, in percent", title="Pixels", in_progress=True)},
    score="pixels",
)


@dataclass(frozen=True)
class Images:
    values: torch.Tensor  # (N, 1, 8, 8) in [0, 1]

    def __len__(self):
        return len(self.values)

    def subset(self, indices):
        return Images(self.values[indices])


@dataclass(frozen=True)
class Bands:
    spec: str
    train: Images
    val: Images
    classes: tuple = ("dark", "gray", "bright")
    image_size: int = 8
    holdout: None = None
    skipped: dict = field(default_factory=dict)

    def notes(self):
        return []


class Loader:
    def __init__(self, images, size, seed):
        self.images, self.size, self.seed = images.values, size, seed
        self.joined = [len(part) for part in self.images.split(size)]

    def __len__(self):
        return len(self.joined)

    def epoch(self, view, start=0):
        generator = torch.Generator().manual_seed(0 if self.seed is None else 1000 * self.seed + view)
        count = len(self.images)
        order = torch.arange(count) if self.seed is None else torch.randperm(count, generator=generator)
        for ids in list(order.split(self.size))[start:]:
            bands = (self.images[ids] * 3).long().clamp(max=2)
            yield Batch(self.images[ids], bands.flatten(), ids, view)


class PixelModel(TaskModel):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):  # (N, 1, H, W) to a row of logits for each pixel
        return Outputs(self.model(images).movedim(1, 3).flatten(0, 2))

    def answer(self, batch):
        return self(batch.images)

    def around(self, model):
        return PixelModel(model)

    def probe(self, image_size):
        return self(torch.zeros(1, 1, image_size, image_size))


def build(width):
    return PixelModel(nn.Sequential(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Conv2d(width, 3, 1)))


class PixelTask(Task):
    spec, own, rows = SPEC, ("task",), "pixels"

    def open(self, recipe, *, download):
        values = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return Bands(recipe.data, Images(values[:64]), Images(values[64:]))

    def student(self, recipe, data):
        return build(int(recipe.student))

    def loader(self, split, recipe, data, place, *, train):
        return Loader(split, recipe.batch_size, recipe.seed if train else None)

    def pair(self, student, teacher, batch):
        answers, said = teacher and float32(teacher(batch)), float32(student(batch.images))
        hits, count = (said.logits.argmax(1) == batch.labels).sum(), torch.tensor(len(batch.labels))
        own = lambda: {"task": cross_entropy(said.logits, batch.labels)}  # noqa: E731
        return Pair(said, answers, batch.labels, own, hits, count)

    def validation(self, loaders, data, teacher, autocast):
        def right(model):
            (batch,) = Loader(data.val, len(data.val), None).epoch(0)
            return 100 * (model(batch.images).logits.argmax(1) == batch.labels).double().mean().item()

        known = None if teacher is None else right(teacher.members[0].model)
        return lambda model: {"pixels": right(model.eval()), "teacher_pixels": known}

    def save(self, model, folder, data, recipe):
        save_file(model.model.state_dict(), folder / "model.safetensors")

    def load(self, folder):
        state = load_file(Path(folder) / "model.safetensors")
        model = build(len(state["0.bias"]))
        model.model.load_state_dict(state)
        return Loaded(model.eval(), ("dark", "gray", "bright"), 8)


def make(recipe):
    return PixelTask()
