"""The end of parts that no supervisor reaps meanwhile.

Acts: os.
"""

import os
from pathlib import Path

from sidecar.drill.stage.waiting import until


def exit_status(pid: int) -> int | None:
    """The exit status of a process that is not reaped yet; None while it runs."""
    # Fields 3 and 52 of /proc/PID/stat, see proc(5); the latter is what wait(2) would give.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return os.waitstatus_to_exitcode(int(fields[49])) if fields[0] == "Z" else None


async def ended(pid: int) -> int:
    """Wait for the end of a part of an unsupervised mesh; gives its exit status.

    Raises:
        Unavailable: it does not end.
    """
    await until(lambda: exit_status(pid) is not None, f"the end of process {pid}")
    return exit_status(pid) or 0
