"""The verbs that use what a run left, predict and report; and cache, which runs a teacher once."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Any

import typer

from pldistill.cli.options import Device, Weights, Workers, console, positive, whole, with_fields
from pldistill.recipe import make_recipe
from pldistill.tasks.registry import DEFAULT, find_task

FIRST = 5  # classes of an image


def predict(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders of them, or quoted patterns, '**/*.jpg'.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table: a line for a class or a box.")] = False,
    score: Annotated[str | None, typer.Option(metavar="X", help="Least of a detector's boxes; default 0.5.")] = None,
    draw: Annotated[
        Path | None, typer.Option(help="A folder for images with a detector's boxes, or for masks.")
    ] = None,
    weights: Weights = "last",
) -> None:
    """Print each image's first five classes with their probabilities, a detector's boxes, or the classes of its pixels.

    A file that cannot be read is said at the end, and the others are answered; the exit code is then 2.
    """
    from pldistill.tasks.base import make_task
    from pldistill.training.run import load_run, model_folder

    if as_json and as_csv:
        raise ValueError("csv: expected --json or --csv, got both")
    opened = load_run(run)
    folder = model_folder(opened, weights)
    kind = opened.recipe.task_spec.predictions
    if kind is None:
        raise ValueError(f"predict: expected a run that says something of an image, got one of {opened.recipe.task}")
    for name, given, kinds in (("score", score, ("boxes",)), ("draw", draw, ("boxes", "masks"))):
        if given is not None and kind not in kinds:
            raise ValueError(f"{name}: expected a run that finds {' or '.join(kinds)}, got one of {opened.recipe.task}")
    images, unreadable = _readable(images)
    suffix = ".png" if kind == "masks" else ".jpg"
    least, files = _share("score", score, 0.5), [] if draw is None else _files(draw, images, suffix)
    answers = make_task(opened.recipe).predict(folder, images)
    if kind == "boxes":
        answers = [[box for box in boxes if box["score"] >= least] for boxes in answers]
    elif kind == "classes":
        answers = [classes[:FIRST] for classes in answers]
    if as_json:
        _print_json(images, answers, kind or "predictions")
    elif as_csv:
        _print_csv(images, answers, kind)
    else:
        for image, predictions in zip(images, answers, strict=True):
            console.print(_one_line(str(image)), soft_wrap=True)
            for line in [_line(prediction) for prediction in predictions] or ["nothing"]:
                console.print(f"  {_one_line(line)}", soft_wrap=True)
    if draw is not None and kind == "masks":
        _draw_masks(files, answers, silent=as_json or as_csv)
    elif draw is not None:
        _draw(files, images, answers, least, silent=as_json or as_csv, exif=opened.recipe.exif)
    if unreadable:
        raise ValueError(f"{len(unreadable)} of {len(images) + len(unreadable)} files: {'; '.join(unreadable)}")


def calibrate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[
        str | None, typer.Option(help="Data to fit the temperature on; default: what the run held out.")
    ] = None,
    device: Device = "auto",
    workers: Workers = "2",
    weights: Weights = "last",
) -> None:
    """Fit one number that a model's logits are divided by (temperature scaling); `predict` then uses it."""
    from pldistill.training.calibrate import calibrate
    from pldistill.training.run import load_run

    opened = load_run(run)
    figures = calibrate(opened, data=data, device=device, workers=whole("workers", workers, least=0), weights=weights)
    samples = opened.recipe.task_spec.samples
    fitted = figures["fitted_on"]
    console.print(
        f"temperature {figures['temperature']:.4f}, fitted on {figures['samples']:,} "
        f"{'' if data else 'held-out '}{samples}{f' of {fitted}' if data else ''}; "
        f"on {figures['measured_on'] if data else 'the validation ' + samples}: "
        f"cross-entropy {figures['nats']:.4f} -> {figures['nats_scaled']:.4f} nats, "
        f"ECE {figures['ece']:.2f} -> {figures['ece_scaled']:.2f} %",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _readable(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The images that were named, lie in a folder that was or fit a pattern, in order; and why others cannot be read.

    A file or folder whose own name holds `*`, `?` or `[` is itself, as in a shell where nothing fits a pattern.

    Raises:
        ValueError: for a folder without images or a pattern without files, and where no image can be read.
    """
    from pldistill.data.images import SUFFIXES, open_image

    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += _some(
                sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES),
                f"images: expected some in the folder {str(path)!r}, got none",
            )
        elif has_magic(str(path)) and not path.exists():
            files += _some(
                # Path.glob takes no absolute pattern.
                [match for match in map(Path, sorted(glob(str(path), recursive=True))) if not match.is_dir()],  # noqa: PTH207
                f"images: expected files that fit the pattern {str(path)!r}, got none",
            )
        else:
            files.append(path)
    good, bad = [], []
    for file in files:
        try:
            open_image(str(file))
            good.append(file)
        except ValueError as error:
            bad.append(str(error))
    if not good:
        raise ValueError("; ".join(bad))
    return good, bad


def _some(files: list[Path], refusal: str) -> list[Path]:
    if not files:
        raise ValueError(refusal)
    return files


def _one_line(text: str) -> str:
    """A name of one's own data, which may hold a line end."""
    return text.replace("\n", "\\n")


def _line(prediction: Mapping[str, Any]) -> str:
    """A class with its probability or its share of the pixels, or a box: score, class, left, top, right and bottom."""
    if "share" in prediction:
        return f"{100 * prediction['share']:6.2f} %  {prediction['class']}"
    if "probability" in prediction:
        return f"{100 * prediction['probability']:6.2f} %  {prediction['class']}"
    edges = " ".join(f"{edge:7.1f}" for edge in prediction["box"])
    return f"{prediction['score']:.3f}  {edges}  {prediction['class']}"


def _draw(
    files: Sequence[Path],
    images: Sequence[Path],
    answers: Sequence[Any],
    least: float,
    *,
    silent: bool,
    exif: bool,
) -> None:
    """Draw the boxes into the images, one file each."""
    from pldistill.data.images import open_image
    from pldistill.reports.boxes import draw_boxes, jpeg  # brings matplotlib

    for file, image, boxes in zip(files, images, answers, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(draw_boxes(open_image(str(image), exif=exif), boxes, least)))
        if not silent:
            console.print(f"drawn   {file}", soft_wrap=True)


def _draw_masks(files: Sequence[Path], answers: Sequence[Any], *, silent: bool) -> None:
    """Write the masks as PNGs of class indices, one file an image."""
    from pldistill.tasks.segmentation.predict import as_mask, index_image

    for file, plain in zip(files, answers, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(index_image(as_mask(plain)))
        if not silent:
            console.print(f"drawn   {file}", soft_wrap=True)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The page to write.")],
) -> None:
    """Write one self-contained HTML page: table, curves, environment, and images with what was found."""
    from pldistill.record import find_runs
    from pldistill.reports.html import write_report  # brings matplotlib

    console.print(str(write_report(find_runs(runs), out)), soft_wrap=True)


def _files(folder: Path, images: Sequence[Path], suffix: str) -> list[Path]:
    """Where each image is drawn, under its own name; under its folders too where names meet.

    Raises:
        ValueError: for an image that is given twice, one that would be overwritten, and a file in place of the folder.
    """
    from pldistill.tasks.detection.coco import files_for

    names = [image.name for image in images]
    if len({image.stem for image in images}) < len(images):
        whole = [image.absolute() for image in images]
        common = os.path.commonpath([image.parent for image in whole])
        names = [str(image.relative_to(common)) for image in whole]
    files = [folder / name for name in files_for(names, suffix)]
    for file, image in zip(files, images, strict=True):
        if files.count(file) > 1:
            raise ValueError(f"draw: expected each image once, got {str(image)!r} several times")
        if file.exists() and file.samefile(image):
            raise ValueError(f"draw: expected a folder other than the images' own, got {str(folder)!r}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"draw: expected a folder, got the file {str(folder)!r}")
    return files


def _print_json(images: Sequence[Path], answers: Sequence[Any], name: str) -> None:
    content = [{"image": str(image), name: answer} for image, answer in zip(images, answers, strict=True)]
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    print(json.dumps(content, indent=2, ensure_ascii=encoding != "utf8"))


def _print_csv(images: Sequence[Path], answers: Sequence[Any], kind: str | None) -> None:
    """A line for each class of an image, the most probable or the largest first, or for each box, the best first."""
    table = csv.writer(sys.stdout)
    boxes, figure = kind == "boxes", "share" if kind == "masks" else "probability"
    edges = ("left", "top", "right", "bottom")
    table.writerow(["image", "class", "score", *edges] if boxes else ["image", "class", figure])
    for image, answer in zip(images, answers, strict=True):
        for one in answer:
            figures = [one["score"], *one["box"]] if boxes else [one[figure]]
            table.writerow([image, one["class"], *figures])


def _share(name: str, text: str | None, default: float) -> float:
    """Read a number in [0, 1]."""
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {text!r}")
    return number


ANSWERS = (  # the fields of a recipe that decide what a teacher answers
    "data",
    "task",
    "task_options",
    "teacher",
    "teacher_checkpoint",
    "class_map",
    "trust_teacher",
    "image_size",
    "exif",
    "on_bad_image",
    "hflip",
    "unlabelled",
    "amp",
    "channels_last",
    "batch_size",
    "seed",
    "augment_seed",
)
_HELP = {
    "data": "The images, as cifar100:PATH. [bold]Required[/].",
    "teacher": "A run folder, NAME, NAME@FILE, ensemble:A+B. [bold]Required[/].",
    "batch_size": "Images asked about at a time. Default 256; 16 sequences of text.",
    "seed": "The runs' own, where they have no augment seed. Default 0.",
}


@with_fields(ANSWERS, _HELP)
def cache(
    fields: dict[str, Any],
    views: Annotated[str, typer.Option(metavar="N", help="Augmented versions of each training image.")],
    out: Annotated[Path, typer.Option(help="The teacher cache's folder; the same line resumes one that is begun.")],
    top_k: Annotated[str, typer.Option(metavar="K|all", help="Classes stored of a training image.")] = "all",
    temperature: Annotated[
        str, typer.Option(metavar="X", help="At which the mass of the others is exact: the method's.")
    ] = "4",
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR where it is missing.")] = False,
    device: Device = "auto",
    workers: Workers = "2",
) -> None:
    """Run a teacher once: store its answers, for `--teacher-cache` of train and reproduce."""
    from pldistill.training.cache_teacher import cache_teacher
    from pldistill.training.progress import CacheProgress

    for name in ("data", "teacher"):
        if name not in fields:
            raise ValueError(f"{name}: expected a value, got none")
    # Of a run's recipe only what decides the answers; they are for any student, and any method of the logits.
    at_once = find_task(fields.get("task", DEFAULT)).scored_at_once
    recipe = make_recipe({"batch_size": at_once, **fields, "student": "any", "method": "kd"})
    about = cache_teacher(
        recipe,
        out,
        views=whole("views", views, least=1),
        places=None if top_k == "all" else whole("top_k", top_k, least=1),
        temperature=positive("temperature", temperature),
        device=device,
        workers=whole("workers", workers, least=0),
        download=download,
        callback=CacheProgress(console),
    )
    console.print(f"finished: {about.views} views, {out}", soft_wrap=True)
