"""Real processes to be frozen, killed and looked at by tests of injection."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WITHIN = 60.0
# A server that listens on a free port, which it prints, with two children.
_SERVER = """
import socket, subprocess, sys, time
door = socket.create_server(("127.0.0.1", 0))
children = [subprocess.Popen([sys.argv[1], "-c", "import time; time.sleep(600)"])
            for _ in range(2)]
print(door.getsockname()[1], *(child.pid for child in children), flush=True)
time.sleep(600)
"""


def state(pid: int) -> str:
    """The state of a process, such as S or T (stopped), see proc(5); empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def becomes(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + _WITHIN
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def server(folder: Path, name: str = "tritonserver") -> Iterator[tuple[int, int, list[int]]]:
    """A server under a name with two stubs: its port, its pid, and theirs."""
    programs = [folder / name, folder / "triton_python_backend_stub"]
    for program in programs:
        program.symlink_to(sys.executable)
    with subprocess.Popen(
        [programs[0], "-c", _SERVER, programs[1]],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        port, *stubs = map(int, process.stdout.readline().split())
        try:
            yield port, process.pid, stubs
        finally:
            for pid in (process.pid, *stubs):
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
