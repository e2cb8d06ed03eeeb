"""The identity of a process: a pid alone is not enough, because the kernel reuses it.

A process is identified by its pid and its start time (`/proc/PID/stat`, field 22, in clock ticks
since boot; see proc(5)). Signals go through a pidfd opened before the identity is compared, so the
process that is compared is the process that is signalled.

Every process of a mesh, Triton's Python stubs included, also inherits `MARK` in its environment.
That finds processes missing from the state file: children that a killed supervisor had not
recorded yet.

Acts: os, signal.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "SIDECAR_LOCAL_MESH"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, distinct from later ones with its pid. `start` is in ticks since boot."""

    pid: int
    start: int


def identify(pid: int) -> Identity | None:
    """The identity of the process with this pid; None if there is none, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name is in parentheses, and may contain spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def alive(identity: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal exactly this process; False if it is gone.

    Raises:
        PermissionError: it belongs to another user.
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
    """All processes of this machine with the mesh's mark that this user may inspect."""
    wanted = f"{MARK}={mesh}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        found = identify(int(entry.name))
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if found and wanted in environment.split(b"\0") and alive(found):
            yield found
