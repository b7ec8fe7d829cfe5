"""The tables of what was timed, from the committed CSVs of benchmarks/, for `write_results.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pldistill import bench
from pldistill.reports.render import Table, formatted, markdown, markdown_table
from pldistill.reports.runs import machine_name
from pldistill.studies.timetable import read_steps, steps_document
from pldistill.teachers.cache import RecordFormat

ROOT = Path(__file__).parents[1]
PLACE = ["device_name", "cpu_capability"]  # the kind of machine that a line was measured on; kinds are shown apart


def benchmark(name: str) -> pd.DataFrame:
    """The lines of a benchmark's CSV; what is not known is an empty text."""
    return pd.read_csv(ROOT / "benchmarks" / name, keep_default_na=False)


def github(cells: Mapping[str, Sequence[str]], words: Sequence[str] = ()) -> str:
    """Columns of texts by title as a GitHub table."""
    return markdown_table(Table.of(pd.DataFrame(cells), words=words))


def machine(lines: pd.DataFrame) -> str:
    """Where a benchmark's lines were measured, all on one machine, and at which commits."""
    first = lines.iloc[0]
    return f"{machine_name(first)}; torch {first['torch']}, commit {', '.join(lines['commit'].str[:10].unique())}"


def quartiles(low: pd.Series, high: pd.Series, form: str) -> list[str]:
    """`1.0 to 2.0`, empty where there are none."""
    return [
        first and f"{first} to {last}" for first, last in zip(formatted(low, form), formatted(high, form), strict=True)
    ]


def ratios(lines: pd.DataFrame, name: str) -> tuple[list[str], list[str]]:
    """A ratio's medians, and its quartiles."""
    return formatted(lines[name], ".2f"), quartiles(lines[f"{name}_q1"], lines[f"{name}_q3"], ".2f")


def steps_table() -> str:
    """Milliseconds a training step, from the benchmark's committed rows."""
    return markdown(steps_document(read_steps(ROOT / "benchmarks" / "steps-cpu.csv"))).strip()


def detection_steps_table() -> str:
    """Milliseconds a step of a detector by method, from the benchmark's committed rows."""
    lines = benchmark("detection-steps-cpu.csv")
    first = lines.iloc[0]
    cells = {
        "method": lines["row"],
        "ms": formatted(1000 * lines["seconds"], ".1f"),
        "quartiles": quartiles(1000 * lines["seconds_q1"], 1000 * lines["seconds_q3"], ".1f"),
        "to ce": formatted(lines["to_ce"], ".2f"),
    }
    return f"Batch {first['batch_size']}; rounds: {first['rounds']}; {machine(lines)}\n\n{github(cells)}"


def loader_table() -> str:
    """Images a second of the loader, the step and both, from the benchmark's committed rows."""
    lines = benchmark("loader-cpu.csv")
    first = lines.iloc[0]
    above = (
        f"{first['image']} JPEGs to {first['image_size']} x {first['image_size']}; step: {first['student']}, batch "
        f"{first['batch_size']}, amp {first['amp']}; rounds: {first['rounds']}; {machine(lines)}"
    )
    cells = {
        "what": lines["what"],
        "workers": formatted(lines["workers"], ".0f"),
        "images/s": formatted(lines["images_per_second"], ".1f"),
        "quartiles": quartiles(lines["q1"], lines["q3"], ".1f"),
    }
    return f"{above}\n\n{github(cells)}"


def full_table() -> str:
    """What the published protocol would take on the machine that was timed."""
    lines = benchmark("full-cpu.csv")
    cells = {
        "table": lines["table"],
        "runs of its own": lines["runs"].astype(str),
        "epochs": lines["epochs"].astype(str),
        "days": formatted(lines["days"], ",.0f"),
    }
    return f"{machine(lines)}\n\n{github(cells)}"


def losses_table() -> str:
    """Milliseconds of each loss by shape and over eager KD, a table for each dtype and number of threads."""
    lines = timed(benchmark("losses.csv"))
    lines["text"] = [
        f"{took} ({ratio})" for took, ratio in zip(lines["ms"], formatted(lines["to_kd"], ".2f"), strict=True)
    ]
    parts = []
    for _, group in lines.groupby([*PLACE, "dtype", "threads"], sort=False):
        first, texts = group.iloc[0], by_shape(group, "text")
        faster = formatted(1 / group.loc[group["what"] == "pld", "to_listing"].astype(float), ".1f")
        texts.loc["the listing's time over PLD's"] = faster
        bold = pd.DataFrame({"loss": texts.index == "the listing's time over PLD's"})
        table = markdown_table(Table.of(texts.reset_index(names="loss"), bold))
        parts += [f"{first['dtype']}; rounds: {first['rounds']}; {machine(group)}", table]
    return "\n\n".join(parts)


def memory_table() -> str:
    """The most bytes a logit that a call takes."""
    lines = measured(benchmark("losses.csv"))
    lines = lines.assign(shape=shapes(lines), text=formatted(lines["bytes_per_logit"], ".1f"))
    table = github(by_shape(lines, "text").reset_index(names="loss"))
    return f"{lines.iloc[0]['dtype']}; {machine(lines)}\n\n{table}"


def cost_table() -> str:
    """PLD, KD and the listing in short: one thread, float32."""
    names = {
        bench.LISTING: "PLD, the paper's listing",
        "pld": "PLD, pldistill",
        bench.KD: "KD, written out in PyTorch",
    }
    lines = benchmark("losses.csv")
    short = timed(lines)
    place = short.iloc[0][PLACE]
    short = short[(short["dtype"] == "float32") & (short["threads"] == 1) & short[PLACE].eq(place).all(axis=1)]
    memory = measured(lines)
    largest = memory.loc[memory["classes"].idxmax()]
    memory = memory[(memory["rows"] == largest["rows"]) & (memory["classes"] == largest["classes"])]
    texts = by_shape(short, "ms").loc[list(names)]
    head = f"bytes a logit, {largest['rows']} x {largest['classes']}"
    texts[head] = formatted(memory.groupby("what")["bytes_per_logit"].last()[list(names)], ".0f")
    return github(texts.rename(index=names).reset_index(names="ms"))


def measured(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines that have a memory."""
    return lines[lines["bytes_per_logit"] != ""]


def timed(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines of `bench.SHAPES` that were timed more than once, the last of each, the floor left out.

    In the order of machines, dtypes, threads and shapes; `ms` is the time to three digits.
    """
    order = {f"{rows} x {classes}": at for at, (rows, classes) in enumerate(bench.SHAPES)}
    lines = lines.assign(shape=shapes(lines))
    lines = lines[(lines["rounds"] > 1) & lines["shape"].isin(order) & (lines["what"] != bench.FLOOR)]
    identity = [*PLACE, "dtype", "threads", "what", "shape"]
    first = lines.drop_duplicates(identity).set_index(identity).index
    lines = lines.drop_duplicates(identity, keep="last").set_index(identity).loc[first].reset_index()
    milliseconds = 1000 * lines["seconds"]
    lines["ms"] = [f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in milliseconds]
    places = lines.groupby(PLACE, sort=False).ngroup()
    ranks = {"place": places, "dtype": lines["dtype"].map(list(bench.DTYPES).index), "threads": lines["threads"]}
    rank = pd.DataFrame({**ranks, "shape": lines["shape"].map(order)})
    return lines.loc[rank.sort_values(list(rank), kind="stable").index]


def shapes(lines: pd.DataFrame) -> pd.Series:
    """`rows x classes` of each line."""
    return lines["rows"].astype(str) + " x " + lines["classes"].astype(str)


def by_shape(lines: pd.DataFrame, text: str) -> pd.DataFrame:
    """A line a loss, a column a shape."""
    last = lines.drop_duplicates(["what", "shape"], keep="last")
    texts = last.pivot(index="what", columns="shape", values=text)
    return texts.reindex(lines["what"].unique(), columns=lines["shape"].unique()).fillna("")


def step_table() -> str:
    """Images a second of the loop beside a plain one and beside the models alone."""
    parts = []
    for _, lines in benchmark("step-cpu.csv").groupby([*PLACE, "amp"], sort=False):
        first = lines.iloc[0]
        plain, floor = ratios(lines, "to_plain"), ratios(lines, "to_floor")
        cells = [lines["what"], formatted(lines["images_per_second"], ".0f"), *plain, *floor]
        titles = ["what", "images/s", "to plain", "quartiles", "to the models alone", "quartiles"]
        parts += [
            f"{first['pair']}, {first['method']}, batch {first['batch_size']}, amp {first['amp']}; "
            f"rounds: {first['rounds']} of {first['steps']} steps; {machine(lines)}",
            markdown_table(Table.of(pd.DataFrame(list(zip(*cells, strict=True)), columns=titles))),
        ]
    return "\n\n".join(parts)


def cache_table() -> str:
    """Epochs with the live teacher and from its teacher cache, over those of cross-entropy alone."""
    parts = []
    for _, group in benchmark("cache-cpu.csv").groupby(["pair", *PLACE], sort=False):
        lines = group[group["part"] == "epoch"]
        first, (to_ce, spread) = lines.iloc[0], ratios(lines, "to_ce")
        cells = {
            "epoch": lines["what"],
            "method": lines["method"],
            "seconds": formatted(lines["seconds"], ".2f"),
            "to ce": to_ce,
            "quartiles": spread,
            "to the live teacher's": formatted(lines["to_live"], ".2f"),
        }
        parts += [
            f"{first['pair']}, batch {first['batch_size']}, amp {first['amp']}; "
            f"rounds: {first['rounds']} epochs of {first['steps']} steps with their validation; {machine(lines)}",
            github(cells, words=["method"]),
        ]
    return "\n\n".join(parts)


def store_table() -> str:
    """What a cache of CIFAR-100 takes: a record for each view of 50,000 images and for 10,000 validation ones."""
    whole, views = RecordFormat(classes=100, places=100), pd.Series([1, 10, 30, 240])
    cells = {"views": views.astype(str)}
    for title, form in (("every class", whole), ("20 of 100", RecordFormat(classes=100, places=20))):
        sizes = views * 50_000 * form.dtype.itemsize + 10_000 * whole.dtype.itemsize
        cells[f"{title} (MB)"] = formatted(sizes / 1e6, ",.1f")
    return github(cells)
