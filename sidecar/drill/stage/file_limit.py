"""How large a file a process may write: read, lowered, and set back.

Acts: through what it imports or is given.
"""

import resource
from contextlib import suppress
from dataclasses import dataclass

from sidecar.local.processes.identity import Identity, alive, identify


@dataclass(frozen=True, slots=True)
class FileLimit:
    """A process, and its soft limit in bytes, which is -1 for none."""

    process: Identity
    soft: int

    def __str__(self) -> str:
        return f"{self.process.pid}:{self.process.start}:{self.soft}"


def parse(text: str) -> FileLimit:
    """A limit from its text, `PID:START:SOFT`."""
    pid, start, soft = map(int, text.split(":"))
    return FileLimit(Identity(pid, start), soft)


def read(pid: int) -> FileLimit | None:
    """The present limit of a process; None if it has ended."""
    process = identify(pid)
    if process is None:
        return None
    with suppress(ProcessLookupError):
        soft, _ = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        return FileLimit(process, soft)
    return None


def write(limit: FileLimit, soft: int) -> None:
    """Set the soft limit of exactly this process, or do nothing if it has ended."""
    pid = limit.process.pid
    if not alive(limit.process):
        return
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
