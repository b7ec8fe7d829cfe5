"""The run record: what a training run leaves behind in its folder, and all that reports ever read.

    recipe.json     what was asked for, complete: training again from it repeats the run
    env.json        what it ran on
    metrics.jsonl   one line an epoch, appended and synced, so a power cut costs one line at most
    result.json     the figures of a finished run, and the SHA-256 of its files; a folder without it holds an
                    unfinished one
    detections.json what a detector and its teacher found in the first validation images, which lie in images/
    overlays/       the first validation images with what a segmentation model and its teacher say of their pixels

`top1_last` and `top1_best` are the top-1 on the validation split after the last and after the best epoch. The best
epoch is the one with the highest top-1 there; where training images were held out (`validation=N`), the one with the
highest top-1 on those, and `holdout_last` and `holdout_best` are the top-1 on those after the same two epochs.

Numbers in these files are finite JSON: NaN and the infinities are written as null. `METRICS` says
what they are, by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from pydantic import Field, model_validator

from pldistill.files import check_digest, sha256, write_atomically
from pldistill.json_files import (
    Count,
    Digest,
    JsonFile,
    Number,
    parse_object,
    read_checked,
    read_object,
    read_regular,
    validate,
)
from pldistill.paths import kind_of, require_folder
from pldistill.recipe import Recipe, RecipeFile, make_recipe
from pldistill.tasks.registry import DEFAULT, METRICS, TASKS, find_task, task_of

if TYPE_CHECKING:
    import torch


# The files of a record beside its result, and those of the model: what result.json has the SHA-256 of.
TEXTS = ("recipe.json", "env.json", "metrics.jsonl", "detections.json")
MODEL = ("model.safetensors", "config.json")
OVERLAYS = "overlays"
MOST_FOLDERS = 10_000  # that `find_runs` looks into below one path
_RUNS = "a run folder or a folder of runs (recipe.json inside)"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "accelerate", "pldistill")


class EnvironmentFile(JsonFile):
    """What env.json must hold; `environment` makes the rest."""

    world_size: Annotated[int, Field(ge=1)]
    teacher_sha256: str | None
    teacher_cache: dict[str, Any] | None = None
    precision: str | None = None
    preflight: dict[str, Any] | None = None
    resumed: list[dict[str, Any]] = Field(default_factory=list)
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    device: str | None = None
    device_name: str | None = None
    started: str | None = None


class _WithFigures(JsonFile):
    """A file with the tasks' figures, under the names that the tasks give them."""

    @model_validator(mode="after")
    def _figures_are_numbers(self) -> Any:
        names = _figure_names()
        for name, value in (self.model_extra or {}).items():
            if name in names and (isinstance(value, bool) or not isinstance(value, (int, float, type(None)))):
                raise ValueError(f"{name}: expected a number or null, got {value!r}")
        return self


class TermFile(JsonFile):
    """A term of the loss in an epoch."""

    raw: Number | None = None
    weighted: Number | None = None


class EpochFile(_WithFigures):
    """What a line of metrics.jsonl must hold, beside the task's figures."""

    epoch: Annotated[int, Field(ge=1)]
    seconds: Number
    images_per_second: Number
    lr: Number | None = None
    loss: Number | None = None
    train_top1: Number | None = None
    terms: dict[str, TermFile] = Field(default_factory=dict)
    per_class: dict[str, Number | None] | None = None


class ResultFile(_WithFigures):
    """What result.json must hold, beside the task's figures: its score after the last epoch and after the best."""

    seconds: Number
    best_epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)] | None = None
    images_per_second: Number | None = None
    parameters: Count | None = None
    teacher_parameters: Count | None = None
    method: str | None = None
    student: str | None = None
    teacher: str | None = None
    data: str | None = None
    seed: int | None = None
    per_class: dict[str, Number | None] | None = None
    sha256: dict[str, Digest] | None = None

    @model_validator(mode="after")
    def _has_a_score(self) -> ResultFile:
        figures = self.model_extra or {}
        best = f"{task_of(figures).score}_best"
        if best not in figures:
            raise ValueError(f"{best}: expected a number or null, got none")
        return self


class _Box(JsonFile):
    """A box in an image: left, top, right and bottom in pixels."""

    box: Annotated[list[Number], Field(min_length=4, max_length=4)]
    name: str = Field(alias="class")
    score: Annotated[float, Field(ge=0, le=1)] | None = None


class _SeenImage(JsonFile):
    """What was found in an image, which lies below the run's folder."""

    file: Annotated[str, Field(pattern=r"^images(/([^/\\.][^/\\]*|\.[^/\\.][^/\\]*|\.\.[^/\\]+))+$")]  # no part is ".."
    truth: list[_Box]
    student: list[_Box]
    teacher: list[_Box] | None


class DetectionsFile(JsonFile):
    """What detections.json must hold."""

    images: list[_SeenImage]


def _figure_names() -> set[str]:
    """The names that the figures of all tasks have in an epoch's line or in result.json."""
    names = {"holdout_last", "holdout_best", "holdout_loss"}
    for task in TASKS.values():
        score = task.score
        names |= {*task.metrics, *(task.result_key(name) for name in task.metrics)}
        names |= {f"{score}_best", f"teacher_{score}", f"holdout_{score}"}
    return names


class RunRecord:
    """A run folder, for writing or for reading. Files alone: nothing is created before the first write.

    `folder` is where the four files of this module live. Readers raise ValueError, naming the file and the key, where
    one is missing or does not hold what it should.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"RunRecord({str(self.folder)!r})"

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        """Write recipe.json, atomically."""
        self._write("recipe.json", recipe)

    def read_recipe(self) -> dict[str, Any]:
        """What the run was asked to do."""
        return self._read("recipe.json", RecipeFile)

    def write_environment(self, env: dict[str, Any]) -> None:
        """Write env.json, atomically."""
        self._write("env.json", env)

    def read_environment(self) -> dict[str, Any]:
        """What the run ran on: the dict that `environment` made."""
        return self._read("env.json", EnvironmentFile)

    def write_result(self, result: dict[str, Any], files: Iterable[str] = ()) -> None:
        """Write result.json, atomically: from here on the run is finished.

        With `files`, names in the folder, it has the SHA-256 of those that are there, and of its own content.
        """
        digests = {name: sha256(self.folder / name) for name in files if (self.folder / name).is_file()}
        if digests:
            result = {**result, "sha256": digests}
            result["sha256"] = {**digests, "result.json": _own_digest(_finite(result, ""))}
        self._write("result.json", result)

    def read_result(self) -> dict[str, Any] | None:
        """The figures of a finished run, None for one that is not.

        Raises:
            ValueError: where result.json has the SHA-256 of the folder's JSON files, and one of them is missing or not
                what was written.
        """
        if not self.finished:
            return None
        result = self._read("result.json", ResultFile)
        digests = result.get("sha256") or {}
        if "result.json" in digests and (got := _own_digest(result)) != digests["result.json"]:
            path = str(self.folder / "result.json")
            raise ValueError(f"{path!r} is damaged: expected SHA-256 {digests['result.json']}, got {got}")
        for name in TEXTS:
            if name in digests:
                check_digest(self.folder / name, digests[name])
        return result

    def write_detections(self, found: dict[str, Any]) -> None:
        """Write detections.json, atomically."""
        self._write("detections.json", found)

    def read_detections(self) -> dict[str, Any] | None:
        """What was found in some images, None where the run left nothing of the kind."""
        path = self.folder / "detections.json"
        if kind_of(path) is None:
            return None
        found = read_object(path)
        found = {
            "images" if key == "pictures" else key: value for key, value in found.items()
        }  # as older runs wrote it
        validate(found, DetectionsFile, str(path))
        return found

    def overlays(self) -> list[Path]:
        """The PNGs that a segmentation run left, in order; none of another run."""
        return sorted((self.folder / OVERLAYS).glob("*.png"))

    @property
    def begun(self) -> bool:
        """Whether a run was begun in the folder: its recipe is there."""
        return kind_of(self.folder / "recipe.json") is not None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and wrote its result."""
        return kind_of(self.folder / "result.json") is not None

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl and sync it to the disk; a torn line left by a power cut is cut off first."""
        line = _encode(row, indent=None) + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        with path.open("a+b") as file:
            last = _last_line(file)
            if last and not _is_whole(last):
                file.truncate(file.seek(0, os.SEEK_END) - len(last))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def epochs(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl in order, none where the file is not there yet.

        A torn last line, as a power cut leaves it in a run that is not finished, is dropped; `problems` says so.

        Raises:
            ValueError: naming the file and the line: a bad line elsewhere, rows that do not count their epochs from 1
                on, and of a finished run fewer or more rows than its epochs.
        """
        rows = [self._row(line, number) for number, line in enumerate(self._whole_lines(), start=1)]
        if self.finished:
            planned = self._read("result.json", ResultFile).get("epochs")
            if planned is not None and len(rows) != planned:
                path = self.folder / "metrics.jsonl"
                raise ValueError(f"{path}: expected a row for each of the {planned} epochs, got {len(rows)} whole rows")
        return rows

    def problems(self) -> list[str]:
        """What is missing or torn in the folder of a run that is not finished, one line each; of a sound one nothing.

        Of a run that was killed this is no damage, and it goes on.
        """
        problems = []
        if not self.finished and (torn := len(self._lines()) - len(self._whole_lines())):
            problems.append(f"{self.folder / 'metrics.jsonl'}: the last line is torn and left out ({torn} line)")
        problems += [
            f"{self.folder / name}: is missing"
            for name in ("env.json", "metrics.jsonl")
            if self.begun and kind_of(self.folder / name) is None
        ]
        return problems

    def truncate(self, epochs: int) -> None:
        """Keep the first `epochs` rows, atomically: what a resumed run does with rows later than its checkpoint.

        Raises ValueError where `epochs` is negative or fewer rows than that were written.
        """
        lines = self._whole_lines()
        if not 0 <= epochs <= len(lines):
            path = self.folder / "metrics.jsonl"
            raise ValueError(f"epochs: expected 0 to {len(lines)}, the rows of {path}, got {epochs}")
        write_atomically(self.folder / "metrics.jsonl", b"".join(lines[:epochs]))

    def _write(self, name: str, content: dict[str, Any]) -> None:
        data = _encode(content, indent=2) + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, data)

    def _read(self, name: str, model: type[JsonFile]) -> dict[str, Any]:
        return read_checked(self.folder / name, model)

    def _lines(self) -> list[bytes]:
        path = self.folder / "metrics.jsonl"
        return [] if kind_of(path) is None else read_regular(path, str(path)).splitlines(keepends=True)

    def _whole_lines(self) -> list[bytes]:
        """The lines of metrics.jsonl without a last one that lost its end or its content."""
        lines = self._lines()
        if lines and not _is_whole(lines[-1]):
            lines.pop()
        return lines

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self.folder / 'metrics.jsonl'}, line {number}"
        row = parse_object(line, where)
        validate(row, EpochFile, where)
        if row["epoch"] != number:
            raise ValueError(f"{where}: expected the row of epoch {number}, got that of {row['epoch']!r}")
        return row


def load_run(path: Path | str) -> RunRecord:
    """The record in the run folder `path`; ValueError where there is none."""
    what = "a run folder (one that holds recipe.json)"
    require_folder(path, "path", what)
    record = RunRecord(path)
    if not record.begun:
        raise ValueError(f"path: expected {what}, got {str(path)!r}")
    return record


def stored_recipe(record: RunRecord) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        ValueError: naming recipe.json, where it is missing or is no recipe of this version's.
    """
    fields = record.read_recipe()
    try:
        return make_recipe(fields)
    except ValueError as error:
        raise ValueError(f"{record.folder / 'recipe.json'}: {error}") from None


def find_runs(paths: Iterable[Path | str]) -> list[RunRecord]:
    """The records in `paths`, each a run folder or a folder with run folders somewhere below it.

    In the order given and by name below it; a folder that is reached twice counts once. Links are followed.

    Raises:
        ValueError: naming a path that is no folder, that holds no run, or that has more than 10,000 folders in it.
    """
    found: dict[Path, RunRecord] = {}
    for path in paths:
        require_folder(path, "paths", _RUNS)
        below = _run_folders(Path(path))
        if not below:
            raise ValueError(f"paths: expected {_RUNS}, got {str(path)!r}, which has none")
        for folder in below:
            found.setdefault(folder.resolve(), RunRecord(folder))
    return list(found.values())


def environment(*, device: torch.device | str, world_size: int) -> dict[str, Any]:
    """What a run that starts now runs on: versions, machine, device, code.

    `commit` and `dirty` speak of the checkout that the package runs from, and are null and false where it was installed
    from a wheel. `cpu_capability` is what torch makes of the processor (`precision.cpu_capability`). `cuda` is the
    version that torch was built for, null off CUDA. `started` is ISO 8601, UTC.
    """
    import torch

    from pldistill.precision import cpu_capability

    device = torch.device(device)
    on_cuda = device.type == "cuda"
    cpu = _cpu_model()
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu,
        "cpu_capability": cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        **{name: _version(name) for name in _PACKAGES},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_cuda else cpu,
        "cuda": torch.version.cuda if on_cuda else None,
        "commit": commit,
        "dirty": commit is not None and bool(_git("status", "--porcelain", "--", ".")),
        "world_size": world_size,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _own_digest(result: dict[str, Any]) -> str:
    """The SHA-256 of a result's content, whatever its layout, without this digest itself."""
    others = {name: digest for name, digest in result["sha256"].items() if name != "result.json"}
    content = json.dumps({**result, "sha256": others}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _encode(content: dict[str, Any], indent: int | None) -> bytes:
    text = json.dumps(_finite(content, ""), indent=indent, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 reaches Python as lone surrogates; written as \udcXX they are JSON and come back.
    return text.encode("utf-8", errors="backslashreplace")


def _finite(value: Any, where: str) -> Any:
    """`value` with NaN and infinities as None; ValueError naming the key of anything that JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _finite(inner, f"{where}.{key}" if where else str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(f"{where}: expected what JSON can hold, got {type(value).__name__}: {value!r}")


def _last_line(file: BinaryIO) -> bytes:
    """A file's last line, from the last whole line's end on where it has none; a long file is not read for it."""
    at, tail = file.seek(0, os.SEEK_END), b""
    while at > 0 and b"\n" not in tail[:-1]:
        step = min(at, 1 << 16)
        at -= step
        file.seek(at)
        tail = file.read(step) + tail
    return tail[tail[:-1].rfind(b"\n") + 1 :]


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n") and _parses(line)


def _parses(content: bytes) -> bool:
    try:
        parse_object(content, "")
    except ValueError:
        return False
    return True


def _run_folders(root: Path) -> list[Path]:
    """Run folders at or below `root`, sorted; links are followed, a run folder is not searched further."""
    found, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True):
        try:
            status = os.stat(folder)  # noqa: PTH116 (in a large tree a Path each is half of the time)
        except OSError:  # gone in between
            continue
        place = (status.st_dev, status.st_ino)
        if place in seen or "recipe.json" in files:
            below.clear()
        if place not in seen and "recipe.json" in files:
            found.append(Path(folder))
        seen.add(place)
        if len(seen) + len(below) > MOST_FOLDERS:
            raise ValueError(
                f"paths: expected {_RUNS}, got {str(root)!r}, which has more than {MOST_FOLDERS:,} folders in it"
            )
    return sorted(found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """What git says in the package's own folder, None where git is missing or refuses.

    The GIT_ variables are dropped: inside a hook they would point at another repository.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, env=clean, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def last_of(result: Mapping[str, Any], metric: str) -> float | None:
    """A run's figure after its last epoch, in `result.json`; None where the run has none of this name."""
    return result.get(METRICS[metric].in_result or f"{metric}_last")


def score_in(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """The metric that a finished run is ranked by, and its figure after the last epoch."""
    score = task_of(result).score
    return score, last_of(result, score)


def percent(value: float | None) -> str:
    """A figure in percent; a detector that was shown nothing to find has none."""
    return "none" if value is None else f"{value:.2f} %"


def score_of(recipe: Mapping[str, Any]) -> str:
    """The metric that a run is ranked by."""
    return find_task(recipe.get("task", DEFAULT)).score


def duration(seconds: float) -> str:
    """Seconds as one reads them: `48 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
