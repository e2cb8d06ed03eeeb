"""One part as a process: the leader of a separate session, with everything it starts in it.

A dead leader is not reaped until the rest of its group is killed. As long as it is a zombie, the
kernel cannot reuse its pid, which is also the group's id, so no other process is hit.

Acts: asyncio, os, signal, subprocess.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from sidecar.local.planning.plan import Part
from sidecar.local.processes.identity import Identity, identify
from sidecar.runtime.errors import PartMissing

_SHM = Path("/dev/shm")  # noqa: S108 -- where POSIX shared memory lives on Linux
_PAUSE = 0.02
# Seconds that a killed process may take to end; one that waits for a disk or GPU needs a while.
_KILL_TIMEOUT = 10.0


class Process:
    """A started part. Its output is appended to its log."""

    def __init__(self, part: Part) -> None:
        """Start it.

        Raises:
            PartMissing: the program cannot be started.
        """
        self._shm_prefix = part.shm_prefix
        remove_shared_memory(part.shm_prefix)
        try:
            with _opened(part) as log:
                self._child = subprocess.Popen(
                    part.argv,
                    env=dict(part.env),
                    cwd=part.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            what = f"{part.name}: {part.argv[0]} cannot be started"
            raise PartMissing(f"{what}: {error.strerror or error}") from error
        # Both are safe: the child at worst becomes a zombie until `wait` reaps it.
        try:
            self._handle = os.pidfd_open(self._child.pid)
        except OSError as error:  # too many open files
            self.kill()
            self._child.wait()
            raise PartMissing(f"{part.name}: {error.strerror or error}") from error
        self.identity = identify(self._child.pid)

    @property
    def pid(self) -> int:
        """The leader's pid, and the id of its session and process group."""
        return self._child.pid

    async def wait(self) -> int:
        """Wait until the leader has died; then kill its orphans and remove its shared memory.

        Returns its exit code, or minus the number of the signal that killed it.
        """
        dead = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._handle, dead.set)
        try:
            await dead.wait()
        finally:
            loop.remove_reader(self._handle)
        await self._kill_group_and_wait()
        os.close(self._handle)
        return self._child.wait()

    def terminate(self) -> None:
        """Ask the leader to stop; it is responsible for its children until it is dead."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a stopped process would not handle it

    def kill(self) -> None:
        """Kill the whole group, the leader included."""
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the leader alone; a dead one is ignored."""
        # Not Popen.send_signal, which reaps.
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    async def _kill_group_and_wait(self) -> None:
        self.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT):
                while any(members(self.pid)):  # noqa: ASYNC110 -- only the kernel knows
                    await asyncio.sleep(_PAUSE)
        remove_shared_memory(self._shm_prefix)


def _opened(part: Part) -> IO[bytes]:
    """The part's log, or /dev/null if it cannot be opened: a mesh survives a full disk."""
    try:
        part.log.parent.mkdir(parents=True, exist_ok=True)
        return part.log.open("ab")
    except OSError as error:
        what = f"{part.name}: it is running without its log {part.log}"
        print(f"{what}: {error.strerror or error}", file=sys.stderr)
        return Path(os.devnull).open("ab")


def members(group: int) -> Iterator[Identity]:
    """The living processes of a process group."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getpgid(int(entry.name)) != group:
                continue
        except ProcessLookupError:
            continue
        if found := identify(int(entry.name)):
            yield found


def shared_memory(prefix: str | None) -> list[Path]:
    """The shared memory regions whose names begin with the prefix."""
    if not prefix or not _SHM.is_dir():
        return []
    return [path for path in _SHM.iterdir() if path.name.startswith(prefix)]


def remove_shared_memory(prefix: str | None) -> None:
    """Remove those regions, once no process uses them."""
    for path in shared_memory(prefix):
        path.unlink(missing_ok=True)
