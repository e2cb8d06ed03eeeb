"""The time and memory of a model set's digest, and how long it delays the event loop.

A repository of one model with 1 GiB of weights, in one file and in 64, next to coreutils' sha256sum
of the same files. The files are sparse: they are read in full, but not from a disk, so the figures
are those of reading and hashing. Exit status 1 if a second scan of unchanged files reads anything.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks import report
from sidecar.models.manifest import files_digest
from sidecar.models.repository import Repository

_SIZE = 2**30  # bytes
_TURNS = 3
_TICK = 0.001  # seconds
_OLD = 3600.0  # seconds by which the clock is advanced, so that the files are not recent


class Took(NamedTuple):
    """Wall-clock seconds, and CPU seconds, which depend less on other processes."""

    clock: float
    processor: float


def make(folder: Path, count: int) -> dict[str, tuple[str, ...] | None]:
    """A repository of one model with `count` files of weights."""
    version = folder / "chat" / "1"
    version.mkdir(parents=True)
    (folder / "chat" / "config.pbtxt").write_text('backend: "python"\n')
    for number in range(count):
        with (version / f"weights-{number:02}").open("wb") as file:
            file.truncate(_SIZE // count)
    return {"chat": None}


def sha256sum(folder: Path) -> Took:
    """The times of coreutils' sha256sum."""
    files = map(str, sorted((folder / "chat" / "1").iterdir()))
    began = time.monotonic()
    child = subprocess.Popen(["sha256sum", *files], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    seconds = time.monotonic() - began
    return Took(seconds, used.ru_utime + used.ru_stime)


def ours(work: Callable[[], object]) -> Took:
    """The times of work in this process."""
    used, began = _processor(), time.monotonic()
    work()
    return Took(time.monotonic() - began, _processor() - used)


def memory(work: Callable[[], object]) -> str:
    """The peak memory of the work."""
    tracemalloc.start()
    try:
        work()
        return f"{tracemalloc.get_traced_memory()[1] / 2**20:.2f} MiB"
    finally:
        tracemalloc.stop()


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def longest_pause(work: Callable[[], object] | None) -> float:
    """The longest delay of a tick of the event loop, in seconds, while a thread does the work."""
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            late = max(late, time.monotonic() - due)

    ticking = asyncio.create_task(tick())
    await (asyncio.to_thread(work) if work else asyncio.sleep(3.0))
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    return late


def row(name: str, samples: list[Took], held: str = "") -> tuple[str, ...]:
    """A line of the table."""
    clock, processor = zip(*samples, strict=True)
    return name, report.spread(clock, 1), report.spread(processor, 1), held


def measure(count: int) -> bool:
    """Measure and print a repository with `count` files; whether the second scan read nothing."""
    with tempfile.TemporaryDirectory(prefix="triton-sidecar-bench-") as place:
        folder = Path(place)
        served = make(folder, count)

        def look(reader: Repository) -> Callable[[], object]:
            return lambda: files_digest(reader.read(served))

        def fresh() -> Repository:
            return Repository(folder, lambda: time.time() + _OLD)

        look(fresh())()  # the first one imports modules and fills caches
        peer, first, again = [], [], []
        read = 0
        for _ in range(_TURNS):
            reader = fresh()
            peer.append(sha256sum(folder))
            first.append(ours(look(reader)))
            read -= reader.bytes_read
            again.append(ours(look(reader)))
            read += reader.bytes_read
        held = memory(look(reader := fresh())), memory(look(reader))
        resting = asyncio.run(longest_pause(None))
        pause = asyncio.run(longest_pause(look(fresh())))
    report.table(
        f"1 GiB in {count} file{'s' if count > 1 else ''}",
        ("least / median / largest in ms", "by the clock", "CPU time", "extra memory"),
        row("sha256sum (baseline)", peer),
        row("first look", first, held[0]),
        row("second look", again, held[1]),
        note=f"The second looks read {read} bytes. A tick of the loop was late by at most "
        f"{report.ms(pause)} during a first look, by {report.ms(resting)} without.",
    )
    return read == 0


def main() -> int:
    """Run the benchmark; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    report.begin("What the digest of a model set takes")
    version = subprocess.run(["sha256sum", "--version"], capture_output=True, text=True, check=True)
    print(f"baseline {version.stdout.splitlines()[0]}\n")
    return 0 if all([measure(1), measure(64)]) else 1


if __name__ == "__main__":
    sys.exit(main())
