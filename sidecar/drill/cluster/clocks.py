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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.drill.cluster.holder import Holder
from sidecar.local.planning.plan import Part
from sidecar.runtime.errors import Unavailable

_KINDS = ("sidecar", "xds")
_SHARED = "FAKETIME_SHARED"
_SHM = Path("/dev/shm")  # noqa: S108 -- where the kernel keeps it
_HOUR = 3600
_TRIAL = 30.0  # seconds for one process to start and end on a busy machine
_SHOWN = 300  # characters of what a process said
_NEAR = 60.0  # seconds by which two readings may differ on a busy machine
_LOOKED = "import time; time.sleep(0.001); print(time.time(), time.monotonic())"


@dataclass(frozen=True, slots=True)
class WallClocks:
    """The clocks of the parts of a cluster.

    Attributes:
        folder: has a file for each of them that is not right.
        library: what a process preloads.
        shared: the id of the memory that the processes share.
    """

    folder: Path
    library: Path
    shared: int

    @property
    def memory(self) -> tuple[Path, ...]:
        """The files of that memory."""
        names = f"faketime_shm_{self.shared}", f"sem.faketime_sem_{self.shared}"
        return tuple(_SHM / name for name in names)

    def of(self, part: Part) -> Part:
        """The part with a clock that can be set, if it is one whose clock matters."""
        if part.kind not in _KINDS:
            return part
        return replace(part, env={**part.env, **self.environment(part.name)})

    def environment(self, name: str) -> dict[str, str]:
        """What makes the clock of a process the one of this name."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(clock_file(self.folder, name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its fix for waits on a faked monotonic clock lets real ones end at once: threads that
            # wait for Python's lock would take all of the processor.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
            # Separate memory would stay in /dev/shm when a process is killed.
            _SHARED: f"/faketime_sem_{self.shared} /faketime_shm_{self.shared}",
        }


def clock_file(folder: Path, name: str) -> Path:
    """What a clock is ahead, as `+3600` for an hour; without the file it is right."""
    return folder / f".clock-{name}"


@contextmanager
def settable_clocks(folder: Path, library: Path | None) -> Iterator[WallClocks]:
    """Clocks that can be set during the context.

    Raises:
        Unavailable: they cannot be set here; the message says why.
    """
    if library is None:
        raise Unavailable("libfaketime is missing; `make setup` fetches it for x86-64")
    holder = _holder(library)
    try:
        # Its path may contain a space, which LD_PRELOAD takes for the end.
        preloaded = Path(f"/proc/{holder.pid}/cwd/{library.name}")
        clocks = WallClocks(folder, preloaded, holder.pid)
        _try(clocks)
        yield clocks
    finally:
        holder.end()


def _holder(library: Path) -> Holder:
    """What creates the memory that all share, and removes it at its end.

    Raises:
        Unavailable: it does not start.
    """
    env = {name: text for name, text in os.environ.items() if name != _SHARED}
    try:
        return Holder(["cat"], library.parent, env | {"LD_PRELOAD": f"./{library.name}"})
    except Unavailable as error:
        raise Unavailable(f"libfaketime does not start: {_line(str(error))}") from error


def _try(clocks: WallClocks) -> None:
    """Check that a process sees another wall clock, and the monotonic one as it is.

    Raises:
        Unavailable: it does not.
    """
    file = clock_file(clocks.folder, "trial")
    file.write_text(f"+{_HOUR}\n")
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LOOKED],
            env={**os.environ, **clocks.environment("trial")},
            capture_output=True,
            check=False,
            timeout=_TRIAL,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"libfaketime: a process does not end in {_TRIAL:g} s") from error
    finally:
        file.unlink()
    complaint = _line(done.stderr.decode(errors="replace"))
    try:
        wall, monotonic = map(float, done.stdout.split())
    except ValueError:
        raise Unavailable(f"libfaketime: a process does not start: {complaint}") from None
    ahead, off = wall - time.time(), monotonic - time.monotonic()
    if not (abs(ahead - _HOUR) < _NEAR and abs(off) < _NEAR):
        seen = f"{ahead:.0f} s of {_HOUR} s, and the monotonic clock by {off:.0f} s"
        raise Unavailable(f"libfaketime sets the wall clock by {seen}: {complaint}")


def _line(output: str) -> str:
    """The first line of what a process said."""
    return output.strip().partition("\n")[0][:_SHOWN]
