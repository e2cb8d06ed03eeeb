"""Kills the processes of a cluster at its end, even after SIGKILL to the process that ran it.

Acts: signal, subprocess, time.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sidecar.local.processes.identity import marked, send
from sidecar.local.processes.process import remove_shared_memory
from sidecar.runtime.errors import Unavailable

_DEADLINE = 15.0  # seconds until killed processes are gone


@contextmanager
def cleanup_on_exit(mesh_id: str, shm_prefixes: Sequence[str]) -> Iterator[None]:
    """Kill all processes with this mesh's mark when the context or this process ends.

    Raises:
        Unavailable: at the end of the context, if one does not die.
    """
    command = [
        sys.executable,
        "-m",
        "sidecar.drill.cluster.cleanup_on_exit",
        mesh_id,
        *shm_prefixes,
    ]
    # Its own session: it survives a kill of this process's whole group.
    cleaner = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        cleaner.communicate()  # closes the pipe, for which it waits
        if cleaner.returncode:
            raise Unavailable("the cleanup could not kill all processes of the cluster")


def sweep(mesh_id: str, shm_prefixes: Sequence[str]) -> bool:
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
    return True


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    sys.exit(0 if sweep(sys.argv[1], sys.argv[2:]) else 1)
