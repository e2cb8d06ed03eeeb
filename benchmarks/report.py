"""The common output of all benchmarks, and the mesh that they measure."""

import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sidecar.drill.environment import machine as machine
from sidecar.local import control
from sidecar.local.meshfile import Mesh
from sidecar.runtime.errors import SidecarError

_WIDTH = 150  # columns of the output without a terminal


def begin(what: str) -> None:
    """Print what is measured, with which command, on which machine."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg()[:2])
    print(f"{what}\n")
    print("command  python", *sys.argv)
    print(f"machine  {machine()}")
    print(f"         {load} processes were running before (averages of 1 and 5 minutes)\n")


def table(title: str, *rows: Sequence[str], note: str = "") -> None:
    """Print rows below a title; the first one names the columns."""
    print(title)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(rows[0]):
        made.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for row in rows[1:]:
        made.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(made)
    print(f"{note}\n" if note else "")


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is at least as large as `share` of them, or NaN."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else float("nan")


def ms(seconds: float, digits: int = 1) -> str:
    """A time in milliseconds."""
    return f"{seconds * 1000:.{digits}f} ms"


def spread(seconds: Sequence[float], digits: int = 0) -> str:
    """Minimum, median and maximum of a few times, in milliseconds without the unit."""
    if not seconds:
        return "not seen"
    found = (min(seconds), statistics.median(seconds), max(seconds))
    return " / ".join(f"{value * 1000:.{digits}f}" for value in found)


@contextmanager
def mesh(instances: int, *flags: str) -> Iterator[Mesh]:
    """Run a local mesh during the context. If that raises, the logs are kept.

    `flags` are more flags of `local up`.
    Errors of the mesh are printed and end the program with status 1.
    """
    folder = Path(tempfile.mkdtemp(prefix="triton-sidecar-bench-"))
    try:
        made = control.detach(folder, [f"--dir={folder}", f"--instances={instances}", *flags])
        try:
            yield made
        finally:
            control.down(folder)
    except BaseException as error:
        print(f"logs of the mesh: {folder / 'logs'}", file=sys.stderr)
        if isinstance(error, SidecarError):
            sys.exit(f"the benchmark failed: {error}")
        raise
    shutil.rmtree(folder)
