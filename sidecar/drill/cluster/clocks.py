"""The wall clocks of a cluster's sidecars and control plane, each of which can be set.

They preload libfaketime, which adds what a file says to the wall clock, and leaves the monotonic
clock as it is. The machine's own clock stays untouched.

Acts: os, subprocess, time.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.local.planning.plan import Part

_KINDS = ("sidecar", "xds")
_SHARED = "FAKETIME_SHARED"
_HOUR = 3600
_NEAR = 60.0  # seconds by which two readings may differ on a busy machine
_LOOKED = "import time; time.sleep(0.001); print(time.time(), time.monotonic())"


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of the parts of a cluster.

    Attributes:
        folder: has a file for each of them that is not right.
        library: what a process preloads; None where clocks cannot be set.
        shared: the id of the memory that the processes share.
    """

    folder: Path
    library: Path | None = None
    shared: int = 0

    @property
    def settable(self) -> bool:
        """Whether they can be set."""
        return self.library is not None

    def of(self, part: Part) -> Part:
        """The part with a clock that can be set, if that is possible."""
        if part.kind not in _KINDS or not self.settable:
            return part
        return replace(part, env={**part.env, **self.environment(part.name)})

    def environment(self, name: str) -> dict[str, str]:
        """What makes the clock of a process the one of this name."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(clock_file(self.folder, name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            # A region of its own would stay in /dev/shm when a process is killed.
            _SHARED: f"/faketime_sem_{self.shared} /faketime_shm_{self.shared}",
        }


def clock_file(folder: Path, name: str) -> Path:
    """What a clock is ahead, as `+3600` for an hour; without the file it is right."""
    return folder / f".clock-{name}"


@contextmanager
def settable_clocks(folder: Path, library: Path | None) -> Iterator[Clocks]:
    """Clocks that can be set during the context, if there is a library and it works here."""
    if library is None:
        yield Clocks(folder)
        return
    # It creates the memory that all share, and removes it when its pipe is closed, which happens
    # at the latest at the end of this process.
    holder = subprocess.Popen(
        ["cat"],
        cwd=library.parent,
        env={name: text for name, text in os.environ.items() if name != _SHARED}
        | {"LD_PRELOAD": f"./{library.name}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _echoed(holder)
        # Its path may contain a space, which LD_PRELOAD takes for the end.
        library = Path(f"/proc/{holder.pid}/cwd/{library.name}")
        clocks = Clocks(folder, library, holder.pid)
        yield clocks if _work(clocks) else Clocks(folder)
    finally:
        holder.communicate()


def _echoed(holder: "subprocess.Popen[bytes]") -> None:
    """Wait until it runs, or has ended."""
    if holder.stdin and holder.stdout:
        with suppress(BrokenPipeError):
            os.write(holder.stdin.fileno(), b"\n")
        holder.stdout.readline()


def _work(clocks: Clocks) -> bool:
    """Whether a process sees another wall clock, and the monotonic one as it is."""
    file = clock_file(clocks.folder, "trial")
    file.write_text(f"+{_HOUR}\n")
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LOOKED],
            env={**os.environ, **clocks.environment("trial")},
            capture_output=True,
            check=False,
        )
    finally:
        file.unlink()
    try:
        wall, monotonic = map(float, done.stdout.split())
    except ValueError:
        return False
    ahead, off = wall - time.time(), monotonic - time.monotonic()
    return abs(ahead - _HOUR) < _NEAR and abs(off) < _NEAR
