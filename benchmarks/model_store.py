"""The time and memory of `triton-sidecar model`, next to `cp -a` and rsync of the same files.

A model of one large file and many small ones is copied by each, and pushed into a store on the same
disk, pushed again, pulled by links and by copies, and verified; then a sparse one of the same size.
All that is written is synced before a time ends: by the store itself, else by `sync -f`. Memory is
the peak of the process, less that of `python -c pass`. `--bucket` adds a store on a real S3 server
on this machine. Exit status 1 if a pulled file differs, or memory exceeds 64 MB.
"""

import argparse
import filecmp
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from sidecar.runtime.amounts import in_bytes
from sidecar.settings.tables.gpu import parse_bytes
from tests.support import object_store

_SMALL = 200  # files
_SMALL_SIZE = 16 * 2**10  # bytes
_CHUNK = 2**20  # bytes
_EVERY = 0.01  # seconds
_MEMORY = 64e6  # bytes


@dataclass(frozen=True, slots=True)
class Took:
    """Wall-clock seconds, CPU seconds, and peak memory in bytes."""

    clock: float
    processor: float
    memory: int


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_bytes, default=parse_bytes("1GB"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--bucket", action="store_true", help="also a store on SeaweedFS")
    options = parser.parse_args()
    report.begin(f"A model of {in_bytes(options.size)}, copied, pushed and pulled")
    complaints = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        idle = run([sys.executable, "-c", "pass"], {}).memory
        for sparse in (False, True):
            work = Path(name) / ("sparse" if sparse else "real")
            work.mkdir()
            make(work / "chat", options.size, sparse)
            with bucket(work, options.bucket) as environment:
                found = measure(work, options.turns, environment)
            complaints += list(
                show("sparse files" if sparse else "real files", found, options, idle)
            )
            remove(work)
    print(*complaints, sep="\n")
    return 1 if complaints else 0


def make(folder: Path, size: int, sparse: bool) -> None:
    """A model with one large file, of random bytes or a hole, and many small ones."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"\n')
    with (folder / "1" / "weights.bin").open("wb") as file:
        if sparse:
            file.truncate(size)
        else:
            for _ in range(size // _CHUNK):
                file.write(os.urandom(_CHUNK))
        os.fsync(file.fileno())
    for number in range(_SMALL):
        (folder / "1" / f"part-{number:03}").write_bytes(os.urandom(_SMALL_SIZE))


def measure(work: Path, turns: int, environment: dict[str, str]) -> dict[str, list[Took]]:
    """Each way in each turn; alternately, so that all see the same machine."""
    found: dict[str, list[Took]] = {}
    for turn in range(turns):
        for name, commands, made in ways(work, turn, environment):
            os.sync()
            took = [run(command, environment) for command in commands]
            found.setdefault(name, []).append(total(took))
            if made is not None:
                compare(work / "chat", made)
                remove(made)
        remove(work / f"made-{turn}")
    return found


def remove(folder: Path) -> None:
    """Remove a folder, so that a large model does not need its size many times."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def ways(
    work: Path, turn: int, environment: dict[str, str]
) -> Iterator[tuple[str, list[list[str]], Path | None]]:
    """What is measured: a name, the commands, and the folder that has to equal the model."""
    chat, made = str(work / "chat"), work / f"made-{turn}"
    made.mkdir()
    sync = ["sync", "-f", str(made)]
    yield "cp -a", [["cp", "-a", chat, str(made / "cp")], sync], made / "cp"
    if shutil.which("rsync"):
        rsync = ["rsync", "-aS", f"{chat}/", str(made / "rsync")]
        yield "rsync -aS", [rsync, sync], made / "rsync"
    stores = [("", str(made / "store"))]
    if environment:
        stores.append((" (bucket)", f"s3://models/{turn}-{work.name}"))
    for where, store in stores:
        model = [sys.executable, "-m", "sidecar", "model"]
        to = ["--store", store]
        linked, copied = made / f"linked{where}", made / f"copied{where}"
        yield f"push{where}", [[*model, "push", "chat:v1", chat, *to]], None
        yield f"push again{where}", [[*model, "push", "chat:v1", chat, *to]], None
        if not where:
            pull = [*model, "pull", "chat:v1", "--to", str(linked), *to]
            yield "pull by links", [pull], linked
        pull = [*model, "pull", "chat:v1", "--copy", "--to", str(copied), *to]
        yield f"pull --copy{where}", [pull], copied
        yield f"verify{where}", [[*model, "verify", *to]], None


def run(command: Sequence[str], environment: dict[str, str]) -> Took:
    """Run a command, and fail if it does."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    memory = 0
    while True:
        memory = max(memory, peak(child.pid))
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(_EVERY)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return Took(time.monotonic() - began, used.ru_utime + used.ru_stime, memory)


def peak(pid: int) -> int:
    """The peak memory of a process so far; that of getrusage begins with its parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def total(took: Sequence[Took]) -> Took:
    return Took(
        sum(each.clock for each in took),
        sum(each.processor for each in took),
        max(each.memory for each in took),
    )


def compare(model: Path, made: Path) -> None:
    """Fail if a folder has other files."""
    names = sorted(path.relative_to(model) for path in model.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    for name in names:
        assert filecmp.cmp(model / name, made / name, shallow=False), name


def show(
    title: str, found: dict[str, list[Took]], options: argparse.Namespace, idle: int
) -> Iterator[str]:
    """Print a table, and give what is wrong."""
    base = statistics.median(took.clock for took in found["cp -a"])
    rows = [("", "median, s", "MB/s", "to cp -a", "CPU, s", "memory, MB")]
    for name, took in found.items():
        clock = statistics.median(each.clock for each in took)
        processor = statistics.median(each.processor for each in took)
        memory = max(each.memory for each in took) - idle
        rows.append(
            (
                *(name, f"{clock:.2f}", f"{options.size / clock / 1e6:.0f}"),
                *(f"{clock / base:.2f}", f"{processor:.2f}", f"{memory / 1e6:.0f}"),
            )
        )
        if memory > _MEMORY and not name.startswith(("cp", "rsync")):
            yield f"{title}: {name} took {in_bytes(memory)} of memory"
    report.table(f"{title}, {options.turns} turns", *rows)


@contextmanager
def bucket(work: Path, wanted: bool) -> Iterator[dict[str, str]]:
    """The environment for a real S3 server, empty if none is wanted."""
    if not wanted:
        yield {}
        return
    (folder := work / "server").mkdir()
    with object_store.running(folder) as server:
        yield server.environment


if __name__ == "__main__":
    sys.exit(main())
