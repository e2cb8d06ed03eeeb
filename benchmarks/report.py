"""What all benchmarks print in the same way, and the mesh that they measure."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sidecar.local import control
from sidecar.local.meshfile import Mesh

_WIDTH = 132  # columns of the output where there is no terminal


def begin(what: str) -> None:
    """Print what is measured, by which command, on which machine."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg()[:2])
    print(f"{what}\n")
    print("command  python", *sys.argv)
    print(f"machine  {_processor()}, {os.cpu_count()} cores, {platform.system()}", end=" ")
    print(f"{platform.release()}, Python {platform.python_version()}")
    print(f"         {load} processes were running before (averages of 1 and 5 minutes)\n")


def table(title: str, *rows: Sequence[str], note: str = "") -> None:
    """Print rows below a title; the first one names the columns."""
    made = Table(title=title, title_justify="left", title_style="bold", caption=note or None)
    made.caption_justify = "left"
    for place, name in enumerate(rows[0]):
        made.add_column(name, justify="right" if place else "left")
    for row in rows[1:]:
        made.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(made)
    console.print()


def quantile(samples: Sequence[float], share: float) -> float:
    """The value that a share of the samples does not exceed, or NaN."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def ms(seconds: float, digits: int = 1) -> str:
    """A time in milliseconds."""
    return f"{seconds * 1000:.{digits}f} ms"


def spread(seconds: Sequence[float], digits: int = 0) -> str:
    """Least, median and largest of a few times, in milliseconds."""
    if not seconds:
        return "–"
    found = (min(seconds), quantile(seconds, 0.5), max(seconds))
    return " / ".join(f"{value * 1000:.{digits}f}" for value in found) + " ms"


@contextmanager
def mesh(instances: int) -> Iterator[Mesh]:
    """A local mesh while the context lasts; its logs are kept if it ends by an exception."""
    folder = Path(tempfile.mkdtemp(prefix="triton-sidecar-bench-"))
    try:
        made = control.detach(folder, [f"--dir={folder}", f"--instances={instances}"])
        try:
            yield made
        finally:
            control.down(folder)
    except BaseException:
        print(f"logs of the mesh: {folder / 'logs'}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
