"""The verb of the command line that times losses on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from pldistill import bench
from pldistill.cli_studies import Spread, console, whole

app = typer.Typer(help="Time parts of the library on this machine.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Time parts of the library on this machine."""


@app.command(cls=Spread)
def losses(
    shape: Annotated[list[str] | None, typer.Option(metavar="NxC", help="Rows and classes; default five.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[str, typer.Option(metavar="N", help="Of torch.")] = "1",
    rounds: Annotated[str, typer.Option(metavar="N", help="How often each loss is timed.")] = "11",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[bool, typer.Option("--memory", help="Also the memory, of shapes of 10^6 logits.")] = False,
) -> None:
    """Time the losses of logits, forward and backward, beside plain eager KD (cross-entropy + tau^2 KL)."""
    shapes = [bench.read_shape(text) for text in shape] if shape else bench.SHAPES
    cases = [bench.Case(*each, dtype, device) for each in shapes]
    times, count = whole("rounds", rounds, least=1), whole("threads", threads, least=1)
    with bench.threads(count):
        for case in cases:
            for graph in (False, True) if device == "cuda" else (False,):
                found = bench.compare(bench.LOSSES, case, rounds=times, graph=graph, memory=memory and not graph)
                console.print(shown(found))


def shown(found: Sequence[Mapping[str, Any]]) -> Table:
    """The lines of one case as a table: medians, with quartiles; ratios are of the same round."""
    first = found[0]
    on = " on CUDA, as graphs" if first["mode"] == "graph" else {"cpu": "", "cuda": " on CUDA"}[first["device"]]
    title = f"{first['rows']} x {first['classes']}, {first['dtype']}{on}"
    parts = {"to_kd": f"/ {bench.KD}", "to_listing": "/ listing", "to_floor": "/ floor"}
    ratios = {name: head for name, head in parts.items() if any(line[name] is not None for line in found)}
    memory = any(line["bytes_per_logit"] is not None for line in found)
    table = Table("loss", title=title, box=None, title_justify="left", title_style="bold")
    for head in ("ms", "quartiles", *ratios.values(), *(["bytes/logit"] if memory else [])):
        table.add_column(head, justify="right")
    table.add_column("")
    for line in found:
        cells = [line["what"], *_milliseconds(line)]
        cells += ["" if line[name] is None else f"{line[name]:.2f}" for name in ratios]
        if memory:
            cells.append("" if line["bytes_per_logit"] is None else f"{line['bytes_per_logit']:.1f}")
        table.add_row(*cells, line["note"])
    return table


def _milliseconds(line: Mapping[str, Any]) -> tuple[str, str]:
    if line["seconds"] is None:
        return "", ""
    middle, low, high = (1000 * line[name] for name in ("seconds", "seconds_q1", "seconds_q3"))
    return f"{middle:.3g}", f"{low:.3g} to {high:.3g}"
