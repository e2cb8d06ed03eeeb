"""Kills the processes of a cluster at its end, even after SIGKILL to the process that ran it.

Acts: signal, subprocess, time.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sidecar.local.processes.identity import marked, send
from sidecar.local.processes.process import remove_shared_memory
from sidecar.runtime.errors import Unavailable

_FILES = "--"  # before the files among the arguments
_DEADLINE = 15.0  # seconds until killed processes are gone


@contextmanager
def cleanup_on_exit(
    mesh_id: str, shm_prefixes: Sequence[str], memory: Sequence[Path] = ()
) -> Iterator[None]:
    """Kill all processes with this mesh's mark when the context or this process ends.

    Args:
        mesh_id: the mesh's.
        shm_prefixes: of the names of their shared memory, which is removed.
        memory: further files that are removed.

    Raises:
        Unavailable: at the end of the context, if one does not die.
    """
    command = [
        sys.executable,
        "-m",
        "sidecar.drill.cluster.cleanup_on_exit",
        mesh_id,
        *shm_prefixes,
        _FILES,
        *map(str, memory),
    ]
    # Its own session: it survives a kill of this process's whole group.
    cleaner = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        cleaner.communicate()  # closes the pipe, for which it waits
        if cleaner.returncode:
            raise Unavailable("the cleanup could not kill all processes of the cluster")


def sweep(mesh_id: str, shm_prefixes: Sequence[str], memory: Sequence[Path] = ()) -> bool:
    """Kill every marked process and remove its shared memory; False if one is still there."""
    deadline = time.monotonic() + _DEADLINE
    while left := list(marked(mesh_id)):
        if time.monotonic() > deadline:
            return False
        for identity in left:
            send(identity, signal.SIGKILL)
        time.sleep(0.1)
    for prefix in shm_prefixes:
        remove_shared_memory(prefix)
    for file in memory:
        file.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    [mesh_id, *rest] = sys.argv[1:]
    [prefixes, files] = rest[: rest.index(_FILES)], rest[rest.index(_FILES) + 1 :]
    sys.exit(0 if sweep(mesh_id, prefixes, [Path(file) for file in files]) else 1)
