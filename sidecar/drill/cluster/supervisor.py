"""Supervises the parts of a cluster: restarts each after its end, as systemd would.

Acts: asyncio, os, signal.
"""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from sidecar.local.planning.plan import Part
from sidecar.local.processes.process import Process

_RESTART = 1.0  # seconds until a part that has ended is restarted


class Supervisor:
    """Runs one part, and restarts it after its end unless it is held down.

    `starts` counts its processes.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.starts = 0
        self._process: Process | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def run(self) -> None:
        """Run the part until cancelled, then kill it."""
        while True:
            await self._wanted.wait()
            self._process = Process(self.part)
            self.starts += 1
            try:
                await self._process.wait()
            except asyncio.CancelledError:
                await self._end(self._process)
                raise
            self._process = None
            await asyncio.sleep(_RESTART)

    @property
    def pid(self) -> int | None:
        """The pid, which is also its process group's id; None while it is not running."""
        return self._process.pid if self._process else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process; does nothing while it is not running."""
        if self._process:
            self._process.signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def hold_down(self) -> None:
        """Do not restart the part after its end until `release`."""
        self._wanted.clear()

    def release(self) -> None:
        """Undo `hold_down`."""
        self._wanted.set()

    async def _end(self, process: Process) -> None:
        process.kill()
        with suppress(asyncio.CancelledError):
            await process.wait()


async def supervise(supervisors: Iterable[Supervisor]) -> None:
    """Run supervisors until cancelled, or until one of them fails."""
    async with asyncio.TaskGroup() as tasks:
        for each in supervisors:
            tasks.create_task(each.run(), name=each.part.name)
