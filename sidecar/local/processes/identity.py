"""Which process is meant: a pid alone says nothing, because the kernel hands it out again.

A process is identified by its pid and its start time (`/proc/PID/stat`, field 22, in clock ticks
since boot; see proc(5)). Signals go through a pidfd opened before the identity is compared, so the
process that is compared is the process that is signalled.

Every process of a mesh, Triton's Python stubs included, also inherits `MARK` in its environment.
That finds what no record names: children that a killed supervisor had no time to write down.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "SIDECAR_LOCAL_MESH"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, never another one that got its pid later. `start` is in ticks since boot."""

    pid: int
    start: int


def identify(pid: int) -> Identity | None:
    """The identity of the process that has this pid now; None if none has, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal this very process; False if it is gone.

    Raises:
        PermissionError: it belongs to somebody else.
    """
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(identity):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def marked(mesh: str) -> Iterator[Identity]:
    """Every process of this machine that carries the mark of the mesh and that we may look at."""
    wanted = f"{MARK}={mesh}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        found = identify(int(entry.name))
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile, or of another user
            continue
        if found and wanted in environment.split(b"\0") and alive(found):
            yield found
