"""`local down` of a mesh whose supervisor was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.local import control
from sidecar.local.processes import cleanup, state_file
from sidecar.local.processes.identity import identify
from sidecar.local.processes.state_file import MeshState

pytestmark = pytest.mark.contract

# Holds the folder for a while after it has said so, as a child does that the supervisor was
# starting when it was killed.
_HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(1.5)
"""


def test_down_waits_until_what_a_killed_supervisor_leaves_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / cleanup.LOCK
    with (
        subprocess.Popen(["sleep", "600"]) as supervisor,
        subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(lock)], stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        found = identify(supervisor.pid)
        assert found
        state_file.save(tmp_path, MeshState("mesh", "running", found, (), (), ()))
        assert control.down(tmp_path)
        assert holder.wait() == 0
