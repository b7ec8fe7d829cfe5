"""The tables of what was timed, from the committed CSVs of benchmarks/, for `write_results.py`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pldistill import bench
from pldistill.reports.render import markdown
from pldistill.reports.runs import machine_name
from pldistill.studies.timetable import read_steps, steps_document
from pldistill.teachers.cache import RecordFormat

ROOT = Path(__file__).parents[1]
Line = Mapping[str, str]


def steps_table() -> str:
    """Milliseconds a training step, from the benchmark's committed rows."""
    return markdown(steps_document(read_steps(ROOT / "benchmarks" / "steps-cpu.csv"))).strip()


def detection_steps_table() -> str:
    """Milliseconds a step of a detector by method, from the benchmark's committed rows."""
    lines = benchmark("detection-steps-cpu.csv")
    shown = [
        f"Batch {lines[0]['batch_size']}; rounds: {lines[0]['rounds']}; {machine(lines[0])}",
        "",
        "| method | ms | quartiles | to ce |",
        "|---|---:|---:|---:|",
    ]
    for line in lines:
        middle, low, high = (1000 * float(line[name]) for name in ("seconds", "seconds_q1", "seconds_q3"))
        shown.append(f"| {line['row']} | {middle:.1f} | {low:.1f} to {high:.1f} | {float(line['to_ce']):.2f} |")
    return "\n".join(shown)


def loader_table() -> str:
    """Images a second of the loader, the step and both, from the benchmark's committed rows."""
    lines = benchmark("loader-cpu.csv")
    first = lines[0]
    shown = [
        f"{first['image']} JPEGs to {first['image_size']} x {first['image_size']}; step: {first['student']}, batch "
        f"{first['batch_size']}, amp {first['amp']}; rounds: {first['rounds']}; {machine(first)}",
        "",
        "| what | workers | images/s | quartiles |",
        "|---|---:|---:|---:|",
    ]
    for line in lines:
        middle, low, high = (float(line[name]) for name in ("images_per_second", "q1", "q3"))
        shown.append(f"| {line['what']} | {line['workers']} | {middle:.1f} | {low:.1f} to {high:.1f} |")
    return "\n".join(shown)


def full_table() -> str:
    """What the published protocol would take on the machine that was timed."""
    lines = benchmark("full-cpu.csv")
    shown = [
        machine(lines[0]),
        "",
        "| table | runs of its own | epochs | days |",
        "|---|---:|---:|---:|",
    ]
    shown += [f"| {line['table']} | {line['runs']} | {line['epochs']} | {float(line['days']):,.0f} |" for line in lines]
    return "\n".join(shown)


def benchmark(name: str) -> list[Line]:
    """The lines of a benchmark's CSV."""
    with (ROOT / "benchmarks" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def machine(*lines: Line) -> str:
    """Where a benchmark's lines were measured, all on one machine, and at which commits."""
    commits = ", ".join(dict.fromkeys(line["commit"][:10] for line in lines))
    return f"{machine_name(lines[0])}; torch {lines[0]['torch']}, commit {commits}"


def losses_table() -> str:
    """Milliseconds of each loss by shape and over eager KD, a table for each dtype and number of threads."""
    parts = []
    kinds = groupby(timed(benchmark("losses.csv")), key=lambda line: (place(line), line["dtype"], line["threads"]))
    for _, group in kinds:
        lines = list(group)
        parts += [f"{lines[0]['dtype']}; rounds: {lines[0]['rounds']}; {machine(*lines)}", ""]
        parts += by_shape(lines, lambda line: f"{milliseconds(line)} ({float(line['to_kd']):.2f})")
        faster = [f"{1 / float(line['to_listing']):.1f}" for line in lines if line["what"] == "pld"]
        parts += [f"| **the listing's time over PLD's** | {' | '.join(faster)} |", ""]
    return "\n".join(parts).strip()


def memory_table() -> str:
    """The most bytes a logit that a call takes."""
    lines = [line for line in benchmark("losses.csv") if line["bytes_per_logit"]]
    shown = by_shape(lines, lambda line: f"{float(line['bytes_per_logit']):.1f}")
    return "\n".join([f"{lines[0]['dtype']}; {machine(*lines)}", "", *shown])


def cost_table() -> str:
    """PLD, KD and the listing in short: one thread, float32."""
    lines = benchmark("losses.csv")
    known = timed(lines)
    first = place(known[0])
    short = [line for line in known if (line["dtype"], line["threads"], place(line)) == ("float32", "1", first)]
    names = {
        bench.LISTING: "PLD, the paper's listing",
        "pld": "PLD, `pldistill`",
        bench.KD: "KD, written out in PyTorch",
    }
    measured = [line for line in lines if line["bytes_per_logit"]]
    rows, classes = max(((line["rows"], line["classes"]) for line in measured), key=lambda pair: int(pair[1]))
    memory = {
        line["what"]: float(line["bytes_per_logit"])
        for line in measured
        if (line["rows"], line["classes"]) == (rows, classes)
    }
    head = f"bytes a logit, {rows} x {classes}"
    shown = [f"| ms | {' | '.join(shapes(short))} | {head} |", f"|---|{'---:|' * (1 + len(shapes(short)))}"]
    for what, name in names.items():
        cells = [milliseconds(line) for line in short if line["what"] == what]
        shown.append(f"| {name} | {' | '.join(cells)} | {memory[what]:.0f} |")
    return "\n".join(shown)


def timed(lines: Iterable[Line]) -> list[Line]:
    """The lines of `bench.SHAPES` that were timed more than once, the last of each, the floor left out.

    In the order of machines, dtypes, threads and shapes.
    """
    order = [(str(rows), str(classes)) for rows, classes in bench.SHAPES]
    last: dict[tuple[str, ...], Line] = {}
    for line in lines:
        shape = line["rows"], line["classes"]
        if int(line["rounds"]) > 1 and shape in order and line["what"] != bench.FLOOR:
            last[(*place(line), line["dtype"], line["threads"], line["what"], *shape)] = line
    dtypes, places = list(bench.DTYPES), list(dict.fromkeys(place(line) for line in last.values()))
    return sorted(
        last.values(),
        key=lambda line: (
            places.index(place(line)),
            dtypes.index(line["dtype"]),
            line["threads"],
            order.index((line["rows"], line["classes"])),
        ),
    )


def place(line: Line) -> tuple[str, str]:
    """The kind of machine that a line was measured on; kinds are shown apart."""
    return line["device_name"], line["cpu_capability"]


def milliseconds(line: Line) -> str:
    """To three digits."""
    value = 1000 * float(line["seconds"])
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def shape(line: Line) -> str:
    return f"{line['rows']} x {line['classes']}"


def shapes(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(map(shape, lines)))


def by_shape(lines: Sequence[Line], cell: Callable[[Line], str]) -> list[str]:
    """A row a loss, a column a shape."""
    columns = shapes(lines)
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        rows.setdefault(line["what"], {})[shape(line)] = cell(line)
    shown = [f"| loss | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, cells in rows.items():
        shown.append(f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |")
    return shown


def step_table() -> str:
    """Images a second of the loop beside a plain one and beside the models alone."""
    parts = []
    for _, group in groupby(benchmark("step-cpu.csv"), key=lambda line: (place(line), line["amp"])):
        lines = list(group)
        first = lines[0]
        parts += [
            f"{first['pair']}, {first['method']}, batch {first['batch_size']}, amp {first['amp']}; "
            f"rounds: {first['rounds']} of {first['steps']} steps; {machine(first)}",
            "",
            "| what | images/s | to plain | quartiles | to the models alone | quartiles |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for line in lines:
            cells = [line["what"], f"{float(line['images_per_second']):.0f}"]
            for name in ("to_plain", "to_floor"):
                cells += ratio(line, name)
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).strip()


def cache_table() -> str:
    """Epochs with the live teacher and from its teacher cache, over those of cross-entropy alone."""
    parts = []
    for (pair, _), group in groupby(benchmark("cache-cpu.csv"), key=lambda line: (line["pair"], place(line))):
        lines = [line for line in group if line["part"] == "epoch"]
        first = lines[0]
        parts += [
            f"{pair}, batch {first['batch_size']}, amp {first['amp']}; "
            f"rounds: {first['rounds']} epochs of {first['steps']} steps with their validation; {machine(first)}",
            "",
            "| epoch | method | seconds | to ce | quartiles | to the live teacher's |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for line in lines:
            seconds = f"{float(line['seconds']):.2f}"
            cells = [line["what"], line["method"], seconds, *ratio(line, "to_ce"), ratio(line, "to_live")[0]]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).strip()


def ratio(line: Line, name: str) -> list[str]:
    """A ratio's median and quartiles, two empty cells where it has none."""
    if not line[name]:
        return ["", ""]
    low, middle, high = (float(line[name + end]) for end in ("_q1", "", "_q3"))
    return [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]


def store_table() -> str:
    """What a cache of CIFAR-100 takes: a record for each view of 50,000 images and for 10,000 validation ones."""
    whole = RecordFormat(classes=100, places=100)
    shown = ["| views | every class (MB) | 20 of 100 (MB) |", "|---:|---:|---:|"]
    for views in (1, 10, 30, 240):
        sizes = [
            views * 50_000 * form.dtype.itemsize + 10_000 * whole.dtype.itemsize
            for form in (whole, RecordFormat(classes=100, places=20))
        ]
        shown.append(f"| {views} | {' | '.join(f'{size / 1e6:,.1f}' for size in sizes)} |")
    return "\n".join(shown)
