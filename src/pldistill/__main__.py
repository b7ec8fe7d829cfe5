"""`pldistill` and `python -m pldistill`: run the command line, and turn what went wrong into one plain line."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from typing import Any, cast

import typer
from rich.console import Console

from pldistill import launch
from pldistill.cli import app, console
from pldistill.specs import visible

# Typer's own copy of click, or click itself in older versions: the classes are reached through Typer's public one.
UsageError: type[typer.BadParameter]
ClickException: type[typer.BadParameter]
UsageError, ClickException = cast(Any, typer.BadParameter.__mro__[1:3])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake to mend, 1 a run that failed, 128 + n stopped by signal n."""
    _open_streams()
    # The hub's client warns of each retry; what became of it in the end is said in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    console.quiet = not _speaks()
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="pldistill", standalone_mode=False)
    except typer.Abort:
        _fail("stopped", 130)
    except launch.Interrupted as stop:
        _fail(str(stop), 128 + stop.signal, speaks=_speaks())
    except ClickException as error:
        hint = " (see pldistill --help)" if isinstance(error, UsageError) else ""
        _fail(error.format_message() + hint, 2)
    except launch.RemoteProcessError as error:
        _fail(str(error), 2, speaks=False)
    except (ValueError, OSError) as error:
        _fail(_one_line(error), 2)
    except ArithmeticError as error:  # that the processes have told one another
        _fail(_one_line(error), 1, speaks=_speaks())
    except (RuntimeError, MemoryError) as error:
        if (spent := _spent(error)) is not None:
            _fail(spent, 1)
        if not (_met() and _distributed().is_peer_failure(error)):
            raise
        reason = _one_line(error).partition(". ")[0]
        _fail(f"process {launch.launched_rank()}: another process has ended or does not answer: {reason}", 1)
    except KeyboardInterrupt:
        _fail("stopped at once: what was not yet saved is lost", 130)
    else:
        if _met():
            _distributed().leave()
        sys.exit(code or 0)


def _open_streams() -> None:
    """Give the process three open streams that take any text.

    A file that is opened later would get the number of a stream that is closed, and what is printed would be in it. A
    text that a stream's encoding lacks, or a file name that is no UTF-8, is written with escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _distributed() -> Any:
    """The module that talks to the other processes: it brings torch, which a line that is refused does without."""
    from pldistill import distributed

    return distributed


def _met() -> bool:
    """Whether this process has met the others that a launcher started."""
    return "torch" in sys.modules and _distributed().world_size() > 1


def _speaks() -> bool:
    """Whether this is the process that writes and speaks."""
    return launch.launched_rank() == 0


def _spent(error: Exception) -> str | None:
    """What to say where memory ran out: here, on the device, or for a worker that the system then killed."""
    reason = _one_line(error)
    if "DataLoader worker" in reason:
        return (
            f"a process that reads images was killed, as systems do when memory runs out: try fewer --workers or a "
            f"smaller --batch-size; a run goes on from its last checkpoint with --resume ({reason})"
        )
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in reason
    ):
        return (
            "memory ran out: try a smaller --batch-size or --image-size; a run goes on from its last checkpoint with "
            f"--resume ({reason.partition('. ')[0] or type(error).__name__})"
        )
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _fail(message: str, code: int, speaks: bool | None = None) -> None:
    """Say what went wrong, once: what goes wrong before the processes have met goes wrong in all of them."""
    met = _met()
    if _speaks() or met if speaks is None else speaks:
        error = Console(stderr=True)
        error.print(f"pldistill: {visible(message)}", style="red", markup=False, highlight=False, soft_wrap=True)
    else:
        time.sleep(2 if met else 30)  # a launcher ends all at the first one's exit: that is the one that speaks
    sys.exit(code)


if __name__ == "__main__":
    main()
