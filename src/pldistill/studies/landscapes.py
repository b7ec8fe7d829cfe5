"""Loss landscapes to files: around a random teacher, or around what the model of a run says about one image."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pldistill.data import make_loader, open_data
from pldistill.files import write_atomically
from pldistill.models import NormalizedModel
from pldistill.paths import require_new_or_folder
from pldistill.reports.landscape import (
    LOSSES,
    Plane,
    Surface,
    grids,
    landscapes,
    make_plane,
    numbers,
    random_teacher,
    reading,
    shown,
    surface,
)
from pldistill.reports.plots import write_figure
from pldistill.specs import unknown
from pldistill.training.run import load_run

METHODS = ("dist", "kd", "pld")  # Figure 4
TEMPERATURES = (2.0, 1.0, 0.5, 0.1)  # Figure 3


@dataclass(frozen=True)
class Sample:
    """One sample's logits: `teacher` (C,), its label, and in words where they are from."""

    teacher: Tensor
    label: int
    origin: str


def run_landscape(
    methods: Sequence[str],
    temperatures: Sequence[float],
    out: Path,
    *,
    classes: int = 100,
    seed: int = 0,
    label: int | str | None = None,
    run: Path | str | None = None,
    data: str | None = None,
    image: int = 0,
    points: int = 101,
    console: Console,
) -> list[Surface]:
    """Draw the losses around a teacher's logits, and print a line for each loss and temperature.

    Writes `landscape.json` (what was seen), `landscape.npz` (the grids, to draw them again) and figures as SVG and PNG:
    `methods-tau-T` has the methods at one temperature side by side, `METHOD-by-tau` a method at all temperatures.

    Args:
        methods: names in `reports.landscape.LOSSES`.
        temperatures: τ, each with every method.
        out: the folder, made where it is missing.
        classes: C of the random teacher; a run has its own.
        seed: of the random teacher and of the plane's directions.
        label: y: a class, or "argmax", the teacher's first choice. None is the image's own label, and the argmax of a
            random teacher.
        run: a run's folder whose model is the teacher; None for a random one, of length 1.
        data: the run's images, where they lie elsewhere by now.
        image: which image of their validation split.
        points: of the grid along a side, odd.
        console: where the lines go.

    Raises:
        ValueError: for an unknown method, a repeated or missing one, or a number that does not fit; nothing is written.
    """
    require_new_or_folder(out, "out")
    _check_distinct("methods", methods)
    _check_distinct("temperatures", temperatures)
    for method in methods:
        if method not in LOSSES:
            raise ValueError(unknown("loss", method, LOSSES))
    sample = _random(classes, seed, label) if run is None else _from_run(run, data, image, label)
    plane = make_plane(sample.teacher, sample.label, seed=seed, points=points)
    console.print(f"{sample.origin}, seed {seed}", highlight=False, soft_wrap=True)
    surfaces = []
    for method, temperature in product(methods, temperatures):
        surfaces.append(surface(plane, method, temperature))
        console.print(line(surfaces[-1]), highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    _write_numbers(out, plane, surfaces, {"origin": sample.origin, "seed": seed})
    _draw(out, plane, surfaces, f"{sample.origin}, seed {seed}")
    console.print(f"figures and numbers: {out}", highlight=False, soft_wrap=True)
    return surfaces


def line(seen: Surface) -> str:
    """One surface in a line: where its least value is, and what is at s = t."""
    least, center = reading(seen).split("\n")
    name, slope = f"{seen.method} τ={seen.temperature:g}", shown(seen.slope, 2).replace("-", "\N{MINUS SIGN}")
    seen_there = f"{center.removeprefix('+ ')} ({slope} in the plane), curvature {seen.curvature:.3g}"
    return f"{name:<12} {least.removeprefix('○ ')}; {seen_there}"


def _check_distinct(name: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected at least one, each once, got {', '.join(map(str, values)) or 'none'}")


def _random(classes: int, seed: int, label: int | str | None) -> Sample:
    teacher = random_teacher(classes, seed)
    y = _label("argmax" if label is None else label, teacher)
    return Sample(teacher, y, f"random teacher of {classes} classes, |t| = 1, label {_named(y, teacher)}")


@torch.no_grad()
def _from_run(folder: Path | str, data: str | None, image: int, label: int | str | None) -> Sample:
    """The logits of a run's model for one validation image, in float32 on the CPU."""
    run = load_run(folder)
    loaded = run.load()
    dataset = open_data(data or run.recipe.data, image_size=loaded.image_size, evaluation=True, exif=run.recipe.exif)
    if dataset.classes != loaded.classes:
        raise ValueError(f"data {dataset.spec!r}: expected the classes of run {str(run.folder)!r}, got others")
    split = dataset.val
    if not 0 <= image < len(split):
        raise ValueError(f"image: expected 0 to {len(split) - 1}, an image of the validation split, got {image}")
    loader = make_loader(
        split.subset([image]),
        batch_size=1,
        image_size=loaded.image_size,
        augment=None,
        seed=0,
        shuffle=False,
        device=torch.device("cpu"),
    )
    (batch,) = loader.epoch(0)
    teacher = NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std).eval()(batch.images).logits[0].double()
    y = _label(int(batch.labels) if label is None else label, teacher)
    origin = f"{loaded.architecture} of run {run.folder.name}, validation image {image}, {len(teacher)} classes"
    return Sample(
        teacher, y, f"{origin}, |t| = {float(teacher.norm()):.3g}, label {_named(y, teacher, loaded.classes)}"
    )


def _label(label: int | str, teacher: Tensor) -> int:
    """Read a label, as a number or in words."""
    if label == "argmax":
        return int(teacher.argmax())
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(teacher):
        raise ValueError(f"label: expected argmax or a class from 0 to {len(teacher) - 1}, got {label!r}")
    return label


def _named(label: int, teacher: Tensor, classes: Sequence[str] | None = None) -> str:
    name = f" ({classes[label]})" if classes else ""
    rank = 1 + int((teacher > teacher[label]).sum())
    return f"{label}{name}, the teacher's {'first choice' if rank == 1 else f'number {rank}'}"


def _write_numbers(out: Path, plane: Plane, surfaces: Sequence[Surface], about: dict[str, object]) -> None:
    text = json.dumps({**about, **numbers(plane, surfaces)}, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out / "landscape.json", f"{text}\n".encode())
    packed, arrays = io.BytesIO(), grids(plane, surfaces)
    np.savez_compressed(packed, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(out / "landscape.npz", packed.getvalue())


def _draw(out: Path, plane: Plane, surfaces: Sequence[Surface], origin: str) -> None:
    """A figure a temperature where there are several methods, and one a method where there are several temperatures."""
    caption = f"s = t + a d₁ + b d₂. t: {origin}. ○ the least value of the grid, + the teacher's own logits."
    by_temperature: dict[float, list[Surface]] = {}
    by_method: dict[str, list[Surface]] = {}
    for each in surfaces:
        by_temperature.setdefault(each.temperature, []).append(each)
        by_method.setdefault(each.method, []).append(each)
    if len(by_method) > 1 or len(by_temperature) == 1:
        for temperature, group in by_temperature.items():
            title = f"Loss landscapes at temperature {temperature:g}"
            write_figure(landscapes(plane, group, caption), out / f"methods-tau-{temperature:g}", title)
    if len(by_temperature) > 1:
        for method, group in by_method.items():
            title = f"Loss landscape of {method} by temperature"
            write_figure(landscapes(plane, group, caption, shared=True), out / f"{method}-by-tau", title)
