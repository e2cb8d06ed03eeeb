"""Ends the processes of a cluster, even after the process that ran it was killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sidecar.local.processes.identity import marked, send
from sidecar.local.processes.process import remove_shared_memory
from tests.support.mesh.mesh_outside import ROOT

_DEADLINE = 15.0  # seconds for killed processes to vanish


@contextmanager
def warded(mesh_id: str, shm_prefixes: Sequence[str]) -> Iterator[None]:
    """Whatever carries the mark of this mesh ends with the context, or with this process."""
    command = [
        sys.executable,
        "-m",
        "tests.support.cluster.cleanup_on_exit",
        mesh_id,
        *shm_prefixes,
    ]
    # Its own session: it survives a kill of this process's whole group.
    warden = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        warden.communicate()  # closes the pipe, which is what it waits for
        assert warden.returncode == 0, "the warden could not end all of the cluster"


def sweep(mesh_id: str, shm_prefixes: Sequence[str]) -> bool:
    """Kill every marked process and remove its shared memory; False if some did not vanish."""
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
